"""Questions in words, understood through the dictionaries."""

from __future__ import annotations

import pytest

from ctglip.errors import VocabularyError
from ctglip.inference.questions import organ_in, understand
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
    found = understand(text, BOTH)
    assert found.text == text
    assert [(ask.organs, ask.abnormality, ask.denied) for ask in found.pairs] == [(organs, abnormality, False)]


def test_a_pair_is_asked_side_by_side_where_only_its_sides_are_known() -> None:
    sides = ("kidney_left", "kidney_right")
    assert asked("kidney stones?", sides) == [(sides, "renal_stone", False)]
    assert asked("kidney stones?", ("kidneys", *sides)) == [(("kidneys",), "renal_stone", False)]
    assert asked("left kidney: stone", sides) == [(("kidney_left",), "renal_stone", False)]


def asked(text: str, known: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str | None, bool]]:
    return [(ask.organs, ask.abnormality, ask.denied) for ask in understand(text, BOTH, known).pairs]


@pytest.mark.parametrize(
    "text", ["any abnormality?", "Is the scan normal?", "anything wrong?", "any findings", "is everything normal?"]
)
def test_everything_is_asked_where_nothing_is_named(text: str) -> None:
    assert asked(text) == [((), None, False)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("does the patient have ascites?", [("peritoneum", "ascites", False)]),
        ("is there a stone in the left kidney", [("kidney_left", "renal_stone", False)]),
        ("free air?", [("peritoneum", "pneumoperitoneum", False)]),
        ("free fluid in the abdomen", [("peritoneum", "ascites", False)]),
        ("rule out appendicitis", [("appendix", "appendicitis", False)]),
        ("does she have metastases to the liver?", [("liver", "liver_metastasis", False)]),
        ("is the spleen enlarged?", [("spleen", "splenomegaly", False)]),
        ("no gallstones", [("gallbladder", "gallstone", True)]),
        ("absence of gallstones", [("gallbladder", "gallstone", True)]),
        ("abdomen free of fluid", [("peritoneum", "ascites", True)]),
        ("negative for appendicitis", [("appendix", "appendicitis", True)]),
        ("liver: no cyst", [("liver", "liver_cyst", True)]),
        ("no effusion or pneumothorax", [("pleura", "pleural_effusion", True), ("pleura", "pneumothorax", True)]),
        ("liver cyst and gallstones", [("liver", "liver_cyst", False), ("gallbladder", "gallstone", False)]),
        ("fatty liver but no gallstones", [("liver", "hepatic_steatosis", False), ("gallbladder", "gallstone", True)]),
        ("cyst in the liver and spleen", [("liver", "liver_cyst", False), ("spleen", "splenic_cyst", False)]),
        ("stone or cyst in the right kidney",
         [("kidney_right", "renal_stone", False), ("kidney_right", "renal_cyst", False)]),
        ("right effusion and left pneumothorax",
         [("pleura_right", "pleural_effusion", False), ("pleura_left", "pneumothorax", False)]),
        ("liver: mass or cyst", [("liver", "liver_mass", False), ("liver", "liver_cyst", False)]),
    ],
)  # fmt: skip
def test_questions_in_natural_words(text: str, wanted: list[tuple[str, str, bool]]) -> None:
    assert asked(text) == [((organ,), name, denied) for organ, name, denied in wanted]


def test_what_no_answer_speaks_of_is_said() -> None:
    assert understand("large left pleural effusion", BOTH).unasked == ("large",)
    assert understand("12 mm nodule in the right lung", BOTH).unasked == ("12", "mm")
    assert understand("enlarged lymph nodes", BOTH).unasked == ()


@pytest.mark.parametrize(
    ("text", "organs", "sentence"),
    [
        ("liver: It shows a large mass.", ("liver",), "It shows a large mass."),
        ("There is a large mass in the left kidney.", ("kidney_left",), "There is a large mass in the left kidney."),
    ],
)
def test_a_sentence_of_ones_own_names_its_organ(text: str, organs: tuple[str, ...], sentence: str) -> None:
    assert organ_in(text, BOTH) == (organs, sentence)


@pytest.mark.parametrize(
    ("text", "said"), [("It is dark.", "no organ"), ("The liver and the spleen are large.", "several organs")]
)
def test_a_sentence_without_one_organ_is_refused(text: str, said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        organ_in(text, BOTH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("livr: cyst", "liver"),
        ("gallstoness of doom?", "gallstones"),
        ("spleen: gallstone", "not an abnormality of the spleen"),
        ("is there one?", "is not an organ or abnormality"),
        ("does she?", "is not an organ or abnormality"),
        ("galstones?", "gallstones"),
        ("plural effusin", "effusion"),
        ("is the liver large?", "large"),
        ("gallstones and spleen", "gallstone is not an abnormality of the spleen"),
        ("liver: cyst and zebra", "zebra"),
        ("", "is not an organ or abnormality"),
        ("liver cyst and zebra", "zebra"),
    ],
)
def test_what_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(VocabularyError) as caught:
        understand(text, BOTH)
    assert caught.value.code == "unknown_question"
    assert said in str(caught.value)
