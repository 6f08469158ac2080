"""A run that starts from a released encoder, as a user begins it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.errors import CTGLIPError
from ctglip.files import read_json
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from tests.models.released import SIZES
from tests.models.test_released import WRAPPED, released_state
from tests.training.conftest import tiny_config


@pytest.fixture
def config(word_bert: Path, tmp_path: Path) -> Path:
    """Crops of organs for CT-FM, from a released file."""
    torch.save(WRAPPED["ct_fm"](released_state("ct_fm")), tmp_path / "ct_fm.pth")
    tree = tiny_config(word_bert, steps=2, tensorboard=False).model_dump(mode="json")
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


def test_a_window_that_it_does_not_know_ends_before_the_run(
    tiny: tuple[Store, Path], config: Path, tmp_path: Path
) -> None:
    windows = "data.crops.windows_hu=[[-1000, 1000]]"
    text = called("pretrain", tiny[0].path, tmp_path / "run", "--config", config, "--set", windows)
    assert "ct_fm sees HU -1024 to 2048, which no window shows" in text
    assert "Set data.crops.windows_hu to [[-1024, 2048]]" in text
    assert not (tmp_path / "run" / "model").exists()
