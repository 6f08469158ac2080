"""What every objective is: samples to a batch, a batch to features, features to losses and a report.

``encode`` holds what is expensive and independent from row to row (GradCache replays it in micro-batches);
``compute`` holds what couples the rows of a batch: heads, similarities, losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Features = dict[str, Tensor]
"""What ``encode`` gives: every tensor is a list of rows, so micro-batches are joined along the first axis."""
Losses = dict[str, Tensor]
"""Scalars, already weighted: their sum is the loss."""
Report = dict[str, float]


class Objective(nn.Module, ABC):
    """One pretraining method. It owns the model that it trains, and temperatures and heads used in training alone.

    Attributes:
        batch_coupled: the loss of a row depends on the other rows (a contrast), so micro-batches cannot simply be
            added up: GradCache is needed.
        aligned: images and texts are brought into one space, so that the model can be asked in words.
        progress: the share of the training that is done, 0 to 1; the trainer sets it, schedules read it.
        chance: seeds of what ``collate`` draws; the trainer sets (seed, step).
    """

    batch_coupled: bool = True
    aligned: bool = True
    progress: float = 0.0
    chance: tuple[int, ...] = (0, 0)

    @property
    def diagnosis_scale(self) -> LogitScale | None:
        """The temperature that turns similarities of images and texts into probabilities at inference, if any."""
        return None

    @abstractmethod
    def collate(self, samples: Any) -> Any:
        """Samples to one batch, on the CPU; may run in a worker process."""

    @abstractmethod
    def encode(self, batch: Any) -> Features:
        """The expensive part, row by row: no row sees another."""

    @abstractmethod
    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Weighted losses and numbers to log, from the features of the whole batch."""

    def forward(self, batch: Any) -> tuple[Losses, Report]:
        """``compute(encode(batch))``: what a training step of one batch calls, also through DDP."""
        return self.compute(self.encode(batch))


class LogitScale(nn.Module):
    """An inverse temperature: learned through its logarithm, or fixed.

    Args:
        start: temperature at the start.
        learn: whether it changes.
        max_scale: largest inverse temperature (CLIP: 100).
    """

    def __init__(self, start: float = 0.07, learn: bool = True, max_scale: float = 100.0) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=learn)

    def forward(self) -> Float[Tensor, ""]:
        """The factor on similarities, 1 / temperature."""
        return self.log_scale.exp().clamp(max=self.max_scale)

    def value(self) -> float:
        """The temperature as a number to log."""
        scale = float(self().detach())
        return 1 / scale if scale else math.inf


def total(losses: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The sum of an objective's losses."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def join(parts: Sequence[Features]) -> Features:
    """The features of several micro-batches as those of one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
