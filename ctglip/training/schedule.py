"""How long things last, and the learning rate of a step: warm-up, then half a cosine, cosines that restart, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from ctglip.config import Settings

S = TypeVar("S", bound=Settings)


class Duration(Settings):
    """A part of a training; one of these is set.

    Attributes:
        epochs: how often every sample is seen (a study; an organ of crops).
        share: of all steps of the run.
    """

    epochs: float | None = Field(default=None, ge=0)
    share: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.epochs is None) == (self.share is None):
            raise ValueError("set one of epochs and share")
        return self

    def __bool__(self) -> bool:
        return bool(self.epochs or self.share)


Length = int | Duration
"""Steps, or a part of the training."""


class ScheduleSettings(Settings):
    """The learning rate over a run.

    Attributes:
        lr: highest learning rate.
        schedule: after the warm-up ``cosine`` falls to ``final`` once, ``restarts`` does so again and again (SGDR,
            arXiv 1608.03983), ``constant`` stays.
        final: share of ``lr`` that is left at the end of a cosine.
        warmup: of linear warm-up.
        warmup_start: share of ``lr`` that the warm-up begins from.
        length: of the cosine with its warm-up, where it is not the run's: a run may stop before its end.
        period: of the first cosine of ``restarts``.
        multiplier: each further cosine is so many times as long as the one before.
    """

    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "restarts", "constant"] = "cosine"
    final: float = Field(default=0.01, ge=0, le=1)
    warmup: Length = Field(default=50, union_mode="left_to_right")
    warmup_start: float = Field(default=0.0, ge=0, le=1)
    length: Length | None = Field(default=None, union_mode="left_to_right")
    period: Length = Field(default=1000, union_mode="left_to_right")
    multiplier: float = Field(default=1.0, ge=1)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.warmup else {"warmup_start": "there is no warm-up"}
        if self.schedule != "cosine":
            found["length"] = f"schedule is {self.schedule}"
        if self.schedule != "restarts":
            found |= dict.fromkeys(("period", "multiplier"), f"schedule is {self.schedule}")
        if self.schedule == "constant":
            found["final"] = "schedule is constant"
        return found

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if not self.period:
            raise ValueError("period must be at least 1 step")
        if any(isinstance(one, int) and one < 0 for one in (self.warmup, self.period, self.length)):
            raise ValueError("warmup, period and length are not negative")
        return self


def in_steps(length: Length, total: int, epoch: int) -> int:
    """A length in whole steps; a part of the training that is not 0 is at least one.

    Args:
        length: of anything.
        total: steps of the run.
        epoch: steps of an epoch.
    """
    if isinstance(length, int):
        return length
    steps = length.epochs * epoch if length.epochs is not None else (length.share or 0) * total
    return max(round(steps), 1) if length else 0


def timed(settings: S, total: int, epoch: int) -> S:
    """Settings with all lengths of theirs in steps."""
    lengths = {name: value for name, value in settings if isinstance(value, Duration)}
    return settings.model_copy(update={name: in_steps(value, total, epoch) for name, value in lengths.items()})


def counted(length: Length) -> int:
    """A length that is known in steps."""
    assert isinstance(length, int), f"{length} was not turned into steps"
    return length


def learning_rate(step: int, steps: int, settings: ScheduleSettings) -> float:
    """The rate of a step (0 .. steps - 1)."""
    warmup, full = counted(settings.warmup), settings.lr
    if step < warmup:
        return full * (settings.warmup_start + (1 - settings.warmup_start) * (step + 1) / warmup)
    if settings.schedule == "constant":
        return full
    if settings.schedule == "restarts":
        progress = _since_restart(step - warmup, counted(settings.period), settings.multiplier)
    else:
        length = steps if settings.length is None else counted(settings.length)
        progress = (step - warmup) / max(length - 1 - warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return full * (settings.final + (1 - settings.final) * cosine)


def _since_restart(step: int, period: int, multiplier: float) -> float:
    """The share of the cosine under way that is done."""
    length = float(period)
    while step >= length:
        step -= int(length)
        length *= multiplier
    return step / length
