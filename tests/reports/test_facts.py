"""Reports as facts that are compared, and passages that the dictionaries contradict."""

from __future__ import annotations

import pytest

from ctglip.reports.contradictions import check_passage, first_sound
from ctglip.reports.facts import FactReader, ReportFact, compare_facts
from ctglip.reports.parser import get_parser
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
READER = FactReader(("liver", "kidney_left", "kidney_right", "lung_left", "lung_right"), ORGANS, load_abnormalities())


def facts(text: str) -> frozenset[ReportFact]:
    return READER.facts(get_parser().parse(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a cyst in the left kidney.", {("kidney_left", "renal_cyst", "affirmed", "left")}),
        ("No renal stones.", {(f"kidney_{side}", "renal_stone", "negated", side) for side in ("left", "right")}),
        ("Nodule in the right upper lobe.", {("lung_right", "lung_nodule", "affirmed", "right")}),
        ("The liver is unremarkable.", {("liver", "", "normal", None)}),
        ("Possible hepatic steatosis.", {("liver", "hepatic_steatosis", "uncertain", None)}),
        ("The spleen is enlarged.", set()),
        ("INDICATION: Liver cyst.", set()),
    ],
)
def test_findings_become_facts_of_the_organs_that_are_read(text: str, expected: set) -> None:
    assert facts(text) == {ReportFact(*one) for one in expected}


def test_the_strongest_statement_counts() -> None:
    assert {one.status for one in facts("No liver cyst. A cyst of the liver is seen.")} == {"affirmed"}


def test_agreement_is_counted_side_by_side() -> None:
    truth = facts("Cyst in the left kidney. The liver is unremarkable. Possible nodule in the left lung.")
    stated = facts("Cyst in the right kidney. The liver is unremarkable. Nodule in the left lung.")
    found = compare_facts(stated, truth)
    assert (found.stated, found.true, found.right) == (3, 3, 1)
    assert (found.affirmed, found.true_affirmed, found.right_affirmed) == (1, 1, 0), "what is doubtful is left out"
    same = compare_facts(truth, truth)
    assert (same.stated, same.right, same.right_affirmed) == (3, 3, 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("There is a cyst in the left kidney.", ""),
        ("There is a cyst in the right kidney.", "it speaks of the right kidney"),
        ("The spleen is enlarged.", "it speaks of the spleen"),
        ("Lorem ipsum dolor.", "nothing in it is known of this organ"),
    ],
)
def test_what_a_sentence_may_not_say(text: str, fault: str) -> None:
    assert [one.fault for one in check_passage(text, "kidney_left", get_parser())] == [fault]


@pytest.mark.parametrize(
    "text",
    [
        "No cyst in the left kidney. There is a cyst in the left kidney.",
        "There is a cyst in the left kidney. No cyst in the left kidney.",
        "The left kidney is unremarkable. There is a cyst in the left kidney.",
        "There is a cyst in the left kidney. The left kidney is unremarkable.",
        "The kidneys are unremarkable. There is a cyst in the left kidney.",
        "There is a stone in the left kidney. No renal stones.",
    ],
)
def test_a_sentence_may_not_go_against_one_before(text: str) -> None:
    first, second = check_passage(text, "kidney_left", get_parser())
    assert first.fault == ""
    assert second.fault


def test_parts_of_an_organ_do_not_contradict_each_other() -> None:
    text = "Nodule in the right upper lobe. No nodule in the right lower lobe. No nodule in the right lung."
    faults = [one.fault for one in check_passage(text, "lung_right", get_parser())]
    apart = "The lungs are clear except for a nodule in the right upper lobe."
    assert [one.fault for one in check_passage(apart, "lung_right", get_parser())] == [""]
    assert faults == ["", "", "pulmonary nodule is affirmed and denied"]


def test_the_first_sound_passage_is_taken() -> None:
    wrong, right = "The spleen is enlarged.", "There is a cyst in the left kidney."
    assert first_sound([wrong, right], "kidney_left", get_parser()) == right
    assert first_sound([f"{right} {wrong}"], "kidney_left", get_parser()) == right
    assert first_sound([wrong], "kidney_left", get_parser()) == ""
