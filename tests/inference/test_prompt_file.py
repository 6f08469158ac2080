"""Prompts of one's own: read, filled, and refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.errors import ConfigError, VocabularyError
from ctglip.inference.prompt_file import read_prompts
from ctglip.inference.scoring import Dictionaries
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs


@pytest.fixture(scope="module")
def dictionaries() -> Dictionaries:
    return Dictionaries(load_organs(), load_abnormalities())


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "prompts.yaml").write_text(text)
    return tmp_path / "prompts.yaml"


def test_placeholders_are_filled_for_each_organ(tmp_path: Path, dictionaries: Dictionaries) -> None:
    path = written(
        tmp_path,
        "liver:hepatic_steatosis: {positive: ['Fatty {organ}.'], negative: ['The {organ} {is} dense.']}\n"
        "renal_cyst: {positive: ['A cyst in the {organ}.']}\n",
    )
    found = read_prompts(path, dictionaries)
    assert found["liver", "hepatic_steatosis"] == (("Fatty liver.",), ("The liver is dense.",))
    assert found["kidney_left", "renal_cyst"] == (("A cyst in the left kidney.",), ())
    assert found["kidney_right", "renal_cyst"] == (("A cyst in the right kidney.",), ())


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("liver:purple: {positive: [x]}", VocabularyError, "purple"),
        ("spleen:hepatic_steatosis: {positive: [x]}", VocabularyError, "not an abnormality of the spleen"),
        ("gallstone: {yes: [x]}", ConfigError, "no prompt file"),
        ("gallstone: {positive: ['{what}']}", ConfigError, "placeholder"),
        ("- a", ConfigError, "no prompt file"),
    ],
)
def test_faults_are_named(
    tmp_path: Path, dictionaries: Dictionaries, text: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_prompts(written(tmp_path, text), dictionaries)
