"""Rates of whole runs beside torch's own schedules; lengths in steps, epochs and shares."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from ctglip.config import validate
from ctglip.errors import ConfigError
from ctglip.training.optim import OptimSettings
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.schedule import Duration, learning_rate, timed


def rates(steps: int, **settings) -> list[float]:
    return [learning_rate(step, steps, OptimSettings(**settings)) for step in range(steps)]


def test_restarts_are_torchs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.2)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=7, T_mult=2, eta_min=0.2 * 0.01)
    theirs = []
    for _ in range(60):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = rates(60, lr=0.2, schedule="restarts", period=7, multiplier=2, final=0.01, warmup=0)
    assert ours == pytest.approx(theirs)


def test_a_constant_rate_is_constant_after_its_warmup():
    assert rates(6, lr=0.5, schedule="constant", warmup=2) == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_warmup_begins_where_it_is_told():
    assert rates(5, lr=1.0, warmup=4, warmup_start=0.2)[:4] == pytest.approx([0.4, 0.6, 0.8, 1.0])


def test_a_cosine_may_be_longer_than_its_run():
    long = rates(200, lr=1.0, warmup=40, final=0.0)
    short = rates(120, lr=1.0, warmup=40, final=0.0, length=200)
    assert short == long[:120]
    assert short[-1] > 0.4


def test_lengths_become_steps():
    settings = OptimSettings(
        warmup=Duration(share=0.4), length=Duration(epochs=200), encoder_frozen=Duration(epochs=0.5)
    )
    found = timed(settings, total=50, epoch=10)
    assert (found.warmup, found.length, found.encoder_frozen) == (20, 2000, 5)
    config = validate(
        PretrainConfig, {"loop": {"steps": {"epochs": 3}, "validate_every": {"epochs": 1}, "patience": 2}}, "test"
    )
    assert config.needs_epochs
    loop = config.timed(7).loop
    assert (loop.steps, loop.validate_every) == (21, 7)
    assert not PretrainConfig().needs_epochs


def test_a_short_part_of_a_training_is_a_step():
    """A cosine of no steps would never end, and no step is divided by checkpoints of none."""
    short = Duration(share=0.001)
    found = timed(OptimSettings(schedule="restarts", period=short, warmup=Duration(share=0)), total=10, epoch=5)
    assert (found.period, found.warmup) == (1, 0)
    tree = {"loop": {"steps": {"epochs": 1}, "checkpoint_every": {"epochs": 0.001}}}
    assert validate(PretrainConfig, tree, "test").timed(7).loop.checkpoint_every == 1


@pytest.mark.parametrize("wrong", [{}, {"epochs": 1, "share": 0.5}, {"share": 1.5}, {"epochs": -1}])
def test_a_length_is_one_thing(wrong):
    with pytest.raises(ValidationError):
        Duration(**wrong)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"optim": {"period": 5}}, "optim.period is set, and nothing reads it: schedule is cosine"),
        ({"optim": {"schedule": "constant", "final": 0.5}}, "optim.final is set"),
        ({"optim": {"schedule": "restarts", "period": 0}}, "period must be at least 1"),
        ({"optim": {"warmup": -1}}, "not negative"),
        ({"loop": {"steps": {"share": 0.5}}}, "steps is a number"),
        ({"loop": {"score": "loss"}}, "loop.score is set"),
        ({"loop": {"score": "loss", "patience": 2, "validate_every": 1}}, "the objective reads organs"),
        ({"loop": {"checkpoint_every": 0}}, "at least 1"),
        ({"loop": {"checkpoint_every": {"epochs": 0}}}, "at least 1"),
        ({"loop": {"checkpoint_every": -1}}, "at least 1"),
        ({"optim": {"schedule": "restarts", "period": {"share": 0}}}, "period must be at least 1"),
        ({"optim": {"warmup": {"share": 0}, "warmup_start": 0.5}}, "there is no warm-up"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(PretrainConfig, tree, "test")
