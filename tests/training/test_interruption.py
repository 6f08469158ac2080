"""Runs that are killed from outside, as a user or a scheduler does it, go on to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctglip.store.tables import Store
from ctglip.training.checkpoint import checkpoints
from ctglip.training.launch import pretrain
from ctglip.training.tracking import read_metrics
from tests.training.conftest import tiny_config

STEPS = 400
pytestmark = pytest.mark.slow


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in read_metrics(run) if "loss" in line]


@pytest.fixture(scope="module")
def config(word_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few threads, many steps, a checkpoint now and then."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    settings = tiny_config(word_bert, steps=STEPS, checkpoint_every=7, ema=0.9)
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def whole(tiny: tuple[Store, Path], word_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain(tiny[0].path, folder, tiny_config(word_bert, steps=STEPS, checkpoint_every=7, ema=0.9))
    return folder


def start(store: Path, run: Path, config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ctglip", "pretrain", str(store), str(run), "--config", str(config), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for_lines(process: subprocess.Popen[str], run: Path, count: int) -> None:
    while len(losses(run)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def assert_equal(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.ci
def test_sigterm_saves_ends_with_143_and_the_run_goes_on(
    tiny: tuple[Store, Path], config: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(tiny[0].path, run, config)
    wait_for_lines(process, run, 3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said
    last = int(checkpoints(run / "checkpoints")[-1].name[-7:])
    assert last == losses(run)[-1][0] < STEPS
    assert f"stopped after step {last}, which is saved; add --resume to go on" in said
    process = start(tiny[0].path, run, config, "--resume")
    process.communicate()
    assert process.returncode == 0
    assert_equal(run, whole)


@pytest.mark.parametrize("lines", [1, 40])
def test_kill_9_loses_steps_and_nothing_else(
    tiny: tuple[Store, Path], config: Path, whole: Path, word_bert: Path, tmp_path: Path, lines: int
) -> None:
    run = tmp_path / "run"
    process = start(tiny[0].path, run, config)
    wait_for_lines(process, run, lines)
    process.kill()
    process.communicate()
    assert len(losses(run)) < STEPS
    pretrain(tiny[0].path, run, tiny_config(word_bert, steps=STEPS, checkpoint_every=7, ema=0.9), resume=True)
    assert_equal(run, whole)
