"""The head of self-distillation: features to similarities with learned prototypes (DINO, arXiv 2104.14294)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings


class PrototypeSettings(Settings):
    """The head and its published sizes.

    Attributes:
        hidden: width of its two hidden layers.
        bottleneck: width of the unit vectors that meet the prototypes.
        count: of prototypes.
    """

    hidden: int = Field(default=2048, ge=1)
    bottleneck: int = Field(default=256, ge=1)
    count: int = Field(default=65536, ge=2)


class PrototypeHead(nn.Module):
    """Three linear layers to a unit vector, and its cosines with the prototypes.

    Args:
        width: of the features.
        settings: sizes.
    """

    def __init__(self, width: int, settings: PrototypeSettings) -> None:
        super().__init__()
        sizes = (width, settings.hidden, settings.hidden, settings.bottleneck)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.prototypes = nn.Parameter(torch.empty(settings.count, settings.bottleneck))
        for weight in (*(layer.weight for layer in layers), self.prototypes):
            nn.init.trunc_normal_(weight, std=0.02)
        for layer in layers:
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        """Unit vectors that meet the prototypes."""
        return F.normalize(self.mlp(features), dim=-1)

    def similarities(self, vectors: Float[Tensor, "*b e"], learn: bool = True) -> Float[Tensor, "*b k"]:
        """Cosines with the prototypes, whose lengths count nothing.

        Args:
            vectors: what ``forward`` gives.
            learn: prototypes take a gradient.
        """
        prototypes = self.prototypes if learn else self.prototypes.detach()
        return vectors @ F.normalize(prototypes, dim=-1).to(vectors.dtype).T
