"""Tags: ASG's 40 and ECAMP's list, affirmed, denied or unsaid."""

from __future__ import annotations

import pytest

from ctglip.reports.parser import get_parser
from ctglip.reports.tags import ABSENT, PRESENT, UNSAID, Tagger, tag_entries
from ctglip.types import Report
from ctglip.vocabulary.abnormalities import load_abnormalities


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger("tags")


def states(tagger: Tagger, findings: str) -> dict[str, int]:
    rows = get_parser().parse(Report(findings=findings, indication="Rule out pneumonia."))
    return dict(zip(tagger.names, tagger.tags(rows).tolist(), strict=True))


def test_the_lists_are_whole_and_refer_to_the_dictionary() -> None:
    assert len(tag_entries("tags")) == 40
    assert next(iter(tag_entries("tags"))) == "pleural effusion"
    assert list(tag_entries("tags"))[-1] == "aspiration"
    assert len(tag_entries("entities")) == 44
    abnormalities = load_abnormalities()
    for name in ("tags", "entities"):
        for tag, entry in tag_entries(name).items():
            assert entry.abnormalities or entry.words, tag
            assert all(other in abnormalities for other in entry.abnormalities), tag


def test_present_absent_and_unsaid(tagger: Tagger) -> None:
    found = states(tagger, "Moderate cardiomegaly. No pneumothorax or pleural effusion. A left PICC line is seen.")
    assert found["cardiomegaly"] == PRESENT
    assert found["pneumothorax"] == ABSENT
    assert found["pleural effusion"] == ABSENT
    assert found["line"] == PRESENT
    assert found["pneumonia"] == UNSAID, "the indication says nothing of the radiograph"
    assert found["hernia"] == UNSAID


def test_words_without_an_entry_in_the_dictionary(tagger: Tagger) -> None:
    found = states(tagger, "The endotracheal tube tip is above the carina. No pacemaker. Sternotomy wires are intact.")
    assert (found["tube"], found["tip"], found["wire"]) == (PRESENT, PRESENT, PRESENT)
    assert found["pacemaker"] == ABSENT


def test_present_wins_over_absent_and_doubt_is_unsaid(tagger: Tagger) -> None:
    found = states(tagger, "No right pleural effusion. Small left pleural effusion. Possible pneumonia.")
    assert found["pleural effusion"] == PRESENT
    assert found["pneumonia"] == UNSAID


def test_entities(tagger: Tagger) -> None:
    found = states(Tagger("entities"), "The cardiomediastinal silhouette is normal. There is no effusion.")
    assert found["effusion"] == ABSENT
    assert found["silhouette"] != UNSAID
