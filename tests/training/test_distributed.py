"""Several processes make the run that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from ctglip.errors import ConfigError, ModelError
from ctglip.files import read_json
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.checkpoint import checkpoints
from ctglip.training.distributed import DistributedContext, share_batch_statistics
from ctglip.training.launch import pretrain
from ctglip.training.tracking import read_metrics
from tests.training.conftest import tiny_config

STEPS = 12


def losses(run: Path) -> list[float]:
    return [value for line in read_metrics(run) if "loss" in line for value in (line["loss"], line["gradient_norm"])]


def assert_close(run: Path, whole: Path) -> None:
    found, expected = losses(run), losses(whole)
    assert found[:4] == pytest.approx(expected[:4], abs=1e-4)
    assert found == pytest.approx(expected, abs=2e-3), "rounding grows from step to step, mistakes are far larger"
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, atol=1e-3, rtol=0)


def torchrun(store: Path, run: Path, config: Any, *more: str, program: tuple[str, ...] = ("-m", "ctglip")) -> None:
    """Two processes on this machine."""
    file = run.parent / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, *program, "pretrain", str(store), str(run), "--config", str(file), *more]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(tiny: tuple[Store, Path], word_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain(tiny[0].path, folder, tiny_config(word_bert, steps=STEPS, ema=0.5))
    return folder


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_under_torchrun_make_the_run_of_one(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, whole: Path
) -> None:
    torchrun(tiny[0].path, tmp_path / "run", tiny_config(word_bert, steps=STEPS, ema=0.5))
    assert_close(tmp_path / "run", whole)
    assert read_json(tmp_path / "run" / "environment.json")["ranks"] == 2
    assert len(read_metrics(tmp_path / "run")) == STEPS + 1
    last = read_metrics(whole)[-1], read_metrics(tmp_path / "run")[-1]
    assert last[0] == pytest.approx(last[1], abs=0.05)


SLOW_READING = """
import time
from datetime import timedelta

from ctglip.cli.main import run
from ctglip.inference import ct_readers
from ctglip.training import distributed

read = ct_readers.read_crops


def slowly(*given):
    time.sleep(5)
    return read(*given)


ct_readers.read_crops = slowly
distributed.PATIENCE = timedelta(seconds=15)
run()
"""


@pytest.mark.slow
def test_no_rank_waits_for_what_another_reads_alone(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, whole: Path
) -> None:
    """Eight studies of the split val take two threads 20 s, and so would end ranks that wait for 15 s."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW_READING)
    config = tiny_config(word_bert, steps=STEPS, ema=0.5)
    torchrun(tiny[0].path, tmp_path / "run", config, program=(str(program),))
    alone, shared = (load_release(one) for one in (whole, tmp_path / "run"))
    assert shared.calibration["thresholds"].keys() == alone.calibration["thresholds"].keys()
    assert shared.provenance["validation"] == "split val"
    assert read_metrics(whole)[-1]["val_pairs"] == read_metrics(tmp_path / "run")[-1]["val_pairs"]


def test_so_many_studies_validate(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    config = tiny_config(word_bert, steps=1, validation_studies=3)
    pretrain(tiny[0].path, tmp_path / "run", config)
    about = read_json(tmp_path / "run" / "model" / "config.json")
    assert about["provenance"]["validation"] == "3 of the 8 studies of the split val"


def test_every_study_is_one_rank_s() -> None:
    names = [f"s{number}" for number in range(7)]
    shares = [DistributedContext(rank, 2).share(names) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == names
    assert [len(share) for share in shares] == [4, 3]


@pytest.mark.slow
def test_one_process_s_run_goes_on_in_two_with_micro_batches(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, whole: Path
) -> None:
    config = tiny_config(word_bert, steps=STEPS, ema=0.5, micro_batch=4)
    run = tmp_path / "run"
    stop = lambda: any(path.name == "step-0000006" for path in checkpoints(run / "checkpoints"))  # noqa: E731
    with pytest.raises(Stopped):
        pretrain(tiny[0].path, run, config, callbacks=Callbacks(stop=stop))
    torchrun(tiny[0].path, run, config, "--resume")
    assert_close(run, whole)


@pytest.mark.slow
def test_two_ray_workers_make_the_run_of_one(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, whole: Path
) -> None:
    pretrain(tiny[0].path, tmp_path / "run", tiny_config(word_bert, steps=STEPS, ema=0.5), launch="ray", workers=2)
    assert_close(tmp_path / "run", whole)


@pytest.mark.slow
def test_what_a_ray_worker_met_is_what_the_user_reads(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config = tiny_config(word_bert)
    wild = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 1e30, "warmup": 0, "clip": 0.0})})
    with pytest.raises(ModelError, match=r"not a number at step \d+ .*studies s\d{3}") as error:
        pretrain(tiny[0].path, tmp_path / "run", wild, launch="ray")
    assert error.value.code == "not_finite"


def test_workers_without_ray_are_told_of_torchrun(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchrun --standalone --nproc-per-node 4"):
        pretrain(tiny[0].path, tmp_path / "run", tiny_config(word_bert), workers=4)


def test_batch_statistics_are_shared_on_gpus_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    share_batch_statistics(net, DistributedContext())
    assert type(net[1]) is nn.BatchNorm2d
    with pytest.raises(ModelError, match="1 normalises over the batch"):
        share_batch_statistics(net, DistributedContext(0, 2, "cpu"))
    share_batch_statistics(net, DistributedContext(0, 2, "cuda:0"))
    assert type(net[1]) is nn.SyncBatchNorm


def test_chance_in_a_step_depends_on_seed_step_and_rank_alone() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        DistributedContext(rank, 4).seed(seed, step)
        return float(torch.rand(()))

    first = draw(0, 3, 0)
    torch.rand(5)
    assert draw(0, 3, 0) == first
    assert len({draw(seed, step, rank) for seed in (0, 1) for step in (3, 4) for rank in (0, 1)}) == 8
