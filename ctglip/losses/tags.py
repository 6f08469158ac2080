"""Losses over tags: present or absent, each on its own."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import exact
from ctglip.losses.gather import ranked_mean


def tag_bce(
    logits: Float[Tensor, "m t"],
    tags: Float[Tensor, "m t"],
    valid: Bool[Tensor, "m t"] | None = None,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over all tags that count (ASG's internal recognition loss).

    Args:
        logits: one for each image and tag.
        tags: 0 to 1.
        valid: which entries count (a tag that the report leaves open does not).
        gather: mean over the entries of all ranks.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = exact(logits)
        terms = F.binary_cross_entropy_with_logits(logits, tags.to(logits.dtype), reduction="none")
        keep = torch.ones_like(terms, dtype=torch.bool) if valid is None else valid
        return ranked_mean(terms.where(keep, 0).sum(), keep.sum(), gather)
