"""Calibration after fine-tuning: what is fitted, on which split, and that what is kept is what answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ctglip.api import load_model
from ctglip.evaluation.metrics import expected_calibration_error
from ctglip.store.tables import Store
from ctglip.tasks.calibration import LogitCalibration, fit_logits
from ctglip.tasks.targets import Target
from ctglip.tasks.tuning import finetune
from tests.tasks.test_finetune import config

YES = Target("a", ("liver",))
RARE = Target("b", ("spleen",))
GRADE = Target("c", ("liver",), None, ("none", "some", "much"))


def answers(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def test_temperature_and_offsets_are_found() -> None:
    """Logits that are three times too sure, and one column that says yes too often by 1.5."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (4000, 2))
    values = answers(honest, rng)
    raw = 3 * (honest + np.array([0.0, 1.5]))
    found = fit_logits(raw, values, (YES, RARE))
    assert found.scale == pytest.approx(1 / 3, rel=0.1)
    assert found.offsets == pytest.approx((0.0, -1.5), abs=0.15)
    said = 1 / (1 + np.exp(-found.logits(raw)))
    for column in range(2):
        before = 1 / (1 + np.exp(-raw[:, column]))
        assert expected_calibration_error(values[:, column].astype(int), said[:, column]) < 0.04
        assert expected_calibration_error(values[:, column].astype(int), before) > 0.1
        assert roc_auc_score(values[:, column], said[:, column]) == pytest.approx(
            roc_auc_score(values[:, column], raw[:, column])
        )


def test_classes_and_unknown_labels() -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 1.5, (3000, 3))
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    classes = (rng.random(3000)[:, None] > shares.cumsum(1)).sum(1).astype(np.float32)
    values = np.stack([answers(honest[:, 0], rng), classes], axis=1)
    values[::2, 0] = np.nan
    found = fit_logits(np.concatenate([honest[:, :1], honest], axis=1) / 2, values, (YES, GRADE))
    assert found.scale == pytest.approx(2.0, rel=0.1)
    assert found.answers == 4500


@pytest.mark.parametrize("known", [0, 5])
def test_too_little_changes_nothing(known: int) -> None:
    values = np.full((50, 1), np.nan, np.float32)
    values[:known, 0] = np.arange(known) % 2
    assert fit_logits(np.ones((50, 1)), values, (YES,)) == LogitCalibration(1.0, (0.0,), 0)


def test_a_column_that_validates_perfectly_stays_finite() -> None:
    values = (np.arange(30) % 2).astype(np.float32)[:, None]
    found = fit_logits(values * 2 - 1, values, (YES,))
    assert 1 < found.scale < 10
    assert abs(found.offsets[0]) < 0.1


@pytest.fixture(scope="module")
def headed(run: Path, tiny: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory):
    """The diagnosis head trained for a few passes; the validation split is 12 tiny studies."""
    out = tmp_path_factory.mktemp("headed")
    fit = {"epochs": 20, "patience": 0, "batch": 12, "device": "cpu", "threads": 1}
    settings = config(mode="head", fit=fit, optim={"lr": 0.01, "warmup": 0})
    return finetune(run, tiny[0].path, out, tiny[1], settings), out


def test_the_kept_probabilities_are_the_calibrated_ones(headed) -> None:
    results, out = headed
    scores = pl.read_parquet(out / "scores.parquet")
    about = results.calibration
    assert about.answers == 3 * scores.filter(pl.col("split") == "val")["study_id"].n_unique()
    for column, offset in about.offsets.items():
        rows = scores.filter(pl.col("column") == column)
        expected = 1 / (1 + np.exp(-(about.scale * rows["logit"].to_numpy() + offset)))
        np.testing.assert_allclose(rows["probability"], expected, atol=1e-9)
    test = scores.filter((pl.col("split") == "test") & pl.col("label").is_not_null())
    truth = test["label"].to_numpy().astype(int)
    assert about.columns.after == pytest.approx(expected_calibration_error(truth, test["probability"].to_numpy()))
    assert about.columns.before == pytest.approx(expected_calibration_error(truth, test["uncalibrated"].to_numpy()))
    assert json.loads((out / "head" / "head.json").read_text())["calibration"]["scale"] == about.scale
    assert "Calibration error" in (out / "report.html").read_text()


def test_answers_to_texts_are_calibrated_on_labels_of_the_validation_split(headed, run: Path) -> None:
    results, out = headed
    before, after = (load_model(folder).scorer.calibration for folder in (run, out))
    assert after != before
    assert after.fitted_on is not None
    assert "split val" in after.fitted_on
    assert after.learned_scale == before.learned_scale
    assert set(after.thresholds) <= {pair.organ + ":" + pair.abnormality.partition(":")[2] for pair in results.pairs}
    assert results.calibration.texts is not None
    assert results.calibration.texts.answers == 3 * results.studies


def test_a_model_that_learned_nothing_new_keeps_its_calibration(run: Path, tiny: tuple[Store, Path], tmp_path) -> None:
    results = finetune(run, tiny[0].path, tmp_path, tiny[1], config())
    assert results.calibration.texts is None
    assert load_model(tmp_path).scorer.calibration == load_model(run).scorer.calibration


def test_a_tuned_model_without_labels_of_single_organs_says_that_it_is_not_calibrated(
    run: Path, tiny: tuple[Store, Path], tmp_path: Path
) -> None:
    table = pl.read_csv(tiny[1], schema_overrides={"study_id": pl.String})
    table.select("study_id", died=pl.col("liver:hepatic_steatosis")).write_csv(tmp_path / "labels.csv")
    settings = config(mode="head", columns={"died": {"organs": ["all"]}})
    results = finetune(run, tiny[0].path, tmp_path / "out", tmp_path / "labels.csv", settings)
    assert load_model(tmp_path / "out").scorer.calibration.fitted_on is None
    assert any("not calibrated" in note for note in results.notes)


def test_without_a_validation_split_nothing_is_fitted(run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    store, truth = tiny
    splits = store.table("splits").with_columns(pl.col("split").replace("val", "train"))
    table = pl.read_csv(truth, schema_overrides={"study_id": pl.String}).join(
        splits.select("study_id", "split"), on="study_id"
    )
    table.write_csv(tmp_path / "labels.csv")
    results = finetune(run, store.path, tmp_path / "out", tmp_path / "labels.csv", config())
    assert (results.calibration.scale, results.calibration.answers) == (1.0, 0)
    assert all(pair.at is None for pair in results.pairs)
