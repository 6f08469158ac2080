"""What others drew reaches the store with the sets that bring it, and lies where it was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.vocabulary.organs import load_organs
from tests.cli.commands import good_here
from tests.cohorts.builders import PHANTOM
from tests.cohorts.miniatures_ct import CT_MINIATURES
from tests.cohorts.miniatures_cxr import CXR_MINIATURES
from tests.cohorts.patients import phantom_patients
from tests.training.tiny import write_word_bert

MINIATURES = CT_MINIATURES | CXR_MINIATURES
CT = ("--set", "ct.spacing_mm=[4,4,6]", "--set", "ct.crop_to_body=false", "--set", "ct.segmentation=null")
CXR = ("--config", "preprocess/cxr", "--set", "cxr.size=64", "--set", "cxr.crop_borders=false")
EDGES = ("row0", "row1", "column0", "column1")
DRAWN = {"rsna_pneumonia": "lung_opacity", "siim_pneumothorax": "pneumothorax", "object_cxr": "foreign_body"}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], tuple[Path, Store]]:
    """A set's miniature, its cohort and its store."""

    def make(name: str) -> tuple[Path, Store]:
        settings = MINIATURES[name](tmp_path / "data", phantom_patients()) or {}
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        good_here("cohort", name, tmp_path / "data", tmp_path / "cohort", *changes)
        recipe = CT if name in CT_MINIATURES else CXR
        good_here("preprocess", tmp_path / "cohort" / "cohort.csv", tmp_path / "store", *recipe, "--json")
        return tmp_path / "cohort", Store.open(tmp_path / "store")

    return make


def test_layers_of_rexgrounding_lie_on_what_they_were_drawn_on(made: Callable[[str], tuple[Path, Store]]) -> None:
    cohort, store = made("rexgrounding")
    assert verify(store) == []
    table = pl.read_csv(cohort / "localization.csv")
    assert sorted(store.table("lesions")["study_id"]) == sorted(table["study_id"]), "a row a finding"
    heart = PHANTOM.labels == load_organs()["heart"].label
    for study_id in store.study_ids:
        study = store.study(study_id)
        for lesion in study.lesions():
            whole = np.zeros(study.shape, bool)
            whole[tuple(slice(*edges) for edges in zip(lesion.box[::2], lesion.box[1::2], strict=True))] = (
                study.lesion_mask(lesion)
            )
            assert np.array_equal(whole, heart)


@pytest.mark.parametrize("name", DRAWN)
def test_boxes_and_run_lengths_of_radiographs(made: Callable[[str], tuple[Path, Store]], name: str) -> None:
    cohort, store = made(name)
    assert verify(store) == []
    drawn = pl.read_csv(cohort / "localization.csv", infer_schema=False)
    lesions = store.table("lesions")
    assert set(lesions["abnormality"]) == {DRAWN[name]}
    is_mask = name == "siim_pneumothorax"
    assert (lesions["layer"].null_count() == 0) is is_mask
    for row in drawn.to_dicts():
        study = store.study(row["study_id"])
        scale = 64 / (1024 if is_mask else max(study.source.shape if study.source else study.shape))
        expected = [float(row[edge]) * scale for edge in EDGES]
        found = [lesion.box for lesion in study.lesions()]
        assert any(np.abs(np.subtract(box, expected)).max() <= 1.01 for box in found), (row, found)
        assert all(study.lesion_mask(lesion).any() for lesion in study.lesions())


def test_spheres_of_luna16_are_in_millimetres_of_the_world(made: Callable[[str], tuple[Path, Store]]) -> None:
    cohort, store = made("luna16")
    drawn = pl.read_csv(cohort / "localization.csv").to_dicts()
    assert {row["study_id"] for row in drawn} == set(store.table("lesions")["study_id"])
    for row in drawn:
        (lesion,) = store.study(row["study_id"]).lesions()
        low, high = np.reshape(lesion.box, (3, 2)).T
        assert (low + high - 1) / 2 == pytest.approx(np.array(PHANTOM.hu.shape) * (0.7, 0.3, 0.4), abs=1)


@pytest.mark.slow
def test_a_trained_model_is_asked_where_it_looks(tmp_path: Path) -> None:
    """From a cohort's drawn findings to the pointing game, by the commands; a table of the same lesions agrees."""
    good_here("simulate", tmp_path / "cohort", "--studies", 16, "--seed", 5)
    spheres = pl.read_csv(tmp_path / "cohort" / "lesions.csv")
    spheres.with_columns(diameter_mm=2 * pl.col("radius_mm")).write_csv(tmp_path / "cohort" / "localization.csv")
    cohort = pl.read_csv(tmp_path / "cohort" / "cohort.csv", infer_schema=False)
    cohort.with_columns(localization=pl.lit("localization.csv")).write_csv(tmp_path / "cohort" / "cohort.csv")
    good_here("preprocess", tmp_path / "cohort" / "cohort.csv", tmp_path / "store", "--set", "ct.spacing_mm=[6,6,6]",
              "--set", "ct.segmentation=null", "--set", "splits.fractions=[0.5,0,0.5]", "--json")  # fmt: skip
    store = Store.open(tmp_path / "store")
    assert verify(store) == []
    assert store.table("lesions").height == spheres.height
    bert = write_word_bert(tmp_path / "bert")
    good_here("pretrain", tmp_path / "store", tmp_path / "run", "--config", "small/ctglip_cnn",
              "--set", f"text.name={bert}", "--set", "text.max_length=60", "--set", "loop.steps=20",
              "--set", "loop.threads=1", "--set", "optim.warmup=2",
              "--set", "data.sampling.batch=6", "--set", "data.crops.grid=[16,16,16]")  # fmt: skip
    rows = {}
    for name, more in (("store", ()), ("table", ("--set", f"lesions={tmp_path / 'cohort' / 'lesions.csv'}"))):
        good_here("evaluate", tmp_path / "run", tmp_path / "store", tmp_path / name, "--labels",
                  tmp_path / "cohort" / "truth.csv", "--set", "parts=[localization]", "--set", "min_positives=1",
                  "--set", "draws=20", "--set", "controls=false", *more)  # fmt: skip
        found = json.loads((tmp_path / name / "results.json").read_text())["parts"]["localization"]["rows"]
        rows[name] = {row["abnormality"]: row for row in found}
    assert rows["store"].keys() == rows["table"].keys() > {"all"}
    for name, row in rows["store"].items():
        assert name == "all" or row["answers"] == rows["table"][name]["answers"]
        assert row["lesion_chance"] == pytest.approx(rows["table"][name]["lesion_chance"], abs=0.15)
