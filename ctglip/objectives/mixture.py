"""Several objectives at once, each with a weight that may change over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ctglip.errors import ConfigError
from ctglip.objectives.base import START, Features, LogitScale, Losses, Objective, StepContext, StepReport

Schedule = Sequence[tuple[float, float]]
"""Points (progress 0 to 1, weight), ascending, with straight lines between them; level before and after."""


@dataclass(frozen=True)
class MixtureBatch:
    """One batch for each part."""

    parts: dict[str, Any]

    def to(self, device: torch.device | str) -> MixtureBatch:
        """The batches on a device."""
        return MixtureBatch({name: batch.to(device) for name, batch in self.parts.items()})


class Mixture(Objective):
    """A weighted sum of objectives, e.g. organ_text + global_pair; they may share one model.

    Args:
        parts: the objectives by name.
        weights: a number or a schedule for each.

    Raises:
        ConfigError: a part without a weight, a weight without a part, or a schedule that goes back.
    """

    def __init__(self, parts: Mapping[str, Objective], weights: Mapping[str, float | Schedule]) -> None:
        super().__init__()
        if set(parts) != set(weights):
            raise ConfigError(
                f"Mixture of {sorted(parts)} has weights for {sorted(weights)}.", fix="Name the same ones."
            )
        self.parts = nn.ModuleDict(parts)
        self.weights = {n: [(0.0, w)] if isinstance(w, float | int) else list(w) for n, w in weights.items()}
        for name, points in self.weights.items():
            if not points or any(a[0] >= b[0] for a, b in pairwise(points)):
                raise ConfigError(f"The schedule of {name} must be points of growing progress, found {points}.")
        self.batch_coupled = any(part.batch_coupled for part in parts.values())
        self.aligned = any(part.aligned for part in parts.values())

    @property
    def diagnosis_scale(self) -> LogitScale | None:
        """That of the first part that has one."""
        return next((scale for name in self.parts if (scale := self._part(name).diagnosis_scale)), None)

    def collate(self, samples: Mapping[str, Sequence[Any]], context: StepContext = START) -> MixtureBatch:
        """Each part's own samples."""
        return MixtureBatch({name: self._part(name).collate(samples[name], context) for name in self.parts})

    def encode(self, batch: MixtureBatch) -> Features:
        """All parts' features, named ``part/feature``."""
        found: Features = {}
        for name in self.parts:
            features = self._part(name).encode(batch.parts[name])
            found |= {f"{name}/{key}": value for key, value in features.items()}
        return found

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        """All parts' weighted losses and reports, named ``part/loss``, and the weights."""
        losses: Losses = {}
        report: StepReport = {}
        for name in self.parts:
            part, prefix = self._part(name), f"{name}/"
            columns = {key.removeprefix(prefix): value for key, value in features.items() if key.startswith(prefix)}
            some, numbers = part.compute(columns, context)
            weight = weight_at(self.weights[name], context.progress)
            losses |= {prefix + key: weight * loss for key, loss in some.items()}
            report |= {prefix + key: number for key, number in numbers.items()} | {f"{prefix}weight": weight}
        return losses, report

    def finish(self) -> None:
        """That of all parts."""
        for name in self.parts:
            self._part(name).finish()

    def _part(self, name: str) -> Objective:
        part = self.parts[name]
        assert isinstance(part, Objective)
        return part


def weight_at(points: Schedule, progress: float) -> float:
    """The weight of a schedule at a progress."""
    if progress <= points[0][0]:
        return points[0][1]
    for (start, before), (stop, after) in pairwise(points):
        if progress < stop:
            return before + (after - before) * (progress - start) / (stop - start)
    return points[-1][1]
