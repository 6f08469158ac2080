"""Training that ends where the loss of the split val falls no more."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ctglip.files import read_json
from ctglip.objectives.base import StepContext
from ctglip.training.assembly import assemble
from ctglip.training.launch import pretrain
from ctglip.training.tracking import read_metrics
from tests.training.test_cxr import cxr_config
from tests.training.test_imitate import FILMS

STOP = {"loop": {"score": "loss", "patience": 2, "validate_every": 1, "release": "best", "pairs": 0}}


def test_the_loss_of_the_split_val_is_that_of_its_batches(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    config = cxr_config(word_bert, FILMS, STOP)
    parts = assemble(tiny_cxr[0], tmp_path / "run", config, "cpu")
    (source,) = parts.validation_sources.values()
    assert set(source.study_ids).isdisjoint(parts.sources["imitate"].study_ids)
    found = parts.validation_loss("cpu")
    assert found == parts.validation_loss("cpu"), "nothing but the model changes it"
    parts.objective.eval()
    losses = [parts.objective(parts.objective.collate(source.batch(i), StepContext(config.seed, i)))[0]
              for i in range(source.steps)]  # fmt: skip
    mean = sum(float(value.detach()) for one in losses for value in one.values()) / len(losses)
    assert found["val_loss"] == pytest.approx(mean, rel=1e-5)
    assert found["val_loss_impression"] > 0


def test_training_ends_early_and_the_best_weights_are_released(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    wild = {"optim": {"lr": 0.3, "warmup": 0, "clip": 0.0}, "loop": {"steps": 60}}
    pretrain(tiny_cxr[0].path, tmp_path / "run", cxr_config(word_bert, FILMS, STOP, wild))
    steps = read_json(tmp_path / "run" / "model" / "config.json")["provenance"]["steps"]
    lines = [line for line in read_metrics(tmp_path / "run") if "val_loss" in line]
    values = [line["val_loss"] for line in lines]
    best = values.index(min(values))
    assert steps < 60
    assert len(values) - 1 - best == 2, "two validations without a better one"
    assert all(math.isfinite(value) for value in values)


def test_epochs_become_steps_of_this_store(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    change = {"loop": {"steps": {"epochs": 2}, "pairs": 0, "checkpoint_every": {"epochs": 1}}, "data": {"batch": 8}}
    config = cxr_config(word_bert, FILMS, change)
    pretrain(tiny_cxr[0].path, tmp_path / "run", config)
    parts = assemble(tiny_cxr[0], tmp_path / "other", config, "cpu")
    epoch = len(parts.sources["imitate"]) // 8
    assert read_json(tmp_path / "run" / "model" / "config.json")["provenance"]["steps"] == 2 * epoch
    assert pretrain(tiny_cxr[0].path, tmp_path / "run", config, resume=True).is_dir()
