"""How often which intensity occurs in an organ: first-order statistics, which an encoder's normalisation takes away.

Group normalisation sees each crop alone and keeps contrasts; that a lung is darker as a whole, or that one voxel in a
thousand is as dense as a stone, is lost to it. The histogram of each channel over the organ says both. (First-order
features are those of radiomics; that they stand beside an encoder is this project's own choice.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

RANGE = 2.0
"""Channels lie in -RANGE .. RANGE; what is beyond counts in the last bin."""
_RARE = 1e-5
"""Shares are told by their logarithm, so that a rare intensity counts; those below this are none."""
_WEIGHT = 4.0
"""Of the histogram's part of the feature: at 1 what the encoder makes of the voxels drowns small findings for some
hundred steps, at 12 the histogram drowns the organ's size in turn (experiments/notes)."""


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
    values = images.movedim(1, -1).flatten(1, -2)[row, voxel].float()
    position = values.add_(RANGE).mul_(bins / (2 * RANGE)).int().clamp_(0, bins - 1)
    channel = torch.arange(channels, device=images.device, dtype=torch.int32)
    position += bins * (channel + channels * row.int()[:, None])
    found = torch.bincount(position.flatten(), minlength=count * channels * bins).view(count, channels, bins)
    return found / inside.sum(1).view(-1, 1, 1)


class IntensityHistogram(nn.Module):
    """The histogram as a part of an organ's feature, told by its tails: how much is at most, and at least, so intense.

    The share above a threshold is one number of one bin; of the bins alone the layers would have to learn to add those
    above, each of which a stone or a nodule fills now and then.

    Args:
        channels: of the crops.
        bins: of each channel.
        dim: width of the feature.
    """

    def __init__(self, channels: int, bins: int, dim: int) -> None:
        super().__init__()
        self.bins = bins
        self.layers = nn.Sequential(nn.Linear(2 * channels * bins, 128), nn.GELU(), nn.Linear(128, dim))

    def forward(self, images: Float[Tensor, "m c *s"], masks: Float[Tensor, "m 1 *s"]) -> Float[Tensor, "m d"]:
        """No gradient goes back to the images."""
        with torch.no_grad():
            shares = organ_histogram(images, masks, self.bins)
            tails = torch.cat([shares.cumsum(2), shares.flip(2).cumsum(2)], 2)
            log_shares = ((tails + _RARE) / _RARE).log()  # 0 where there is none, 11.5 where there is all
        return _WEIGHT * self.layers(log_shares.flatten(1).to(images.dtype))
