"""How often which intensity occurs in an organ: first-order statistics, which an encoder's normalisation takes away.

Group normalisation sees each crop alone and keeps contrasts; that a lung is darker as a whole, or that one voxel in a
thousand is as dense as a stone, is lost to it. The histogram of each channel over the organ says both. (First-order
features are those of radiomics; that they stand beside an encoder is this project's own choice.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

RANGE = 2.0
"""Channels lie in -RANGE .. RANGE; what is beyond counts in the last bin."""
_RARE = 1e-5
"""Shares are told by their logarithm, so that a rare bin counts; those below this are none."""


def organ_histogram(
    images: Float[Tensor, "m c *s"], masks: Float[Tensor, "m 1 *s"], bins: int
) -> Float[Tensor, "m c bins"]:
    """The share of an organ's voxels in each bin of each channel.

    Args:
        images: crops.
        masks: the organ in each, 0 to 1; voxels of 0.5 and more count, all where there are none.
        bins: of equal width from -``RANGE`` to ``RANGE``.
    """
    count, channels = images.shape[:2]
    inside = masks.flatten(1) >= 0.5
    inside = inside | ~inside.any(1, keepdim=True)
    row, voxel = inside.nonzero(as_tuple=True)
    values = images.flatten(2)[row, :, voxel].float()
    place = ((values + RANGE) * (bins / (2 * RANGE))).long().clamp(0, bins - 1)
    place = place + bins * (torch.arange(channels, device=images.device) + channels * row[:, None])
    found = torch.bincount(place.flatten(), minlength=count * channels * bins).view(count, channels, bins)
    return found / inside.sum(1).view(-1, 1, 1)


class IntensityHistogram(nn.Module):
    """The histogram as a part of an organ's feature.

    Args:
        channels: of the crops.
        bins: of each channel.
        dim: width of the feature.
    """

    def __init__(self, channels: int, bins: int, dim: int) -> None:
        super().__init__()
        self.bins = bins
        self.layers = nn.Sequential(nn.Linear(channels * bins, 128), nn.GELU(), nn.Linear(128, dim))

    def forward(self, images: Float[Tensor, "m c *s"], masks: Float[Tensor, "m 1 *s"]) -> Float[Tensor, "m d"]:
        """No gradient goes back to the images."""
        with torch.no_grad():
            shares = organ_histogram(images, masks, self.bins)
            told = 1 - (shares + _RARE).log() / math.log(_RARE)  # 0 where there is none, about 1 where there is all
        return self.layers(told.flatten(1).to(images.dtype))
