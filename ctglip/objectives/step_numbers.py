"""Numbers to log beside the losses: are the two sides coming together, and is anything collapsing?"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ctglip.objectives.base import StepReport


@torch.no_grad()
def effective_rank(embeddings: Float[Tensor, "m e"]) -> float:
    """Exponential of the entropy of the normalised singular values of the centred embeddings (Roy and Vetterli
    2007): 1 when all lie on a line, min(M - 1, E) when they fill the space, NaN for fewer than two rows
    or where a number is not finite."""
    if len(embeddings) < 2 or not bool(torch.isfinite(embeddings).all()):
        return math.nan
    values = torch.linalg.svdvals((embeddings - embeddings.mean(0)).float())
    weights = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(weights * weights.clamp(min=1e-12).log()).sum()))


@torch.no_grad()
def pair_similarity(
    image: Float[Tensor, "m e"],
    text: Float[Tensor, "m e"],
    key: Int[Tensor, " m"],
    compared: Bool[Tensor, "m m"] | None = None,
) -> StepReport:
    """Mean similarity of pairs with the same text key and of the others, and how often the nearest text is right.

    Args:
        compared: only these pairs are looked at.
    """
    if not len(image):
        return {"positive_similarity": math.nan, "negative_similarity": math.nan, "text_accuracy": math.nan}
    similarity = (image @ text.T).float()
    same = key[:, None] == key[None, :]
    other = ~same
    if compared is not None:
        same, other, similarity = same & compared, other & compared, similarity.masked_fill(~compared, -math.inf)
    nearest = key[similarity.argmax(1)] == key
    return {
        "positive_similarity": float(similarity[same].mean()),
        "negative_similarity": float(similarity[other].mean()) if bool(other.any()) else math.nan,
        "text_accuracy": float(nearest.float().mean()),
    }


@torch.no_grad()
def accuracy(query: Float[Tensor, "m e"], classes: Float[Tensor, "c e"], labels: Int[Tensor, " m"]) -> float:
    """Share of queries whose nearest class is the right one; NaN without queries."""
    return float(((query @ classes.T).argmax(1) == labels).float().mean()) if len(query) else math.nan
