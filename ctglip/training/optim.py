"""AdamW with weight decay on matrices alone, lower rates for earlier layers where asked, warm-up, half a cosine."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from pydantic import Field
from torch import nn

from ctglip.config import Settings
from ctglip.models.encoders.base import Encoder
from ctglip.models.text import TextEncoder

_UNDECAYED = ("positions", "position_embedding", "class_token", "cls_token", "mask_token")


class OptimSettings(Settings):
    """The optimiser and its schedule.

    Attributes:
        lr: highest learning rate.
        final: share of it that is left at the last step.
        warmup: steps of linear warm-up.
        weight_decay: of weights with two or more dimensions; biases, norms, temperatures, embeddings and positions have
            none.
        betas: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        layer_decay: rate of each layer of an encoder relative to that of the layer after it (BEiT, arXiv 2106.08254);
            1 gives all the same. For encoders that start from trained weights.
    """

    lr: float = Field(default=1e-3, gt=0)
    final: float = Field(default=0.01, ge=0, le=1)
    warmup: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; each group has its ``weight_decay`` and its ``scale`` of the rate."""
    undecayed = _undecayed(module)
    scales = layer_scales(module, settings.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or name in undecayed else settings.weight_decay
            groups[decay, scales.get(name, 1.0)].append(parameter)
    listed = [{"params": found, "weight_decay": decay, "scale": scale} for (decay, scale), found in groups.items()]
    return torch.optim.AdamW(listed, lr=settings.lr, betas=settings.betas, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, settings: OptimSettings) -> float:
    """Give every group its rate of a step; returns the rate of scale 1."""
    rate = learning_rate(step, steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """The rate of a step (0 .. steps - 1)."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(steps - 1 - settings.warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.lr * (settings.final + (1 - settings.final) * cosine)


def layer_scales(module: nn.Module, decay: float) -> dict[str, float]:
    """The scale of the rate of each parameter inside an image or text encoder: ``decay ** layers above it``.

    Layers are the numbered parts of an encoder (stages, blocks) in their order; what comes before the first one (stem,
    embeddings) is a layer of its own, what comes after belongs to the last. Parameters elsewhere are not listed.
    """
    scales: dict[str, float] = {}
    if decay == 1:
        return scales
    for position, part in module.named_modules():
        if isinstance(part, Encoder | TextEncoder):
            depths = part.layer_groups()
            top = max(depths.values(), default=0)
            scales |= {f"{position}.{name}": decay ** (top - depth) for name, depth in depths.items()}
    return scales


def _undecayed(module: nn.Module) -> set[str]:
    """Embeddings and positions, by name."""
    found = set()
    for position, part in module.named_modules():
        for name, _ in part.named_parameters(recurse=False):
            if isinstance(part, nn.Embedding) or name in _UNDECAYED:
                found.add(f"{position}.{name}" if position else name)
    return found
