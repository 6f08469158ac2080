"""Which key is how much a positive of which query: soft targets of a contrast, built for a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Some rows of the pair matrix.

    Attributes:
        own: int64 ``[r]``, for each row the column of its own key.
        columns: number of keys N.
        query: context of the rows ``[r, ...]`` (keys, tags, text embeddings), or None.
        key: context of all columns ``[N, ...]``, or None.
    """

    own: Tensor
    columns: int
    query: Tensor | None = None
    key: Tensor | None = None


Target = Callable[[Block], Tensor]
"""Non-negative target weights ``[r, N]`` of a block of rows."""


def identity(block: Block) -> Tensor:
    """Only a row's own key is a positive (InfoNCE)."""
    target = torch.zeros(len(block.own), block.columns, device=block.own.device)
    return target.scatter_(1, block.own[:, None], 1.0)


def equal_key(block: Block) -> Tensor:
    """All keys with the row's integer context share the positive mass, and so does the row's own key.

    Context: int64 ``[M]`` (fVLM's targets with a key for each text and one for each "normal, same organ").
    """
    if block.query is None or block.key is None:
        raise ValueError("equal_key needs the keys of queries and keys as context.")
    same = (block.query[:, None] == block.key[None, :]).float()
    same = same.scatter(1, block.own[:, None], 1.0)
    return same / same.sum(1, keepdim=True)
