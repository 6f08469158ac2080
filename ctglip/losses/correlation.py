"""Which patches look alike: the correlation between patches of one image, predicted from features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import exact
from ctglip.losses.gather import ranked_mean


def correlation(rows: Float[Tensor, "b n f"], columns: Float[Tensor, "b m f"]) -> Float[Tensor, "b n m"]:
    """Pearson correlation between the features of patches: 1 for a patch with itself, unchanged when an image's
    intensities are scaled or shifted. A patch without variation correlates with nothing (0)."""
    rows, columns = (
        F.normalize(x - x.mean(-1, keepdim=True), dim=-1, eps=torch.finfo(x.dtype).eps) for x in (rows, columns)
    )
    return rows @ columns.transpose(1, 2)


def patch_correlation(
    features: Float[Tensor, "b n d"],
    target: Float[Tensor, "b n f"],
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Squared error between the correlations of predicted features and those of the image's own patches, each
    patch with itself left out (PLACE's patch-level proxy task, re-implemented from its abstract).

    Args:
        features: predicted, one row for each patch.
        target: the patches (``patchify``) or a teacher's features; takes no gradient.
        gather: mean over the entries of all ranks.
    """
    with torch.autocast(features.device.type, enabled=False):
        features, target = exact(features), exact(target.detach())
        predicted = correlation(features, features)
        expected = correlation(target, target).to(predicted.dtype)
        error = F.mse_loss(predicted, expected, reduction="none")
        error = error * (1 - torch.eye(features.shape[1], dtype=error.dtype, device=error.device))
        return ranked_mean(error.sum(), len(error) * features.shape[1] * (features.shape[1] - 1), gather)
