"""The patch-correlation task: which patches of a picture look alike, predicted with the report at hand.

Patch tokens read the report, then each other; the correlation of what comes out is compared with that of the patches
themselves. PLACE (re-implementation from the abstract, arXiv 2506.10573); every choice is this project's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings
from ctglip.losses.correlation import patch_correlation
from ctglip.losses.masked import patchify
from ctglip.models.decoders import QueryDecoder
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.resampler import TokenReader


class PatchSettings(Settings):
    """What is predicted, and from what.

    Attributes:
        target: correlation of the patches' ``pixels``, or of the tokens of a ``teacher``, the moving average of the
            encoder.
        condition: patch tokens read the ``sentences`` of the report, the ``report`` as one, or ``none`` of it.
        dim, layers, heads: of the decoder that joins them.
        patches: of each picture at most so many take part, drawn anew at each step (evenly spaced in evaluation).
        detail: pixels along each side of a patch as the target sees it, by averages; the patch's own where it has less.
        momentum: of the teacher.
    """

    target: Literal["pixels", "teacher"] = "pixels"
    condition: Literal["sentences", "report", "none"] = "sentences"
    dim: int = 128
    layers: int = 1
    heads: int = 4
    patches: int = Field(default=196, ge=2)
    detail: int = Field(default=8, ge=2)
    momentum: float = Field(default=0.996, ge=0, lt=1)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.target == "teacher" else {"momentum": "target is pixels"}


class PatchTask(nn.Module):
    """The heads of the task, used in training alone.

    Args:
        settings: target and condition.
        encoder: whose tokens are patches.
        dims: spatial dimensions.
        text_dim: width of raw text embeddings.
    """

    def __init__(self, settings: PatchSettings, encoder: Encoder, dims: int, text_dim: int) -> None:
        super().__init__()
        self.settings = settings
        width = settings.dim
        self.look = TokenReader(encoder.token_dim, width, dims)
        listens = settings.condition != "none"
        self.listen = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, width)) if listens else None
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = QueryDecoder(width, settings.layers, settings.heads, 4 * width)
        self.teacher = copy.deepcopy(encoder).requires_grad_(False) if settings.target == "teacher" else None

    def forward(
        self,
        image: Float[Tensor, "b c *s"],
        filled: Float[Tensor, "b d *s"],
        vision: VisionFeatures,
        sentences: Float[Tensor, "b k t"],
        valid: Bool[Tensor, "b k"],
        seed: int,
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m f"]]:
        """Features of some patches, predicted, and what they are compared with.

        Args:
            image: the pictures.
            filled: the same as the encoder sees them.
            vision: what the encoder made of them.
            sentences: raw embeddings of the report's sentences.
            valid: False where there is nothing.
            seed: what draws the patches in training; the same patches for all pictures.
        """
        chosen = self._chosen(vision.tokens.shape[1], seed).to(image.device)
        patches = self.look(vision.levels[-1])[:, chosen]
        memory, ignored = self.nothing.to(patches.dtype).expand(len(patches), -1, -1), None
        if self.listen is not None:
            memory = torch.cat([memory, self.listen(sentences.to(patches.dtype))], dim=1)
            ignored = F.pad(~valid, (1, 0))
        return self.decoder(patches, memory, ignored)[0], self._target(image, filled, vision.grid)[:, chosen]

    def loss(self, features: Float[Tensor, "b m d"], target: Float[Tensor, "b m f"], gather: bool) -> Float[Tensor, ""]:
        """Error of the correlations (``losses.correlation``)."""
        return patch_correlation(features, target, gather)

    @torch.no_grad()
    def follow(self, encoder: Encoder) -> None:
        """The teacher moves a little towards the encoder; called once a step."""
        if self.teacher is not None:
            for mine, theirs in zip(self.teacher.parameters(), encoder.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.settings.momentum)
            for mine, theirs in zip(self.teacher.buffers(), encoder.buffers(), strict=True):
                mine.copy_(theirs)

    def _chosen(self, count: int, seed: int) -> Int[Tensor, " m"]:
        count_read = min(self.settings.patches, count)
        if self.training and count_read < count:
            generator = torch.Generator().manual_seed(seed)
            return torch.randperm(count, generator=generator)[:count_read].sort().values
        return torch.linspace(0, count - 1, count_read).round().long()

    @torch.no_grad()
    def _target(self, image: Tensor, filled: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "b n f"]:
        if self.teacher is not None:
            return self.teacher.eval()(filled).tokens
        side = min(self.settings.detail, *(n // g for n, g in zip(image.shape[2:], grid, strict=True)))
        pool = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
        shape: Any = tuple(g * side for g in grid)
        return patchify(pool(image.float(), shape), side)
