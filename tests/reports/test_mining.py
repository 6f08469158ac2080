"""Mining reports for what the dictionary lacks: found with organ, status and examples; nothing that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.files import parse_yaml, read_yaml, write_json
from ctglip.reports.mining import Proposal, mine, proposals_text
from ctglip.reports.parser import ReportParser, get_parser
from ctglip.resources import resource
from ctglip.types import Report
from ctglip.vocabulary.abnormalities import Abnormality, load_abnormalities
from ctglip.vocabulary.organs import load_organs

UNKNOWN = [
    "A quandoma is seen in the liver. The spleen is normal.",
    "There is a quandoma of the liver measuring 12 mm.",
    "No quandoma in the liver. Small renal cyst on the left.",
    "The kidneys show no zorbitis. Possible quandoma of the liver.",
    "Findings are consistent with zorbitis of the right kidney.",
]


def _mined(texts: list[str], fewest: int = 2, parser: ReportParser | None = None) -> dict[str, Proposal]:
    reports = [(f"s{number}", Report(findings=text)) for number, text in enumerate(texts)]
    return {proposal.phrase: proposal for proposal in mine(reports, parser or get_parser(), fewest)}


def test_unknown_words_are_proposed_with_their_organ_status_and_examples() -> None:
    found = _mined(UNKNOWN)
    assert set(found) == {"quandoma", "zorbitis"}
    assert list(found) == ["quandoma", "zorbitis"]
    quandoma = found["quandoma"]
    assert quandoma.studies == 4
    assert quandoma.statuses == {"affirmed": 2, "negated": 1, "uncertain": 1}
    assert quandoma.organs == ("liver",)
    assert quandoma.examples[0] == "A quandoma is seen in the liver."
    assert len(quandoma.examples) == 3
    assert found["zorbitis"].organs == ("kidneys",)


def test_a_phrase_of_too_few_reports_is_not() -> None:
    assert set(_mined(UNKNOWN, fewest=3)) == {"quandoma"}
    assert _mined([UNKNOWN[0] + " " + UNKNOWN[0].replace("liver", "spleen")] * 1) == {}


def test_nothing_that_the_dictionary_knows_is_proposed() -> None:
    known = [
        "There is hepatic steatosis. No pleural effusion. Both kidneys are normal in size and contour.",
        "Mild bibasilar atelectasis was observed. The gallbladder is surgically absent.",
        "Findings are consistent with emphysema in the upper lobes. No pathologically enlarged lymph nodes.",
    ]
    assert _mined(known * 3) == {}


def test_words_that_only_describe_a_known_finding_are_passed_over() -> None:
    assert _mined(["There is a zorbal consolidation in the left lower lobe."] * 3) == {}
    assert set(_mined(["There is a consolidation, atelectasis and zorbosis of the left lower lobe."] * 3)) == {
        "zorbosis"
    }


def test_the_longer_phrase_stands_for_a_part_that_is_never_alone() -> None:
    assert set(_mined(["There is a quand zorboma of the liver."] * 3)) == {"quand zorboma"}
    apart = ["There is a quand zorboma of the liver."] + ["There is a zorboma of the liver."] * 9
    assert set(_mined(apart, fewest=1)) == {"zorboma"}


def test_a_near_word_names_the_entry_it_may_belong_to() -> None:
    assert _mined(["There is a hemangiomatosis of the liver."] * 3)["hemangiomatosis"].nearest is not None
    assert _mined(UNKNOWN)["quandoma"].nearest is None


@pytest.mark.parametrize(
    ("entry", "sentence", "organ"),
    [
        ("gynecomastia", "Gynecomastia was observed in both breasts.", "breasts"),
        ("pneumomediastinum", "There is pneumomediastinum.", None),
        ("bronchiectasis", "Bronchiectasis is seen in the right lower lobe.", "lungs"),
    ],
)
def test_an_entry_taken_out_of_the_dictionary_is_proposed_again(
    entry: str, sentence: str, organ: str | None, tmp_path: Path
) -> None:
    tree = read_yaml(resource("abnormality_dictionary", "abnormalities.yaml"))
    del tree["abnormalities"][entry]
    write_json(tmp_path / "abnormalities.yaml", tree)
    parser = ReportParser(load_organs(), load_abnormalities(tmp_path / "abnormalities.yaml"))
    found = _mined([sentence] * 3, parser=parser)
    assert entry in found
    assert organ is None or organ in found[entry].organs


def test_proposals_are_yaml_with_an_entry_that_the_dictionary_can_take(tmp_path: Path) -> None:
    proposals = tuple(_mined(UNKNOWN).values())
    tree = parse_yaml(proposals_text(proposals, len(UNKNOWN)))
    assert [proposal["name"] for proposal in tree["proposals"]] == ["quandoma", "zorbitis"]
    first = tree["proposals"][0]
    assert (first["studies"], first["statuses"]["negated"]) == (4, 1)
    accepted = Abnormality(name=first["name"], **first["entry"])
    assert accepted.organs == ("liver",)


def test_no_reports_give_no_proposals_and_progress_counts_reports() -> None:
    seen: list[int] = []
    assert mine([], get_parser()) == ()
    mine([("a", Report(findings="...")), ("b", Report(impression="Nothing."))], get_parser(), 1, seen.append)
    assert seen == [1, 2]
