"""In place of a frozen encoder: what it made of images is read from a cache."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.models.encoders.base import Encoder, VisionFeatures

_HASHED = 16


class CachedEncoder(Encoder):
    """Unpacks cached tokens: its images are rows of all cached levels, fine to coarse, then the pooled vector.

    It has no weights: the frozen encoder is no part of the model while that is trained, and takes its place again in
    what is released.

    Args:
        encoder: the frozen one.
        grids: cells of each cached level, by its number; the last level is among them.
    """

    def __init__(self, encoder: Encoder, grids: Mapping[int, tuple[int, ...]]) -> None:
        super().__init__()
        self.settings, self.anchor = encoder.settings, encoder.anchor
        self.level_channels, self.token_dim, self.strides = encoder.level_channels, encoder.token_dim, encoder.strides
        self.grids, self._pooled = dict(grids), encoder.pooled_dim

    @property
    def pooled_dim(self) -> int:
        """That of the frozen one."""
        return self._pooled

    def forward(self, image: Float[Tensor, "b n"]) -> VisionFeatures:
        """The features that were cached; levels that were not have no cells."""
        sizes = [self.level_channels[level] * math.prod(grid) for level, grid in self.grids.items()]
        *parts, pooled = image.split([*sizes, self._pooled], dim=1)
        found = {
            level: part.unflatten(1, (self.level_channels[level], *grid))
            for (level, grid), part in zip(self.grids.items(), parts, strict=True)
        }
        levels = tuple(
            found[number] if number in found else torch.zeros(len(image), width, 0, 0, 0, device=image.device)
            for number, width in enumerate(self.level_channels)
        )
        return VisionFeatures.of(levels, pooled)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The levels."""
        return self(image).levels


def encoder_hash(encoder: Encoder) -> str:
    """Hash of an encoder's weights, names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_HASHED]
