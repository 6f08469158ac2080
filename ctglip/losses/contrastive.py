"""Contrastive losses: pure functions of embeddings, computed in float32 or better whatever autocast says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.chunks import chunked_sum
from ctglip.losses.gather import gather_rows, ranked_mean, row_counts, world_size
from ctglip.losses.targets import EXCLUDED, Block, PairTarget, identity

_MASKED = -1e30
"""A logit that never counts; finite, so that its gradient is zero and not NaN."""
Divergence = Literal["ce", "jeffreys"]
Scalar = Float[Tensor, ""]


def soft_contrastive(
    query: Float[Tensor, "m d"],
    key: Float[Tensor, "m d"],
    scale: Scalar | float,
    *,
    target: PairTarget = identity,
    context: Tensor | tuple[Tensor, Tensor] | None = None,
    valid: Bool[Tensor, " m"] | None = None,
    group: Int[Tensor, " m"] | None = None,
    extra: Float[Tensor, "p d"] | None = None,
    extra_index: Int[Tensor, "m k"] | None = None,
    divergence: Divergence = "ce",
    chunk: int | None = None,
    gather: bool = False,
) -> Scalar:
    """Symmetric contrast between paired queries and keys with soft targets.

    ``mean over rows of D(T_i, softmax_j(scale <q_i, k_j>))``, averaged over the directions query to key and key to
    query (CLIP's convention; losses that are published as a sum of both directions are twice this).

    Args:
        query, key: embeddings, used as they are (normalise before).
        scale: inverse temperature, learned (a tensor with gradient) or fixed.
        target: weights T of the positives; the same function serves both directions.
        context: what the target looks at, row by row; a pair where queries and keys differ. Takes no gradient.
        valid: False removes the row and its column.
        group: only pairs of one group are compared (one image, one organ).
        extra: embeddings of further negatives; they stay on their rank.
        extra_index: for each query, which of them it sees (direction query to key only); -1 for none.
        divergence: ``ce``: -sum T log p; ``jeffreys``: half of KL(T, p) + KL(p, T), for targets above zero.
        chunk: compute that many rows at a time, value and gradient together: memory O(chunk x (N + p)) in place of
            O(N x (N + p)).
        gather: columns are the keys of all ranks; see ``losses.gather``.

    Returns:
        A scalar; zero with a gradient when no row is valid.

    Examples:
        >>> import torch
        >>> from ctglip.losses import soft_contrastive
        >>> rows = torch.eye(3)
        >>> round(soft_contrastive(rows, rows, scale=10.0).item(), 4)
        0.0001
        >>> round(soft_contrastive(rows, rows.flip(0), scale=10.0).item(), 4)
        6.6668
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = exact(query), exact(key)
        first, second = context if isinstance(context, tuple) else (context, context)
        if valid is not None:
            query, key = query[valid], key[valid]
            first, second, group, extra_index = (
                None if value is None else value[valid] for value in (first, second, group, extra_index)
            )
        sides = _sides(query, key, first, second, group, gather)
        if extra is not None and extra_index is not None and len(extra):
            sides = replace(sides[0], extra=exact(extra), extra_index=extra_index), sides[1]
        sums = [_sum(side, scale, target, divergence, chunk) for side in sides]
        return ranked_mean(torch.stack(sums).sum() / 2, len(query), gather)


def sigmoid_pairs(
    query: Float[Tensor, "m d"],
    key: Float[Tensor, "m d"],
    scale: Scalar | float,
    bias: Scalar | float,
    *,
    match: Int[Tensor, " m"] | None = None,
    valid: Bool[Tensor, " m"] | None = None,
    gather: bool = False,
) -> Scalar:
    """SigLIP (arXiv 2303.15343): each pair on its own is a match or not; sum over pairs, divided by the rows.

    Args:
        query, key: normalised embeddings.
        scale, bias: logits are ``scale <q, k> + bias``.
        match: pairs of equal numbers match, besides each row's own pair.
        valid: False removes the row and its column.
        gather: columns are the keys of all ranks.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = exact(query), exact(key)
        if valid is not None:
            query, key, match = query[valid], key[valid], None if match is None else match[valid]
        counts = row_counts(key) if gather else [len(key)]
        keys = gather_rows(key, counts) if gather else key
        columns_of_rows = torch.arange(len(query), device=query.device) + _offset(counts)
        positive = Block(columns_of_rows, len(keys)).is_paired()
        if match is not None:
            positive |= match[:, None] == (gather_rows(match, counts) if gather else match)[None, :]
        logits = scale * query @ keys.T + bias
        signs = torch.where(positive, 1.0, -1.0)
        total = -F.logsigmoid(signs * logits).sum() + keys.sum() * 0
        return ranked_mean(total, len(query), gather)


def class_prompts(
    query: Float[Tensor, "m d"],
    classes: Float[Tensor, "c d"],
    labels: Int[Tensor, " m"],
    scale: Scalar | float,
    valid: Bool[Tensor, " m"] | None = None,
    gather: bool = False,
) -> Scalar:
    """Cross-entropy of each query against one embedding for each class, e.g. the prompts of all organs.

    Args:
        query: ``[m, d]``, normalised.
        classes: ``[c, d]``, normalised, the same on all ranks.
        labels: the right class of each query.
        scale: inverse temperature.
        valid: rows that count.
        gather: mean over the rows of all ranks.

    Returns:
        Mean over valid rows; zero with a gradient when there is none.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, classes = exact(query), exact(classes)
        if valid is not None:
            query, labels = query[valid], labels[valid]
        total = F.cross_entropy(scale * query @ classes.T, labels, reduction="sum") + classes.sum() * 0
        return ranked_mean(total, len(query), gather)


def alignment(
    query: Float[Tensor, "m d"],
    key: Float[Tensor, "m d"],
    valid: Bool[Tensor, " m"] | None = None,
    gather: bool = False,
) -> Scalar:
    """Mean of 1 - <q_i, k_i>: positives alone, no negative at all (it collapses; a control)."""
    with torch.autocast(query.device.type, enabled=False):
        rows = 1 - (exact(query) * exact(key)).sum(1)
        rows = rows if valid is None else rows[valid]
        return ranked_mean(rows.sum(), len(rows), gather)


def exact(value: Tensor) -> Tensor:
    """At least float32."""
    return value if value.dtype == torch.float64 else value.float()


@dataclass(frozen=True)
class _Side:
    """One direction: this rank's rows against all columns. ``offset`` is the column of the first row's own key."""

    rows: Tensor
    context: Tensor | None
    group: Tensor | None
    columns: Tensor
    column_context: Tensor | None
    column_group: Tensor | None
    offset: int
    extra: Tensor | None = None
    extra_index: Tensor | None = None


def _offset(counts: list[int]) -> int:
    """The column of this rank's first row."""
    return sum(counts[: torch.distributed.get_rank()]) if len(counts) > 1 else 0


def _sides(
    query: Tensor, key: Tensor, first: Tensor | None, second: Tensor | None, group: Tensor | None, gather: bool
) -> tuple[_Side, _Side]:
    """Both directions. Queries and keys are gathered in one collective, so that all ranks run the same ones in the
    same order in the backward pass too."""
    queries, keys, others, offset = query, key, [first, second, group], 0
    if gather and world_size() > 1:
        counts = row_counts(query)
        queries, keys = gather_rows(torch.cat([query, key], dim=1), counts).split(query.shape[1], dim=1)
        others = [None if value is None else gather_rows(value.detach(), counts) for value in others]
        offset = _offset(counts)
    return (
        _Side(query, first, group, keys, others[1], others[2], offset),
        _Side(key, second, group, queries, others[0], others[2], offset),
    )


def _sum(side: _Side, scale: Tensor | float, target: PairTarget, divergence: Divergence, chunk: int | None) -> Tensor:
    """Sum over own rows of one direction, in chunks where asked; every input gets a gradient, if only zero."""
    scale = torch.as_tensor(scale, dtype=side.rows.dtype, device=side.rows.device)
    extra = side.rows.new_zeros(0, side.rows.shape[1]) if side.extra is None else side.extra

    def block(start: int, rows: Tensor, columns: Tensor, extra: Tensor, scale: Tensor) -> Tensor:
        return _block(replace(side, rows=rows, columns=columns, extra=extra), start, scale, target, divergence)

    if not len(side.rows):
        return torch.stack([value.sum() * 0 for value in (side.rows, side.columns, extra, scale)]).sum()
    if chunk is None:
        return block(0, side.rows, side.columns, extra, scale)
    return chunked_sum(block, chunk, side.rows, side.columns, extra, scale)


def _block(side: _Side, start: int, scale: Tensor, target: PairTarget, divergence: Divergence) -> Tensor:
    """Sum of the loss over some rows, the first of which is own row ``start``."""
    rows = scale * side.rows
    logits = rows @ side.columns.T
    index = torch.arange(start, start + len(rows), device=rows.device)
    weights, hidden = _targets(side, index, target, sparse=divergence == "ce")
    if hidden is not None:
        logits = logits.masked_fill(hidden, _MASKED)
    scores = logits
    if side.extra is not None and len(side.extra) and side.extra_index is not None:
        choice = side.extra_index[index]
        further = (rows @ side.extra.T).gather(1, choice.clamp(min=0))
        scores = torch.cat([logits, further.masked_fill(choice < 0, _MASKED)], dim=1)
    if weights is None:
        return F.cross_entropy(scores, index + side.offset, reduction="sum")
    weights = weights.to(logits.dtype)
    log_sum = scores.logsumexp(1)
    if divergence == "ce":
        return (weights.sum(1) * log_sum - (weights * logits).sum(1)).sum()
    log_p = logits - log_sum[:, None]
    log_t = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
    terms = (weights - log_p.exp()) * (log_t - log_p)
    return (terms if hidden is None else terms.masked_fill(hidden, 0)).sum() / 2


@torch.no_grad()
def _targets(side: _Side, index: Tensor, target: PairTarget, sparse: bool) -> tuple[Tensor | None, Tensor | None]:
    """Weights of some rows (None where ``sparse`` is welcome and only the own key counts), and the pairs that are not
    compared (None: all are)."""
    hidden = None
    if side.group is not None and side.column_group is not None:
        hidden = side.group[index][:, None] != side.column_group[None, :]
    if sparse and target is identity:
        return None, hidden
    context = None if side.context is None else side.context[index]
    weights = target(Block(index + side.offset, len(side.columns), context, side.column_context))
    if bool((weights.amin() if weights.numel() else 0) < 0):
        ignored = weights == EXCLUDED
        hidden = ignored if hidden is None else hidden | ignored
    return (weights if hidden is None else weights.masked_fill(hidden, 0)), hidden
