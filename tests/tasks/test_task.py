"""A new task is a head, a loss, a metric and targets from the store: it trains, goes on after a kill, and reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ctglip.config import validate
from ctglip.errors import ConfigError
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks import tuning
from ctglip.tasks.base import Task, TaskBatch, in_batches
from ctglip.tasks.settings import ClassificationConfig, FinetuneConfig
from ctglip.tasks.studies import Studies
from ctglip.training.callbacks import Callbacks, Stopped


class DarkShare(Task):
    """How much of a scan is dark, from its histogram: the score is one minus the error."""

    score = "accuracy"

    @classmethod
    def open(cls, store, initializations, config, labels, callbacks):
        patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
        splits = dict(store.table("splits").select("study_id", "split").iter_rows())
        images = [store.study(name).image() for name in sorted(patients)]
        target = np.array([[(image < -20).mean()] for image in images], np.float32)
        names = tuple(sorted(patients))
        found = cls(
            config, Studies((), names, target, tuple(patients[n] for n in names), tuple(splits[n] for n in names), ())
        )
        found.histograms = np.stack([np.histogram(image, 16, (-100, 100), density=True)[0] for image in images])
        return found

    def network(self, initialization, rows) -> nn.Module:
        return Share()

    def loss(self, rows):
        return nn.functional.mse_loss

    def batch(self, initialization, rows, rng) -> TaskBatch:
        values = self.histograms[rows] + (0 if rng is None else rng.normal(0, 1e-4, (len(rows), 16)))
        inputs = {"histogram": torch.from_numpy(values).float()}
        return TaskBatch(inputs, torch.from_numpy(self.studies.values[rows]))

    def predict(self, network, initialization, rows) -> pl.DataFrame:
        batches = [self.batch(initialization, some, None) for some in in_batches(rows, 8)]
        share = torch.cat([network(batch.inputs, len(batch)) for batch in batches])[:, 0].numpy()
        error = np.abs(share - self.studies.values[rows, 0])
        return pl.DataFrame(
            {"study_id": [self.studies.study_ids[row] for row in rows], "share": share, "score": 1 - error}
        )


class Share(nn.Module):
    """A layer on the histogram."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 1)

    def forward(self, inputs: Mapping[str, Tensor], studies: int) -> Tensor:
        return torch.sigmoid(self.head(inputs["histogram"] * 10))


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    monkeypatch.setitem(tuning.TASKS, "dark_share", DarkShare)
    fit = {"epochs": 12, "patience": 0, "batch": 8, "device": "cpu"}
    tree = {"task": "dark_share", "fit": fit, "fractions": [0.5, 1.0], "seeds": [0, 1], "evaluate": {"draws": 20},
            "optim": {"lr": 0.05, "warmup": 0}}  # fmt: skip
    return validate(FinetuneConfig, tree, "test")


def test_a_task_is_trained_compared_and_kept(config, run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    results = tuning.finetune(run, tiny[0].path, tmp_path, None, config)
    runs = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/run.json")}
    assert runs.keys() == {f"run-{share}-{seed}" for share in ("0.5", "1") for seed in (0, 1)}
    for about in runs.values():
        accuracy = [one["val_accuracy"] for one in about["validations"]]
        assert len(accuracy) == 13
        assert accuracy[about["best"]] == max(accuracy) > accuracy[0]
    assert results.score.value is not None
    assert results.score.value > 0.9
    assert "dark_share: accuracy 0.9" in results.headline()
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores["score"].mean() == pytest.approx(results.score.value)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results.to_json()))
    assert load_release(tmp_path).provenance["finetuned"]["task"] == "dark_share"
    kept = load_file(tmp_path / "runs" / f"run-1-{results.released['seed']}" / "weights.safetensors")
    assert torch.equal(load_file(tmp_path / "head" / "head.safetensors")["weight"], kept["head.weight"])


@pytest.mark.parametrize("ends", ["stop", "kill"])
def test_a_task_goes_on_to_the_last_bit(config, run: Path, tiny: tuple[Store, Path], tmp_path: Path, ends: str) -> None:
    """It is stopped inside of an epoch, or killed at the end of one; then it names what is done, and goes on."""
    done: list[int] = []

    class Killed(Exception):
        pass

    def progress(epochs: int, _: int) -> None:
        done.append(epochs)
        if ends == "kill" and epochs == 17:
            raise Killed

    stopping = Callbacks(progress=progress, stop=lambda: ends == "stop" and bool(done) and done[-1] == 17)
    with pytest.raises((Killed, Stopped)):
        tuning.finetune(run, tiny[0].path, tmp_path / "cut", None, config, callbacks=stopping)
    assert not (tmp_path / "cut" / "model").exists()
    with pytest.raises(ConfigError, match="already holds a run"):
        tuning.finetune(run, tiny[0].path, tmp_path / "cut", None, config)
    other = config.model_copy(update={"seeds": (5,)})
    with pytest.raises(ConfigError, match=r"begun with other settings \(seeds"):
        tuning.finetune(run, tiny[0].path, tmp_path / "cut", None, other, resume=True)
    told: list[str] = []
    again = tuning.finetune(run, tiny[0].path, tmp_path / "cut", None, config, True, Callbacks(message=told.append))
    assert told == ["run-0.5-0 is done and skipped.", "run-0.5-1 goes on after epoch 5."]
    assert again == tuning.finetune(run, tiny[0].path, tmp_path / "whole", None, config)
    for file in (tmp_path / "whole" / "runs").glob("*/weights.safetensors"):
        one, other = load_file(file), load_file(tmp_path / "cut" / "runs" / file.parent.name / file.name)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_there_is_is_named(config, run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="There are classification, ct_segmentation, dark_share, report, segmentation"
    ):
        tuning.finetune(run, tiny[0].path, tmp_path, None, config.model_copy(update={"task": "driving"}))
    with pytest.raises(ConfigError, match="Leave --labels out"):
        tuning.finetune(run, tiny[0].path, tmp_path, tiny[1], config)
    with pytest.raises(ConfigError, match=r"--labels labels\.csv"):
        tuning.finetune(run, tiny[0].path, tmp_path, None, ClassificationConfig())
