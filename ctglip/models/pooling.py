"""From feature maps and masks to one vector for each organ."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def coverage(mask: Float[Tensor, "m 1 *S"], grid: tuple[int, ...]) -> Float[Tensor, "m 1 *s"]:
    """The part of each feature voxel that a mask covers, 0 to 1 (area-weighted, so nothing small is lost)."""
    return F.interpolate(mask, size=list(grid), mode="area")


def masked_pool(features: Float[Tensor, "m c *s"], mask: Float[Tensor, "m 1 *S"]) -> Float[Tensor, "m c"]:
    """Average of a feature map over a mask, weighted by how much of each feature voxel the mask covers.

    Args:
        features: one map for each organ.
        mask: the organ's voxels on the image grid, 0 to 1.

    Returns:
        ``[m, c]``; where a mask is empty, the mean over the whole map.
    """
    weights = coverage(mask.to(features.dtype), tuple(features.shape[2:])).flatten(2)
    total = weights.sum(-1, keepdim=True)
    weights = (weights / total.clamp(min=1e-12)).where(total > 0, 1.0 / weights.shape[-1])
    return (features.flatten(2) * weights).sum(-1)
