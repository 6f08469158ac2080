"""A run that starts from a released encoder, as a user begins it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.config import validate
from ctglip.errors import ConfigError, CTGLIPError
from ctglip.files import read_json
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import PretrainConfig
from tests.models.released import SIZES
from tests.models.test_released import WRAPPED, released_state
from tests.training.conftest import SCANS, tiny_config


@pytest.fixture
def config(word_bert: Path, tmp_path: Path) -> Path:
    """Crops of organs for CT-FM, from a released file."""
    torch.save(WRAPPED["ct_fm"](released_state("ct_fm")), tmp_path / "ct_fm.pth")
    tree = tiny_config(word_bert, steps=2, trackers=[]).model_dump(mode="json")
    tree["model"]["encoder"] = {"name": "ct_fm", **SIZES["ct_fm"], "weights": str(tmp_path / "ct_fm.pth")}
    tree["data"]["crops"]["windows_hu"] = [[-160, 240], [-1024, 2048]]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**tree, "kind": "pretrain"}))
    return tmp_path / "config.yaml"


def called(*arguments: str | Path) -> str:
    """The fault that a command ends with; empty where there is none."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, CTGLIPError), done.exception
    return "" if done.exception is None else str(done.exception)


def test_it_trains_from_the_released_weights_and_is_found_again(
    tiny: tuple[Store, Path], config: Path, tmp_path: Path
) -> None:
    store, run = tiny[0].path, tmp_path / "run"
    assert called("pretrain", store, run, "--config", config, "--set", "optim.lr=1e-9") == ""
    release = load_release(run)
    assert release.model.settings.encoder.model_dump()["channel"] == 1
    assert release.model.settings.encoder.weights is None
    learned = dict(release.model.encoder.get_submodule("network").named_parameters())
    for name, value in released_state("ct_fm").items():
        if name in learned:
            torch.testing.assert_close(learned[name], value)
    about = read_json(run / "model" / "config.json")
    assert about["probe"]["values"]
    about["probe"]["values"][0] += 1
    (run / "model" / "config.json").write_text(json.dumps(about))
    assert "gives another answer than when it was saved" in called("embed", run, store, tmp_path / "out")


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ({"name": "ct_fm", "channel": 1}, r"channel is set, and nothing reads it: its window says which"),
        ({"name": "spectre", "combiner_depth": 2}, "combine is false"),
        ({"name": "suprem", "architecture": "unet", "depths": [1, 1, 1, 1]}, "a U-Net has two"),
        ({"name": "totalsegmentator", "fold": "3"}, "no folder of weights"),
        ({"name": "totalsegmentator", "weights": "folder", "widths": [8, 8]}, "the folder of weights says them"),
        ({"name": "merlin", "partial": True}, "weights are random"),
        ({"name": "ctfm"}, r"expected one of: .*ct_fm"),
    ],
)
def test_settings_that_nothing_reads_are_refused(encoder: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        validate(PretrainConfig, {"model": {"encoder": encoder}}, "test")


def test_a_window_that_it_does_not_know_ends_before_the_run(
    tiny: tuple[Store, Path], config: Path, tmp_path: Path
) -> None:
    windows = "data.crops.windows_hu=[[-1000, 1000]]"
    text = called("pretrain", tiny[0].path, tmp_path / "run", "--config", config, "--set", windows)
    assert "ct_fm sees HU -1024 to 2048, which no window shows" in text
    assert "Set data.crops.windows_hu to [[-1024, 2048]]" in text
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("name", "window", "grid", "levels"),
    [("spectre", [-1000, 1000], [16, 16, 8], [-1]), ("colipri", [-1000, 1000], [16, 16, 16], [-2, -1])],
)
def test_organs_of_whole_scans_are_read_from_its_tokens(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, name: str, window: list[int], grid: list[int],
    levels: list[int],
) -> None:  # fmt: skip
    torch.save(WRAPPED[name](released_state(name)), tmp_path / "weights.pth")
    sizes = {key: value for key, value in SIZES[name].items() if key != "combiner_depth"}
    change = {
        "data": {**SCANS, "input": {"grid": grid, "windows_hu": [[-160, 240], window]}},
        "model": {
            "encoder": {"name": name, **sizes, "weights": str(tmp_path / "weights.pth")},
            "regions": {"name": "mask", "levels": levels},
        },
    }
    config = tiny_config(word_bert, change, steps=2, trackers=[])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config.model_dump(mode="json"), "kind": "pretrain"}))
    run = tmp_path / "run"
    assert called("pretrain", tiny[0].path, run, "--config", tmp_path / "config.yaml") == ""
    assert called("embed", run, tiny[0].path, tmp_path / "features") == ""
    assert called("pretrain", tiny[0].path, run, "--config", tmp_path / "config.yaml", "--resume",
                  "--set", "loop.steps=3") == ""  # fmt: skip
