"""An image that is encoded once is asked as often as one likes, in this process or another."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.api import load_model
from ctglip.errors import ModelError
from ctglip.inference.encoded_study import load_study, save_study
from ctglip.store.tables import Store

QUESTIONS = ("liver: fatty liver", "spleen", "left kidney: cyst", "gallstones?")


def test_answers_are_those_of_a_query(trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path) -> None:
    model, (scan, masks) = load_model(trained[1]), files
    steps: list[str] = []
    study = model.encode_study(scan, masks=masks, begin=steps.append)
    assert steps == ["read", "segment", "encode"]
    save_study(study, tmp_path / "study")
    kept = load_study(tmp_path / "study")
    wanted = model.query(scan, QUESTIONS, masks, prompts=["liver: The liver is dark."])
    for one in (study, kept):
        found = model.answer(one, QUESTIONS, prompts=["liver: The liver is dark."])
        assert found.to_json() == wanted.to_json()
    maps = [list(model.heat_maps(one)) for one in (wanted, model.answer(kept, QUESTIONS))]
    assert len(maps[0]) == len(maps[1]) > 0
    for a, b in zip(*maps, strict=True):
        assert (a.values == b.values).all()


def test_an_organ_that_was_not_encoded_is_encoded_when_it_is_asked_about(
    trained: tuple[Store, Path], files: tuple[Path, Path]
) -> None:
    model = load_model(trained[1])
    study = model.encode_study(files[0], ["liver"], files[1])
    (answer,) = model.answer(study, ["spleen: splenomegaly"]).answers
    assert answer.probability == model.query(files[0], ["spleen: splenomegaly"], files[1]).answers[0].probability
    assert "not trained on" in model.answer(study, ["gallstones?"]).answers[0].reason


def test_a_folder_without_a_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not encoded"):
        load_study(tmp_path)
