"""One step of every report-level objective on real radiographs with what was written about them, to a model that is
read."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from tests.training.tiny import write_word_bert

TERMS = {
    "imitate": {"impression", "findings", "high_views", "multi_views"},
    "asg": {"image_report", "region_sentence", "recognition", "soft_labels"},
    "ecamp": {"image", "words"},
    "place": {"instance", "batch", "sentence", "correlation"},
    "place_mixture": {"organs/diagnosis", "cxr/instance", "cxr/batch"},
}


@pytest.fixture(scope="module")
def store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Radiographs with drawn lungs, the notes as their findings; radiographs that the masks do not lie on are left
    out."""
    source = real_data / "cxr" / "films_with_notes"
    if not source.is_dir():
        pytest.skip(f"there are no radiographs at {source}")
    folder = tmp_path_factory.mktemp("radiographs")
    with (source / "metadata.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (source / row["filename"]).is_file()]
    table = {
        "study_id": [row["filename"].rsplit(".", 1)[0] for row in rows],
        "patient_id": [row["patientid"] for row in rows],
        "image": [str(source / row["filename"]) for row in rows],
        "masks": [str(source / "lung_masks" / row["filename"]) for row in rows],
        "findings": [row["clinical notes"] for row in rows],
        "view": [row["view"] for row in rows],
        "split": ["train"] * len(rows),
    }
    pl.DataFrame(table).write_csv(folder / "cohort.csv")
    config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=128"])
    summary = preprocess_cohort(read_cohort(folder / "cohort.csv"), folder / "store", config)
    assert summary.written >= 6
    return Store.open(folder / "store")


@pytest.mark.slow
@pytest.mark.parametrize("method", list(TERMS))
def test_a_step_on_real_radiographs(store: Store, tmp_path: Path, method: str) -> None:
    encoder = write_word_bert(tmp_path / "bert")
    steps = ["loop.steps=1", "loop.log_every=1", "loop.threads=1", "loop.device=cpu", "data.size=96"]
    steps += ["data.batch=6", "text.max_length=60"]
    config = load_settings(
        PretrainConfig, f"small/cxr_{method}", [*steps, f"text.name={encoder}", "text.max_length=60"]
    )
    release = load_release(pretrain(store.path, tmp_path / "run", config))
    first = read_metrics(tmp_path / "run")[0]
    told = {name.removeprefix("loss_") for name in first if name.startswith("loss_")}
    assert told >= TERMS[method], told
    assert all(math.isfinite(first[f"loss_{name}"]) for name in told)
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
