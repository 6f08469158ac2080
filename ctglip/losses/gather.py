"""Batches across ranks: rows gathered with their gradients, ragged counts welcome (also none), and exact means.

Every rank computes the loss of its own rows against all columns and divides by the rows of all ranks; the backward
pass of the gathering sums what all ranks want of a row. Averaged over ranks (as DDP does it), the gradient is that of
one process on the joined batch. A rank without rows still takes part in every collective.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def one_rank() -> Iterator[None]:
    """Losses of this rank alone, which no other rank computes at the same time (a validation)."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """Number of ranks; 1 outside of a process group, and where a rank computes alone."""
    if _alone.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def ranked_mean(total: Float[Tensor, ""], count: Tensor | float, gather: bool = False) -> Float[Tensor, ""]:
    """A sum over this rank's rows as its share of the mean over the rows of all ranks.

    Args:
        total: sum over own rows, zero (with a gradient) where there is none.
        count: what the sum is divided by: own rows, or the sum of their weights.
        gather: count the rows of all ranks; the average of the results over ranks is then the mean over all rows.

    Returns:
        ``world * total / count of all``; zero where all counts are zero.
    """
    counts = torch.as_tensor(count, dtype=total.dtype, device=total.device).detach().clone()
    if gather and world_size() > 1:
        dist.all_reduce(counts)
        total = total * world_size()
    return total / counts.where(counts > 0, 1)


def gather_rows(rows: Float[Tensor, "m ..."], counts: list[int] | None = None) -> Float[Tensor, "n ..."]:
    """The rows of all ranks, in the order of ranks, with gradients.

    Args:
        rows: this rank's rows, maybe none; the other axes are the same on all ranks.
        counts: rows of each rank where they are known (``row_counts``).
    """
    if world_size() == 1:
        return rows
    counts = row_counts(rows) if counts is None else counts
    return _Gather.apply(rows, counts) if rows.is_floating_point() else _gather(rows, counts)  # pyright: ignore[reportReturnType]


def row_counts(rows: Tensor) -> list[int]:
    """Number of rows of each rank."""
    if world_size() == 1:
        return [len(rows)]
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    return [int(count) for count in counts]


def _gather(rows: Tensor, counts: list[int]) -> Tensor:
    """Pad to the longest, gather, trim."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _gather(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = sum(ctx.counts[: dist.get_rank()])
        return gradient[start : start + ctx.counts[dist.get_rank()]], None
