"""``ctglip pretrain`` as somebody meets it: what it says while it works, and what it says to mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.errors import CTGLIPError
from ctglip.store.tables import Store
from tests.training.conftest import tiny_config


@pytest.fixture
def config(word_bert: Path, tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(word_bert, steps=3).model_dump(mode="json")))
    return str(path)


def called(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code (2 for a user's fault), standard output, and what was said besides."""
    done = CliRunner().invoke(app, ["pretrain", *map(str, arguments)])
    if isinstance(done.exception, CTGLIPError):
        return 2, done.stdout, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_run_its_end_and_what_may_follow(tiny: tuple[Store, Path], config: str, tmp_path: Path) -> None:
    store, run = tiny[0].path, tmp_path / "run"
    code, out, _ = called(store, run, "--config", config, "--json")
    assert code == 0
    assert json.loads(out) == {"run": str(run), "model": str(run / "model"), "failed": []}
    code, _, said = called(store, run, "--config", config)
    assert (code, said) == (2, f"{run} already holds a run. Add --resume to go on, or name another folder.")
    code, _, said = called(store, run, "--config", config, "--resume", "--set", "loop.steps=4", "--set", "seed=1")
    assert code == 2
    assert "seed: 0 before, 1 now; loop.steps: 3 before, 4 now" in said
    assert f"--config {run / 'config.resolved.yaml'}" in said
    assert called(store, run, "--config", run / "config.resolved.yaml", "--resume")[0] == 0


def test_studies_that_cannot_be_read_are_named_at_the_end(
    tiny: tuple[Store, Path], config: str, tmp_path: Path
) -> None:
    store = shutil.copytree(tiny[0].path, tmp_path / "store")
    splits = tiny[0].table("splits")
    damaged = splits.filter(splits["split"] == "train")["study_id"].sort()[0]
    shutil.rmtree(store / "studies" / f"{damaged}.zarr")
    change = ("--config", config, "--set", "data.cache.max_damaged=0.5")
    code, _, said = called(store, tmp_path / "run", *change)
    assert code == 1
    assert f"Left out, because they cannot be read (1): {damaged}. Run: ctglip store verify {store}" in " ".join(
        said.split()
    )
    code, out, _ = called(store, tmp_path / "run", *change, "--resume", "--json")
    assert (code, json.loads(out)["failed"]) == (1, [damaged])


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ("loop.stepps=3", "loop.stepps: unknown setting, did you mean 'steps'?"),
        ("loop.micro_batch=0", "loop.micro_batch: Input should be greater than or equal to 1 (found 0)"),
        ("loop.ema=1", "loop.ema: Input should be less than 1"),
        ("optim.layer_decay=2", "optim.layer_decay: Input should be less than or equal to 1"),
        ("loop.release=newest", "loop.release: Input should be 'last' or 'best'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(
    tiny: tuple[Store, Path], config: str, tmp_path: Path, change: str, answer: str
) -> None:
    code, _, said = called(tiny[0].path, tmp_path / "run", "--config", config, "--set", change)
    assert code == 2
    assert answer in said
    assert not (tmp_path / "run").exists()


def test_help_says_how_several_processes_are_started() -> None:
    code, out, _ = called("--help")
    assert code == 0
    assert "torchrun --standalone --nproc-per-node" in " ".join(out.split())
