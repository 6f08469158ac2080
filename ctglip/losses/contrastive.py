"""Contrastive losses: pure functions of embeddings, computed in float32 or better whatever autocast says."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.targets import Block, Target, identity

_MASKED = -1e30
"""A logit that never counts; finite, so that its gradient is zero and not NaN."""


def soft_contrastive(
    query: Float[Tensor, "m d"],
    key: Float[Tensor, "m d"],
    scale: Float[Tensor, ""] | float,
    *,
    target: Target = identity,
    context: Tensor | tuple[Tensor, Tensor] | None = None,
    valid: Bool[Tensor, " m"] | None = None,
    extra: Float[Tensor, "p d"] | None = None,
    extra_index: Int[Tensor, "m k"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between paired queries and keys with soft targets.

    ``mean over rows of -sum_j T_ij log softmax_j(scale <q_i, k_j>)``, averaged over the directions query to key and
    key to query (CLIP's convention; losses that are published as a sum of both directions are twice this).

    Args:
        query, key: embeddings, used as they are (normalise before).
        scale: inverse temperature, learned (a tensor with gradient) or fixed.
        target: weights of the positives; the same function serves both directions.
        context: what the target looks at, row by row; a pair where queries and keys differ.
        valid: False removes the row and its column.
        extra: embeddings of further negatives.
        extra_index: for each query, which of them it sees (direction query to key only); -1 for none.

    Returns:
        A scalar; zero with a gradient when no row is valid.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = _exact(query), _exact(key)
        first, second = context if isinstance(context, tuple) else (context, context)
        if valid is not None:
            query, key = query[valid], key[valid]
            first, second, extra_index = _rows(first, valid), _rows(second, valid), _rows(extra_index, valid)
        if not len(query):
            return empty(query, key, scale)
        extra_logits = _extra_logits(query, scale, extra, extra_index)
        forward = _direction(query, key, scale, target, first, second, extra_logits)
        backward = _direction(key, query, scale, target, second, first, None)
        return (forward + backward) / 2


def class_prompts(
    query: Float[Tensor, "m d"],
    classes: Float[Tensor, "c d"],
    labels: Int[Tensor, " m"],
    scale: Float[Tensor, ""] | float,
    valid: Bool[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of each query against one embedding for each class, e.g. the prompts of all organs.

    Args:
        query: ``[m, d]``, normalised.
        classes: ``[c, d]``, normalised.
        labels: the right class of each query.
        scale: inverse temperature.
        valid: rows that count.

    Returns:
        Mean over valid rows; zero with a gradient when there is none.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, classes = _exact(query), _exact(classes)
        if valid is not None:
            query, labels = query[valid], labels[valid]
        if not len(query):
            return empty(query, classes, scale)
        return F.cross_entropy(scale * query @ classes.T, labels)


def empty(*inputs: Tensor | float) -> Float[Tensor, ""]:
    """Zero, with a gradient of zero for every input: what a loss returns when nothing is there to compare."""
    return torch.stack([(value * 0).sum() for value in inputs if isinstance(value, Tensor)]).sum()


def _exact(value: Tensor) -> Tensor:
    """At least float32."""
    return value if value.dtype == torch.float64 else value.float()


def _extra_logits(query: Tensor, scale: Tensor | float, extra: Tensor | None, index: Tensor | None) -> Tensor | None:
    if extra is None or index is None or not len(extra) or not index.shape[1]:
        return None
    logits = (scale * query @ _exact(extra).T).gather(1, index.clamp(min=0))
    return logits.masked_fill(index < 0, _MASKED)


def _rows(value: Tensor | None, keep: Tensor) -> Tensor | None:
    return None if value is None else value[keep]


def _direction(
    query: Tensor,
    key: Tensor,
    scale: Tensor | float,
    target: Target,
    query_context: Tensor | None,
    key_context: Tensor | None,
    extra_logits: Tensor | None,
) -> Tensor:
    """Mean over the rows of one direction."""
    logits = scale * query @ key.T
    own = torch.arange(len(query), device=query.device)
    weights = target(Block(own, len(key), query_context, key_context)).to(logits.dtype)
    seen = logits if extra_logits is None else torch.cat([logits, extra_logits], dim=1)
    return (weights.sum(1) * seen.logsumexp(1) - (weights * logits).sum(1)).mean()
