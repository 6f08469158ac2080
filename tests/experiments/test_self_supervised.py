"""The probe of self-supervised pretraining: tokens of an organ, a planted finding, paired differences."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from ctglip.data.scans import ScanCut, ScanSettings
from experiments.self_supervised import __main__ as experiment

STUDIES = 60
OWNERS = np.where(np.arange(STUDIES) % 3 == 2, np.arange(STUDIES) // 6, -1)
"""Two test studies of each patient."""
SPLIT = np.array(["train", "train", "test"] * (STUDIES // 3))


def planted(signal: float) -> experiment.Features:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((STUDIES, 4))
    features[:, 2] += signal * truth()["liver:hepatic_steatosis"].to_numpy()
    features[5] = np.nan
    return {"liver": features}


def truth() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    rare = np.zeros(STUDIES, int)
    rare[:3] = 1
    return pl.DataFrame({"liver:hepatic_steatosis": rng.integers(0, 2, STUDIES), "liver:liver_cyst": rare})


def test_a_planted_finding_is_read_and_rare_ones_are_left_out() -> None:
    found = {
        name: experiment.probed(planted(signal), truth(), SPLIT, OWNERS, 5)
        for name, signal in (("with", 8.0), ("none", 0.0))
    }
    assert list(found["with"]) == ["liver:hepatic_steatosis"]
    assert len(found["with"]["liver:hepatic_steatosis"].labels) == 19
    figures = experiment.compared(found, STUDIES // 6)
    assert figures["arm"] == "with"
    assert figures["with"][0] == 1.0
    value, low, high = figures["difference"]
    assert value == pytest.approx(1 - figures["none"][0])
    assert low <= value <= high
    assert low > 0
    same = experiment.compared({"a": found["with"], "b": dict(found["with"])}, STUDIES // 6)
    assert same["difference"] == [0, 0, 0]


class Means(nn.Module):
    """A token is the mean of its patch."""

    def forward(self, image: torch.Tensor):
        class Found:
            levels = (nn.functional.avg_pool3d(image, experiment.PATCH),)

        return Found()


def test_the_token_of_an_organ_is_the_mean_of_its_cells_wherever_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, grid = np.random.default_rng(0), (experiment.GRID,) * 3
    hu = rng.integers(-900, 900, grid).astype(np.int16)
    labels = np.zeros(grid, np.uint8)
    labels[8:24, 12:20, 40:44] = 5
    none = np.zeros(3)
    cut = ScanCut(hu=hu, labels=labels, low=none, high=none, voxel_mm=none)
    monkeypatch.setattr(experiment, "scan_on_grid", lambda study, scans: cut)

    class OneStudy:
        study_ids = ("a",)

        def study(self, study_id: str) -> str:
            return study_id

    scans = ScanSettings(grid=grid, windows_hu=((-1000.0, 1000.0),))
    found = experiment.organ_features(Means(), OneStudy(), scans, {"liver": [5], "spleen": [6]})  # pyright: ignore
    assert found["liver"][0, 0] == pytest.approx(hu[8:24, 12:20, 40:44].mean() / 1000, abs=1e-4)
    assert np.isnan(found["spleen"]).all()
