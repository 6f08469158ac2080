"""AdamW with weight decay on matrices alone, warm-up, then half a cosine."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ctglip.config import Settings


class OptimSettings(Settings):
    """The optimiser and its schedule.

    Attributes:
        lr: highest learning rate.
        final: share of it that is left at the last step.
        warmup: steps of linear warm-up.
        weight_decay: of weights with two or more dimensions; biases, norms and temperatures have none.
        betas: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
    """

    name: Literal["adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    final: float = Field(default=0.01, ge=0, le=1)
    warmup: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(default=1.0, ge=0)


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over all parameters that learn, in two groups: with and without decay."""
    learned = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """The rate of a step (0 .. steps - 1)."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(steps - 1 - settings.warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.lr * (settings.final + (1 - settings.final) * cosine)
