"""Checkpoints: exact, whole or not there, the best and the last ones kept, and no code inside."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from ctglip.errors import ModelError
from ctglip.training.callbacks import BestWeights
from ctglip.training.checkpoint import (
    TrainingState,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from ctglip.training.ema import EMA


def made(width: int = 4, ema: bool = True, best: bool = False) -> TrainingState:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net.register_parameter("temperature", nn.Parameter(torch.tensor(2.0)))
    average = EMA(net, 0.9) if ema else None
    weights = BestWeights(net, "score") if best else None
    return TrainingState(net, torch.optim.AdamW(net.parameters(), lr=0.01), average, weights)


def steps(training: TrainingState, start: int, stop: int) -> None:
    for step in range(start, stop):
        torch.manual_seed(step)
        loss = (training.objective(torch.randn(8, 4)) * training.objective.temperature).square().mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        if training.ema:
            training.ema.update(training.objective, step)


def state(training: TrainingState) -> list[torch.Tensor]:
    average = list(training.ema.state.values()) if training.ema else []
    return [value.clone() for value in (*training.objective.state_dict().values(), *average)]


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = made()
    steps(whole, 0, 3)
    save_checkpoint(tmp_path, 3, whole)
    steps(whole, 3, 6)
    other = made()
    steps(other, 0, 1)
    assert load_checkpoint(tmp_path, other) == 3
    steps(other, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(other), strict=True))


def test_the_last_ones_stay_and_hold_the_best_weights(tmp_path: Path) -> None:
    training = made(best=True)
    assert training.best
    for step, score in enumerate((0.5, 0.9, 0.7, 0.6), start=1):
        steps(training, step - 1, step)
        training.best.update(step, {"score": score, "val_loss": 1.0})
        save_checkpoint(tmp_path, step, training, keep=2)
    assert [int(path.name[-7:]) for path in checkpoints(tmp_path)] == [3, 4]
    other = made(best=True)
    assert load_checkpoint(tmp_path, other) == 4
    assert other.best
    assert (other.best.validations, other.best.index) == (training.best.validations, 1)
    other.best.restore()
    whole = made()
    steps(whole, 0, 2)
    for name, value in whole.objective.state_dict().items():
        assert torch.equal(other.objective.state_dict()[name], value)


def test_patience_and_ties() -> None:
    best = BestWeights(nn.Linear(1, 1), "score", patience=2)
    best.update(0, {"score": 0.5, "val_loss": 1.0})
    best.update(1, {"score": 0.5, "val_loss": 0.9})
    assert best.index == 1, "a tie is decided by the loss"
    best.update(2, {"score": 0.5, "val_loss": 0.95})
    assert not best.exhausted
    best.update(3, {"score": 0.4, "val_loss": 0.1})
    assert best.exhausted
    assert best.index == 1
    newest = BestWeights(nn.Linear(1, 1), "score", patience=2)
    for step in range(5):
        newest.update(step, {})
    assert (newest.index, newest.exhausted) == (4, False), "without a score the newest weights are the best"


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    training = made()
    save_checkpoint(tmp_path, 1, training)
    for harm in ("flip", "cut", "drop"):
        file = next(save_checkpoint(tmp_path, 2, training).glob("*.safetensors"))
        whole = bytearray(file.read_bytes())
        if harm == "drop":
            file.unlink()
        else:
            whole[-3] ^= 8
            file.write_bytes(whole if harm == "flip" else whole[:50])
        told: list[str] = []
        assert load_checkpoint(tmp_path, training, told.append) == 1, harm
        assert "step-0000002" in told[0], "the one that is passed over is named"
        assert file.name in told[0]
        assert "Going on from step-0000001" in told[0]


def test_where_no_checkpoint_is_whole_nothing_begins_again(tmp_path: Path) -> None:
    training = made()
    assert load_checkpoint(tmp_path, training) == 0, "there is none"
    for step in (1, 2):
        file = next(save_checkpoint(tmp_path, step, training).glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:40])
    (tmp_path / "step-0000003").mkdir()
    (tmp_path / "step-0000004").mkdir()
    (tmp_path / "step-0000004" / "state.json").write_text("[1]")
    (tmp_path / "step-0000005").mkdir()
    (tmp_path / "step-0000005" / "state.json").write_text('{"format_version": 99}')
    with pytest.raises(ModelError) as caught:
        load_checkpoint(tmp_path, training)
    assert caught.value.code == "no_whole_checkpoint"
    text = str(caught.value)
    assert "step-0000001: state.safetensors is not as it was written" in text
    for part in ("step-0000003: state.json is missing", "step-0000004: state.json cannot", "format version 99"):
        assert part in text


def test_half_written_folders_are_no_checkpoints(tmp_path: Path) -> None:
    training = made()
    (tmp_path / ".step-0000009.abc.tmp").mkdir()
    assert load_checkpoint(tmp_path, training) == 0
    (tmp_path / "step-0000008").mkdir()
    save_checkpoint(tmp_path, 2, training)
    assert load_checkpoint(tmp_path, training) == 2


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch pwned",))


def test_a_checkpoint_from_elsewhere_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = made()
    path = save_checkpoint(tmp_path, 2, training)
    for name in (".metadata", "__0_0.distcp", "extra.pt"):
        (path / name).write_bytes(pickle.dumps(Evil()))
    assert load_checkpoint(tmp_path, training) == 2
    for file in (*path.glob("*.safetensors"), path / "state.json"):
        before = file.read_bytes()
        file.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ModelError, match="None of the checkpoints"):
            load_checkpoint(tmp_path, training)
        file.write_bytes(before)
    assert not (tmp_path / "pwned").exists()


def test_another_model_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, made())
    with pytest.raises(ModelError, match="does not fit") as error:
        load_checkpoint(tmp_path, made(width=5))
    assert error.value.code == "checkpoint"
    save_checkpoint(tmp_path, 3, made(ema=False))
    with pytest.raises(ModelError, match="does not fit"):
        load_checkpoint(tmp_path, made(ema=True))
