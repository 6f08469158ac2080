"""AdamW with groups of decay, lower rates for earlier layers where asked, and a schedule."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ctglip.errors import ConfigError
from ctglip.models.encoders.base import Encoder
from ctglip.models.text import TextEncoder
from ctglip.training.schedule import Length, ScheduleSettings, counted, learning_rate

_UNDECAYED = ("positions", "position_embedding", "class_token", "cls_token", "mask_token")
_PATCHES = re.compile(r"(?:^|\.)(?:patch_)?embed(?:ding)?(?:_proj)?\.|(?:^|\.)to_patch_emb\.")
"""Names of the layer that embeds patches, in an encoder over patches."""


class OptimSettings(ScheduleSettings):
    """The optimiser and its schedule.

    Attributes:
        weight_decay: of what ``decayed`` says; Adam's with decay 0.
        decayed: ``matrices``: weights with two or more dimensions but embeddings, positions and class tokens;
            ``not_1d``: all of those (timm's and OpenCLIP's groups); ``all``: biases, norms and temperatures too.
        betas, eps: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        layer_decay: rate of each layer of an encoder relative to that of the layer after it (BEiT, arXiv 2106.08254);
            1 gives all the same. For encoders that start from trained weights.
        patch_rate: factor on the rate of the image encoder's patch embedding.
        encoder_frozen: the image encoder stays as it is for so long.
    """

    weight_decay: float = Field(default=0.05, ge=0)
    decayed: Literal["matrices", "not_1d", "all"] = "matrices"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    patch_rate: float = Field(default=1.0, ge=0)
    encoder_frozen: Length = Field(default=0, union_mode="left_to_right")

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.weight_decay else {"decayed": "weight_decay is 0"}
        return {**super().unread(), **found}


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; each group has its ``weight_decay``, its ``scale`` of the rate, and says
    whether it is the image ``encoder``'s.

    Raises:
        ConfigError: ``patch_rate`` is set, and no encoder embeds patches.
    """
    spared = _embeddings(module) if settings.decayed == "matrices" else set()
    scales, inside = layer_scales(module, settings.layer_decay), _image_encoder(module)
    embedding = {name for name, local in inside.items() if _PATCHES.search(local)}
    if settings.patch_rate != 1 and not embedding:
        raise ConfigError("optim.patch_rate is set, and the image encoder embeds no patches.", fix="Leave it out.")
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = settings.decayed != "all" and (parameter.ndim < 2 or name in spared)
            scale = scales.get(name, 1.0)
            if name in embedding:
                scale *= settings.patch_rate
            groups[0.0 if plain else settings.weight_decay, scale, name in inside].append(parameter)
    listed = [
        {"params": found, "weight_decay": decay, "scale": scale, "encoder": encoder}
        for (decay, scale, encoder), found in groups.items()
    ]
    return torch.optim.AdamW(listed, lr=settings.lr, betas=settings.betas, eps=settings.eps, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, settings: OptimSettings) -> float:
    """Give every group its rate of a step; returns the rate of scale 1."""
    rate = learning_rate(step, steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def hold_encoder(optimizer: torch.optim.Optimizer, step: int, settings: OptimSettings) -> None:
    """Forget the gradient of an image encoder that is still frozen at this step: it and its moments stay."""
    if step < counted(settings.encoder_frozen):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["encoder"] else ():
                parameter.grad = None


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


def _image_encoder(module: nn.Module) -> dict[str, str]:
    """The names of the parameters of image encoders, and their names in there."""
    found = {}
    for position, part in module.named_modules():
        if isinstance(part, Encoder):
            prefix = f"{position}." if position else ""
            found |= {f"{prefix}{name}": name for name, _ in part.named_parameters()}
    return found


def _embeddings(module: nn.Module) -> set[str]:
    """Embeddings, positions and class tokens, by name."""
    found = set()
    for position, part in module.named_modules():
        for name, _ in part.named_parameters(recurse=False):
            if isinstance(part, nn.Embedding) or name in _UNDECAYED:
                found.add(f"{position}.{name}" if position else name)
    return found
