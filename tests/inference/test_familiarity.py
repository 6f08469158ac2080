"""What lies outside of training is answered as such, in values, words and pages; so is what was never taught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctglip.cli.answers import answer_lines
from ctglip.data.organs import studies_of
from ctglip.evaluation.familiarity import as_statistics, fit_familiarity
from ctglip.inference.answerer import NOT_MEASURED
from ctglip.inference.feature_cache import organ_features_of
from ctglip.inference.page import answers_page
from ctglip.inference.pipeline import Pipeline
from ctglip.models.release import Release, load_release, save_release
from ctglip.pages.answers import render
from ctglip.store.tables import Store
from ctglip.types import LabelMap, Scan

Trained = tuple[Store, Path]
Files = tuple[Path, Path]
QUESTIONS = ["liver: fatty liver", "splenomegaly?", "cyst in the left kidney"]
ORGANS = ("liver", "spleen", "kidney_left")


@pytest.fixture
def measured(trained: Trained) -> Release:
    """The tiny model with what is known of 20 studies, limits from the other 10, and a calibration."""
    store, run = trained
    release = load_release(run)
    ids = store.study_ids
    train, val = (
        organ_features_of(store, release, some, ORGANS, folder=run / "cached") for some in (ids[:20], ids[20:])
    )
    found = fit_familiarity(train, val, release.model.reading)
    assert found is not None
    release.familiarity = as_statistics(found)
    release.calibration = {**release.calibration, "fitted_on": "findings of the split val", "answers": 90}
    return release


def brightened(model: Pipeline, files: Files, organs: tuple[str, ...], by: int) -> tuple[Scan, LabelMap]:
    """The scan of the files with some organs denser by some HU."""
    standardized = model.standardize(*files)
    labels = np.asarray(standardized.organs)
    inside = np.isin(labels, [n for organ in organs for n in model.dictionaries.organs.labels_of(organ)])
    hu = np.where(inside, standardized.image + by, standardized.image).astype(np.int16)
    return Scan(hu, standardized.affine), LabelMap(labels, standardized.affine)


def test_a_scan_of_training_is_inside_and_calibrated(measured: Release, files: Files) -> None:
    answers = Pipeline(measured).query(files[0], QUESTIONS, files[1])
    assert answers.notes == ()
    for answer in answers.answers:
        assert answer.familiar
        assert answer.calibrated
        assert answer.caveats == ()
        assert answer.distance is not None
        assert 0 < answer.distance <= 1


def test_one_strange_organ_takes_the_calibration_of_its_own_answers_alone(measured: Release, files: Files) -> None:
    model = Pipeline(measured)
    scan, labels = brightened(model, files, ("spleen",), 110)
    answers = model.query(scan, QUESTIONS, labels)
    said = {answer.organ: answer for answer in answers.answers}
    assert answers.notes == ()
    assert [said[organ].familiar for organ in ORGANS] == [True, False, True]
    assert [said[organ].calibrated for organ in ORGANS] == [True, False, True]
    assert "outside what this model has seen" in said["spleen"].caveats[0]
    assert said["spleen"].probability is not None
    assert said["spleen"].threshold is None


def test_a_strange_scan_is_outside_as_a_whole_in_words_json_and_page(measured: Release, files: Files) -> None:
    model = Pipeline(measured)
    scan, labels = brightened(model, files, ("spleen", "kidney_left"), 110)
    answers = model.query(scan, QUESTIONS, labels)
    assert "outside what this model has seen" in answers.notes[0]
    assert not any(answer.calibrated or answer.familiar for answer in answers.answers)
    assert sum("outside what this model has seen" in line for line in answer_lines(answers)) == 4
    assert all("not calibrated" in line for line in answer_lines(answers)[-3:])
    told = json.loads(json.dumps(answers.to_json()))
    assert "outside" in told["notes"][0]
    assert told["answers"][1]["familiar"] is False
    page = render(answers_page(answers))
    assert page.index("This scan is outside what this model has seen") < page.index("<main")


def test_what_was_never_taught_is_never_calibrated(measured: Release, files: Files) -> None:
    model = Pipeline(measured)
    learned = model.trained["liver"]
    never = next(
        entry.name
        for entry in model.dictionaries.abnormalities.of_organ("liver")
        if not ({entry.name} | model.dictionaries.abnormalities.descendants(entry.name)) & set(learned)
    )
    display = model.dictionaries.abnormalities[never].display
    (answer,) = model.query(files[0], [f"liver: {display}"], files[1]).answers
    assert not answer.taught
    assert not answer.calibrated
    assert answer.caveats == (f"never taught: no report of training affirms {display} of the liver",)


def test_what_is_known_of_training_travels_with_the_model(measured: Release, files: Files, tmp_path: Path) -> None:
    save_release(tmp_path / "model", measured)
    assert not list(tmp_path.rglob("*.pkl"))
    before = Pipeline(measured).query(files[0], QUESTIONS, files[1]).answers
    assert Pipeline(load_release(tmp_path / "model")).query(files[0], QUESTIONS, files[1]).answers == before


def test_a_model_without_it_says_so(trained: Trained, files: Files) -> None:
    """Two steps on 30 studies: the validation split is too small to measure anything."""
    model = Pipeline(load_release(trained[1]))
    assert len(studies_of(trained[0], "val")) < 7
    answers = model.query(files[0], QUESTIONS, files[1])
    assert answers.notes == (NOT_MEASURED,)
    assert [answer.familiar for answer in answers.answers] == [None] * 3
    assert any("not measured" in line for line in answer_lines(answers))
