"""Questions in words, understood through the dictionaries."""

from __future__ import annotations

import pytest

from ctglip.errors import VocabularyError
from ctglip.inference.questions import parse_question
from ctglip.inference.scoring import Dictionaries
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

BOTH = Dictionaries(load_organs(), load_abnormalities())


@pytest.mark.parametrize(
    ("text", "organs", "abnormality"),
    [
        ("liver: fatty liver", ("liver",), "hepatic_steatosis"),
        ("Liver: hepatic_steatosis", ("liver",), "hepatic_steatosis"),
        ("the left kidney : cysts", ("kidney_left",), "renal_cyst"),
        ("gallstones?", ("gallbladder",), "gallstone"),
        ("Are there any gallstones?", ("gallbladder",), "gallstone"),
        ("splenomegaly", ("spleen",), "splenomegaly"),
        ("Is there a cyst in the right kidney?", ("kidney_right",), "renal_cyst"),
        ("left pleural effusion?", ("pleura_left",), "pleural_effusion"),
        ("pericardial effusion", ("pericardium",), "pericardial_effusion"),
        ("anything abnormal in the left kidney?", ("kidney_left",), None),
        ("What is wrong with the spleen?", ("spleen",), None),
        ("spleen", ("spleen",), None),
        ("liver: anything", ("liver",), None),
    ],
)
def test_forms_of_a_question(text: str, organs: tuple[str, ...], abnormality: str | None) -> None:
    found = parse_question(text, BOTH)
    assert (found.organs, found.abnormality, found.text) == (organs, abnormality, text)


def test_a_pair_is_asked_side_by_side_where_only_its_sides_are_known() -> None:
    sides = ("kidney_left", "kidney_right")
    assert parse_question("kidney stones?", BOTH, known_organs=sides).organs == sides
    assert parse_question("kidney stones?", BOTH, known_organs=("kidneys", *sides)).organs == ("kidneys",)
    assert parse_question("left kidney: stone", BOTH, known_organs=sides).organs == ("kidney_left",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("livr: cyst", "liver"),
        ("gallstoness of doom?", "gallstones"),
        ("spleen: gallstone", "not an abnormality of the spleen"),
        ("is there anything?", "is not an organ or abnormality"),
        ("", "is not an organ or abnormality"),
        ("liver cyst and zebra", "zebra"),
    ],
)
def test_what_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(VocabularyError) as caught:
        parse_question(text, BOTH)
    assert caught.value.code == "unknown_question"
    assert said in str(caught.value)
