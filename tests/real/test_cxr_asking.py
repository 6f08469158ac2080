"""Real radiographs asked by a small model: read, found by lung masks, mapped, judged.

Its weights are random: what is tested is that every radiograph gets an answer, and from where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig
from numpy.testing import assert_array_equal
from PIL import Image

from ctglip.cli.answers import write_answers
from ctglip.cohort import read_cohort
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import write_cohort
from ctglip.config import load_settings
from ctglip.cxr.recipe import CxrRecipe
from ctglip.data.cxr import CxrInputSettings
from ctglip.errors import MaskError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.pipeline import Pipeline
from ctglip.models.release import Release
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.tables import Store
from tests.inference.tiny_cxr import cxr_release, saved
from tests.training.tiny import write_word_bert

RECIPE = CxrRecipe(size=128)
QUESTIONS = ["left lung: consolidation", "pleural effusion right?", "heart: cardiomegaly"]


def small_model(folder: Path, **model: Any) -> Release:
    release = cxr_release(write_word_bert(folder / "bert"), trained={}, **model)
    release.recipe = RECIPE.model_dump(mode="json")
    release.cxr = CxrInputSettings(size=96, margin=1.125).model_dump(mode="json")
    return release


def test_cxr_with_lung_masks_are_answered_from_their_boxes(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "cxr" / "films_with_notes"
    model = Pipeline(small_model(tmp_path, regions={"name": "box"}))
    radiographs = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    asked = [
        radiograph
        for radiograph in radiographs
        if Image.open(radiograph).size == Image.open(folder / "lung_masks" / radiograph.name).size
    ]
    other = next(radiograph for radiograph in radiographs if radiograph.name == "covid-19-pneumonia-7-PA.jpg")
    with pytest.raises(MaskError, match="proportions"):
        model.query(other, QUESTIONS, masks=folder / "lung_masks" / other.name)
    answered = [
        model.query(radiograph, QUESTIONS, masks=folder / "lung_masks" / radiograph.name) for radiograph in asked[-5:]
    ]
    for answers in answered:
        assert [answer.read_from for answer in answers.answers] == [
            "the box of the left lung", "the box of the right lung", "the whole radiograph",
        ]  # fmt: skip
        assert all(answer.probability is not None for answer in answers.answers)
        boxes = {region.name: region for region in answers.standardized.regions}
        assert boxes["right_lung"].column0 < boxes["left_lung"].column0
    last = answered[-1]
    told, lines = write_answers(model, last, tmp_path / "out", tmp_path / "maps")
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(lines) == len(QUESTIONS) + 2 + len(notes)
    assert "Read from the box of the left lung" in (tmp_path / "out" / "radiograph.html").read_text()
    maps = [np.load(path) for path in told["maps"] if path.endswith(".npy")]
    assert {one.shape for one in maps} == {last.original.pixels.shape if last.original else ()}
    assert str(folder) not in json.dumps(told["answers"])


@pytest.mark.slow
def test_nih_cxr_are_judged_by_their_labels(real_data: Path, tmp_path: Path) -> None:
    """31 radiographs as the split test: whole radiographs against the public label table, and the same pixels asked one
    by one."""
    found = write_cohort(cohort_reader("nih_chestxray14"), real_data / "cxr" / "nih_films", tmp_path / "cohort")
    config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=128"])
    preprocess_cohort(read_cohort(Path(found.cohort)), tmp_path / "store", config)
    release = small_model(tmp_path)
    release.recipe = Store.open(tmp_path / "store").info.recipe
    store = Store.open(tmp_path / "store")
    splits = store.path / "splits.parquet"
    splits.unlink(missing_ok=True)
    patients = set(store.table("studies")["patient_id"])
    assign_splits(store, SplitSettings(), dict.fromkeys(patients, "test"))
    asked = load_settings(
        EvaluateConfig, "evaluate/cxr_nih_14", ["draws=50", "min_positives=2", "parts=[five_by_200,subgroups]",
                                                "five_by_200.per_class=1", "device=cpu"]
    )  # fmt: skip
    results = evaluate(
        saved(tmp_path, release), store.path, tmp_path / "out", labels=tmp_path / "cohort" / "labels.csv", config=asked
    )
    assert results.studies == 31
    assert {"atelectasis", "pleural_effusion"} & {pair.abnormality for pair in results.pairs}
    found = results.parts["protocol"]
    assert len(found.findings) >= 3
    assert found.macro_auroc.value is not None
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    model = Pipeline(release)
    pair = results.pairs[0]
    own = scores.filter((pl.col("organ") == pair.organ) & (pl.col("abnormality") == pair.abnormality))
    for row in own[:5].iter_rows(named=True):
        image = next((real_data / "cxr" / "nih_films").glob(f"{row['study_id']}*.png"))
        standardized = model.standardize(image)
        assert_array_equal(standardized.image, store.study(row["study_id"]).image())
        question = f"{model.dictionaries.organs[pair.organ].display}: {pair.abnormality.replace('_', ' ')}"
        answer = model.query(image, [question]).answers[0]
        assert answer.probability == pytest.approx(row["probability"], abs=1e-5)
