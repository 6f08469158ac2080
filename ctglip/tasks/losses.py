"""The loss over the labels that are known, weighted; unknown ones (NaN) count nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.tasks.settings import LossSettings
from ctglip.tasks.targets import Target


class LabelLoss(nn.Module):
    """Mean over the known labels of a batch.

    Args:
        targets: the columns.
        values: labels of the training studies, for the weights of rare answers.
        settings: how rare answers weigh.
    """

    def __init__(self, targets: Sequence[Target], values: Float[np.ndarray, "s t"], settings: LossSettings) -> None:
        super().__init__()
        self.targets = tuple(targets)
        for number, target in enumerate(targets):
            weights = answer_weights(values[:, number], target, settings)
            self.register_buffer(f"weights_{number}", torch.from_numpy(weights), persistent=False)

    def forward(self, logits: Float[Tensor, "s c"], values: Float[Tensor, "s t"]) -> Float[Tensor, ""]:
        """The loss; zero with a gradient where nothing is known."""
        known = values.isfinite()
        total, start = logits.sum() * 0.0, 0
        for number, target in enumerate(self.targets):
            rows = known[:, number]
            predicted, truth = logits[rows, start : start + target.width], values[rows, number].long()
            weights = self.get_buffer(f"weights_{number}")
            if target.classes:
                total = total + F.cross_entropy(predicted, truth, weights, reduction="sum")
            else:
                yes, answer = predicted[:, 0], truth.to(predicted.dtype)
                total = total + F.binary_cross_entropy_with_logits(yes, answer, weights[truth], reduction="sum")
            start += target.width
        return total / known.sum().clamp(min=1)


def answer_weights(values: Float[np.ndarray, " s"], target: Target, settings: LossSettings) -> Float[np.ndarray, " k"]:
    """A weight for each answer of a task: 1, or such that all answers weigh the same in total and 1 on average.

    An answer that does not occur weighs 1.
    """
    width = max(target.width, 2)
    counts = np.bincount(values[np.isfinite(values)].astype(int), minlength=width)
    if not settings.balance or not counts.any():
        return np.ones(width, dtype=np.float32)
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)
    return np.minimum(weights, settings.most).astype(np.float32)
