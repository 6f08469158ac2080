"""Which key is how much a positive of which query: soft targets of a contrast, built for a block of rows at a time.

A target is a function of a ``Block``; it never builds the whole matrix unless the block is the whole matrix. Its
weights need not sum to one in a row (IMITATE's do not). A pair whose weight is ``EXCLUDED`` leaves the softmax: it is
neither positive nor negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

EXCLUDED = -1.0
"""The weight of a pair that is left out of the comparison."""


@dataclass(frozen=True)
class Block:
    """Some rows of the pair matrix.

    Attributes:
        paired: int64 ``[r]``, for each row the column of its own key.
        columns: number of keys N.
        query: context of the rows ``[r, ...]`` (keys, tags, text embeddings), or None.
        key: context of all columns ``[N, ...]``, or None.
    """

    paired: Tensor
    columns: int
    query: Tensor | None = None
    key: Tensor | None = None

    def contexts(self) -> tuple[Tensor, Tensor]:
        """Both contexts, or an error that says that they are missing."""
        if self.query is None or self.key is None:
            raise ValueError("This target needs a context for each row; pass `context=`.")
        return self.query, self.key

    def is_paired(self) -> Tensor:
        """Bool ``[r, N]``, true at each row's own key."""
        mask = torch.zeros(len(self.paired), self.columns, dtype=torch.bool, device=self.paired.device)
        return mask.scatter_(1, self.paired[:, None], True)


PairTarget = Callable[[Block], Tensor]
"""PairTarget weights ``[r, N]`` of a block of rows."""


def identity(block: Block) -> Tensor:
    """Only a row's own key is a positive (InfoNCE)."""
    return block.is_paired().float()


def equal_key(block: Block) -> Tensor:
    """All keys with the row's integer context share the positive mass, and so does the row's own key.

    Context: int64 ``[M]`` (fVLM's targets with a key for each text and one for each "normal, same organ").

    Examples:
        >>> import torch
        >>> from ctglip.losses import equal_key, soft_contrastive
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> same = torch.tensor([7, 7])
        >>> round(soft_contrastive(rows, rows, scale=10.0, target=equal_key, context=same).item(), 4)
        0.6931
    """
    query, key = block.contexts()
    same = ((query[:, None] == key[None, :]) | block.is_paired()).float()
    return same / same.sum(1, keepdim=True)


def equal_ignored(block: Block) -> Tensor:
    """A row's own key is its only positive; other keys with the row's integer context are no negatives.

    Context: int64 ``[M]``.
    """
    query, key = block.contexts()
    paired = block.is_paired()
    return paired.float().masked_fill((query[:, None] == key[None, :]) & ~paired, EXCLUDED)


def hierarchy_aware(related: Tensor) -> PairTarget:
    """Equal keys share the positive mass; pairs that may be true of each other are left out.

    Context: int64 ``[M, 1 + A]``: the text key, then 0/1 for each of A abnormalities that the text affirms.
    A pair of different keys is ignored when all findings of one of its texts are implied by those of the other
    ("renal lesion" beside "renal cyst"); a text without findings implies nothing and is implied by nothing.

    Args:
        related: bool ``[A, A]``, row a is true at a itself and at every ancestor of a.
    """

    def target(block: Block) -> Tensor:
        """Shares of the positive mass, ``EXCLUDED`` where a pair is left out."""
        query, key = block.contexts()
        weights = equal_key(Block(block.paired, block.columns, query[:, 0], key[:, 0]))
        implied = related.to(query.device).float()
        mine, theirs = query[:, 1:].float(), key[:, 1:].float()
        closed_mine, closed_theirs = (mine @ implied).clamp(max=1), (theirs @ implied).clamp(max=1)
        implied_by_row = (theirs.sum(1)[None, :] - closed_mine @ theirs.T) < 0.5
        implied_by_column = (mine.sum(1)[:, None] - mine @ closed_theirs.T) < 0.5
        both = (mine.sum(1)[:, None] > 0) & (theirs.sum(1)[None, :] > 0)
        return weights.masked_fill((implied_by_row | implied_by_column) & both & (weights == 0), EXCLUDED)

    return target


Kernel = Literal["exp", "gau", "lap", "sigmoid"]


def mass_as_among(columns: int | None, block: Block) -> float:
    """The factor that gives the soft positives of a row the mass that they have among so many columns; 1 where there
    are no more of them than that, or no number is given."""
    return 1.0 if columns is None else min(1.0, (columns - 1) / max(block.columns - 1, 1))


def clinical_prior(tau: float, kernel: Kernel = "exp", lam: float = 0.2, columns: int | None = None) -> PairTarget:
    """Clinical-informed targets of IMITATE (arXiv 2310.07355): identity plus tau times a kernel of the correlation of
    the frozen text embeddings. Not normalised; the kernel is applied after the diagonal was set to zero.

    Context: frozen text embeddings ``[M, P]``.

    Args:
        tau: the contrast's temperature, by which the soft part is multiplied.
        kernel: ``exp``: 1 - exp(-lam c); ``gau``, ``lap``: the standard densities of c; ``sigmoid``.
        lam: strength of ``exp``.
        columns: the soft part weighs as among so many columns, however many there are (``mass_as_among``).
    """
    kernels: dict[str, Callable[[Tensor], Tensor]] = {
        "exp": lambda c: 1 - torch.exp(-lam * c),
        "gau": lambda c: torch.exp(-c.square() / 2) / math.sqrt(2 * math.pi),
        "lap": lambda c: torch.exp(-c.abs()) / 2,
        "sigmoid": torch.sigmoid,
    }

    def target(block: Block) -> Tensor:
        query, key = (F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in block.contexts())
        paired = block.is_paired()
        correlation = (query @ key.T).clamp(min=0).masked_fill(paired, 0)
        soft = tau * mass_as_among(columns, block) * kernels[kernel](correlation)
        return paired.to(correlation.dtype) + soft

    return target


def tag_overlap(alpha: float = 0.2, eps: float = 1e-6, columns: int | None = None) -> PairTarget:
    """External soft labels of ASG (arXiv 2403.09294): (1 - alpha) identity + alpha cosine of tags + eps, rows summing
    to one.

    Context: 0/1 tags ``[M, T]``; a row without tags overlaps with nothing.

    Args:
        alpha: share of the overlap.
        eps: added to every pair.
        columns: other rows weigh as among so many columns, however many there are (``mass_as_among``).
    """

    def target(block: Block) -> Tensor:
        query, key = (F.normalize(x, dim=1) for x in _floats(block))
        paired = block.is_paired()
        weights = (1 - alpha) * paired.to(query.dtype) + alpha * (query @ key.T) + eps
        weights = torch.where(paired, weights, weights * mass_as_among(columns, block))
        return weights / weights.sum(1, keepdim=True)

    return target


def _floats(block: Block) -> tuple[Tensor, Tensor]:
    query, key = block.contexts()
    kind = query.dtype if query.is_floating_point() else torch.float32
    return query.to(kind), key.to(kind)
