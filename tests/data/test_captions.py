"""What may be said of an organ, and what may not."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctglip.data.captions import NO_TEXT, OrganCaptions, draw_text
from ctglip.data.false_texts import Negatives
from ctglip.reports.parser import ReportParser
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import negative_prompts
from tests.data.plain_captions import CaptionBook

ORGANS, ABNORMALITIES = load_organs(), load_abnormalities()
PARSER = ReportParser()


@pytest.fixture
def book() -> CaptionBook:
    return CaptionBook(ORGANS, ABNORMALITIES)


def said(book: CaptionBook, report: str, organ: str) -> OrganCaptions:
    return book.add(PARSER.parse(f"FINDINGS: {report}"), organ)


def drawn(book: CaptionBook, captions: OrganCaptions, count: int = 60) -> set[str]:
    rng = np.random.default_rng(0)
    return {book.texts[draw_text(captions, 0.5, rng, {})[0]] for _ in range(count)}


def negatives(
    book: CaptionBook,
    captions: OrganCaptions,
    count: int,
    report_wording: float = 0.5,
    seed: int = 0,
    strategy: Strategy = "same_organ",
) -> list[str]:
    wordings = {(captions.organ, n): book.paraphrases(captions.organ, n) for n in (*captions.hard, *captions.others)}
    found = Negatives(wordings, strategy).draw(captions, count, report_wording, np.random.default_rng(seed))
    return [book.texts[number] for number in found if number != NO_TEXT]


def test_an_affirmed_finding_is_said_in_both_wordings(book: CaptionBook) -> None:
    captions = said(book, "A simple cyst is seen in the left lobe of the liver.", "liver")
    texts = drawn(book, captions)
    assert captions.kind == "abnormal"
    assert "A simple cyst is seen in the left lobe of the liver." in texts
    assert len(texts) > 1
    assert all("cyst" in text.lower() for text in texts)


def test_a_normal_organ_is_called_normal_and_free_of_what_it_could_have(book: CaptionBook) -> None:
    said(book, "There is splenomegaly.", "spleen")
    captions = said(book, "The spleen is unremarkable. Gallstones are present.", "spleen")
    texts = drawn(book, captions, 200)
    assert captions.kind == "normal"
    assert "The spleen is unremarkable." in texts
    assert any("splenomegaly" in text.lower() or "enlarge" in text.lower() for text in texts)
    assert not any("gall" in text.lower() for text in texts)
    assert len({statement.key for statement in captions.captions}) == 1


def test_what_is_denied_of_a_normal_organ_follows_what_is_affirmed_of_others_so_far(book: CaptionBook) -> None:
    normal = (PARSER.parse("FINDINGS: The liver is normal."), "liver")
    (alone,) = book.add_all([normal])
    (beside, _) = book.add_all([normal, (PARSER.parse("FINDINGS: Fatty liver."), "liver")])
    denials = [[{book.texts[n] for n in caption.dictionary} for caption in one.captions[1:]] for one in (alone, beside)]
    denied = set(negative_prompts(ABNORMALITIES["hepatic_steatosis"], ORGANS["liver"]))
    assert len(denials[0]) == 1
    assert denied < denials[0][0]
    assert denials[1] == [denied, denials[0][0] - denied]


def test_silence_gives_no_text_unless_it_means_normal(book: CaptionBook) -> None:
    silent = said(book, "Gallstones are present.", "spleen")
    assert silent.kind == "silent"
    assert draw_text(silent, 0.5, np.random.default_rng(0), {}) == (NO_TEXT, NO_TEXT)
    lenient = CaptionBook(ORGANS, ABNORMALITIES, unmentioned_as_negative=True)
    assert said(lenient, "Gallstones are present.", "spleen").kind == "normal"


def test_an_uncertain_organ_is_neither_normal_nor_abnormal(book: CaptionBook) -> None:
    assert said(book, "Possible small cyst in the liver.", "liver").kind == "silent"


def test_normal_texts_of_one_organ_share_a_key_and_those_of_two_organs_do_not(book: CaptionBook) -> None:
    first = said(book, "The spleen is unremarkable.", "spleen").captions[0].key
    second = said(book, "Normal spleen.", "spleen").captions[0].key
    liver = said(book, "The liver is unremarkable.", "liver").captions[0].key
    assert first == second != liver


def test_the_same_findings_share_a_key_and_others_do_not(book: CaptionBook) -> None:
    keys = [
        said(book, text, "kidney_left").captions[0].key
        for text in ("Cyst in the left kidney.", "There is a left renal cyst.", "Left renal stone.")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_several_findings_are_said_one_by_one_and_together(book: CaptionBook) -> None:
    captions = said(book, "There is a left renal cyst. Stone in the left kidney.", "kidney_left")
    assert set(captions.affirmed) == {"renal_cyst", "renal_stone"}
    assert len({statement.key for statement in captions.captions}) == 3
    assert "There is a left renal cyst. Stone in the left kidney." in drawn(book, captions)


def test_negatives_are_never_true_and_denied_ones_come_first(book: CaptionBook) -> None:
    said(book, "Multiple calculi fill the left kidney.", "kidney_left")
    said(book, "Hydronephrosis of the left kidney.", "kidney_left")
    captions = said(book, "There is a left renal cyst. No hydronephrosis of the left kidney.", "kidney_left")
    assert "hydronephrosis" in captions.hard
    assert not {"renal_cyst", "cyst", "lesion"} & {*captions.hard, *captions.others}
    first = [text for seed in range(10) for text in negatives(book, captions, 1, seed=seed)]
    assert first
    assert all(any(word in text.lower() for word in ("hydro", "dilat", "collecting", "pelvi")) for text in first)
    everything = {text for seed in range(30) for text in negatives(book, captions, 20, seed=seed)}
    assert not any("cyst" in text.lower() for text in everything)
    assert "Multiple calculi fill the left kidney." in everything
    assert "Multiple calculi fill the left kidney." not in negatives(book, captions, 20, report_wording=0.0)


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_what_no_report_affirms_is_no_negative(book: CaptionBook, strategy: Strategy) -> None:
    captions = said(book, "The spleen is unremarkable. No splenomegaly.", "spleen")
    assert not negatives(book, captions, 20, strategy=strategy)
    said(book, "The spleen is enlarged.", "spleen")
    found = negatives(book, captions, 20, strategy=strategy)
    assert bool(found) == (strategy not in ("none", "batch"))
    assert all("spl" in text.lower() for text in found)


def test_confusable_prefers_what_is_easily_mistaken(book: CaptionBook) -> None:
    for report in ("A liver metastasis is seen.", "Hepatic steatosis."):
        said(book, report, "liver")
    captions = said(book, "There is a cyst in the liver.", "liver")
    assert "liver_metastasis" in captions.near
    assert "hepatic_steatosis" not in captions.near
    shares = {
        strategy: sum("metasta" in text.lower() for text in negatives(book, captions, 400, strategy=strategy)) / 400
        for strategy in ("same_organ", "confusable")
    }
    assert shares["confusable"] > 1.4 * shares["same_organ"]


def test_random_reaches_other_organs_and_nothing_that_the_report_affirms_there(book: CaptionBook) -> None:
    report = "There is a cyst in the liver. Left pleural effusion."
    said(book, "Splenomegaly.", "spleen")
    elsewhere = said(book, report, "pleura_left")
    captions = said(book, report, "liver")
    every = [said(book, "The spleen is unremarkable.", "spleen"), elsewhere, captions]
    wordings = {(o.organ, n): book.paraphrases(o.organ, n) for o in every for n in (*o.hard, *o.others)}
    found = Negatives(wordings, "random").draw(captions, 40, 0.5, np.random.default_rng(0))
    texts = {book.texts[number].lower() for number in found}
    assert all("splen" in text or "spleen" in text for text in texts)


LISTED = ("liver", "kidney_left", "lungs")
reports = st.lists(
    st.lists(
        st.builds(
            lambda pair, status: Finding(0, "findings", f"{pair} {status}", pair[0], pair[1], status),
            st.sampled_from([pair for pair in ABNORMALITIES.pairs() if pair[0] in LISTED]),
            st.sampled_from(("affirmed", "negated", "uncertain", "historical", "normal")),
        ),
        max_size=5,
    ),
    min_size=2,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    reports, st.sampled_from(("liver", "kidney_left", "lungs")), st.integers(0, 99), st.sampled_from(get_args(Strategy))
)
def test_no_negative_claims_anything_that_may_be_true(
    every: list[list[Finding]], organ: str, seed: int, strategy: Strategy
) -> None:
    book = CaptionBook(ORGANS, ABNORMALITIES)
    found = book.add_all([(rows, organ) for rows in every])
    wordings = {(organ, n): book.paraphrases(organ, n) for s in found for n in (*s.hard, *s.others)}
    claims = {
        text: c.names
        for w in wordings.values()
        for c in w.finding_texts
        for s in c.captions
        for text in (*s.report, *s.dictionary)
    }
    shared = Negatives(wordings, strategy)
    for rows, captions in zip(every, found, strict=True):
        drawn = shared.draw(captions, 6, 0.5, np.random.default_rng(seed))
        again = Negatives(wordings, strategy).draw(captions, 6, 0.5, np.random.default_rng(seed))
        assert drawn.tolist() == again.tolist()
        evidence = organ_evidence(rows, organ, ORGANS, ABNORMALITIES)
        said_here = {*evidence.affirmed, *evidence.uncertain}
        for number in drawn[drawn != NO_TEXT]:
            assert not {n for n in claims[int(number)] if ABNORMALITIES.related(n) & said_here}
        hard = [bool(claims[int(n)] & set(captions.hard)) for n in drawn if n != NO_TEXT]
        denied = {c.names for w in wordings.values() for c in w.finding_texts if c.names <= set(captions.hard)}
        assert all(hard[: len(denied)])


def test_a_text_that_is_taken_is_avoided_where_there_is_another(book: CaptionBook) -> None:
    captions = said(book, "The spleen is unremarkable.", "spleen")
    rng = np.random.default_rng(0)
    taken: dict[int, int] = {}
    for _ in range(8):
        text, key = draw_text(captions, 0.5, rng, taken)
        taken[text] = key
    assert len(taken) >= 7


def test_what_is_kept_of_negatives_changes_nothing(book: CaptionBook, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = [("Splenomegaly.", "spleen"), ("Splenic cyst.", "spleen"), ("No splenomegaly.", "spleen")]
    captions = book.add_all([(PARSER.parse(f"FINDINGS: {text}"), organ) for text, organ in reports])
    wordings = {("spleen", n): book.paraphrases("spleen", n) for s in captions for n in (*s.hard, *s.others)}
    order = [0, 1, 2, 1, 0, 2]

    def drawn(kept: int) -> list[list[int]]:
        monkeypatch.setattr("ctglip.data.false_texts._REMEMBERED", kept)
        negatives, rng = Negatives(wordings), np.random.default_rng(0)
        return [negatives.draw(captions[number], 4, 0.5, rng).tolist() for number in order]

    assert drawn(1) == drawn(10_000)
    assert any(number != NO_TEXT for numbers in drawn(1) for number in numbers)
