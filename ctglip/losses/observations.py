"""Sets of observations: what a picture shows (several vectors) beside what a report says (a vector for each sentence).

The pathology-level alignment of PLACE (re-implementation from the abstract, arXiv 2506.10573): no equation of it is
public, all definitions are this project's own. Vectors are used as they are (normalise before).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.chunks import chunked_sum
from ctglip.losses.contrastive import exact
from ctglip.losses.gather import gather_rows, ranked_mean, row_counts, world_size
from ctglip.losses.targets import Block, equal_key

_MASKED = -1e30
"""A similarity that never counts; finite, so that its gradient is zero and not NaN."""


@dataclass(frozen=True)
class SetSimilarity:
    """How alike two sets of vectors are: for each sentence the observation that answers it best, mean over sentences.

    Attributes:
        reduce: the best one (``max``), or a soft one: ``temperature * log mean exp(x / temperature)``, between mean
            and maximum (``logsumexp``).
        temperature: of the soft one.
        symmetric: the mean of that and of the same from observations to sentences; otherwise sentences alone ask.
    """

    reduce: Literal["max", "logsumexp"] = "max"
    temperature: float = 0.1
    symmetric: bool = True

    def __call__(
        self,
        visual: Float[Tensor, "a q e"],
        textual: Float[Tensor, "b k e"],
        valid: Bool[Tensor, "b k"],
    ) -> Float[Tensor, "a b"]:
        """Of every picture with every report; memory O(a x b x q x k).

        Args:
            visual: observations of pictures.
            textual: sentences of reports.
            valid: False where there is no sentence; every report has one.
        """
        pairs = torch.einsum("aqe,bke->abkq", visual, textual)
        of_sentences = (self.best(pairs) * valid).sum(2) / valid.sum(1)
        if not self.symmetric:
            return of_sentences
        of_observations = self.best(pairs.transpose(2, 3), valid[None, :, None, :]).mean(2)
        return (of_sentences + of_observations) / 2

    def best(self, pairs: Float[Tensor, "*n q"], valid: Bool[Tensor, "*m q"] | None = None) -> Float[Tensor, "*n"]:
        """The best answer along the last axis, of those that are there."""
        hidden = pairs if valid is None else pairs.masked_fill(~valid, _MASKED)
        if self.reduce == "max":
            return hidden.amax(-1)
        count = pairs.shape[-1] if valid is None else valid.sum(-1)
        count = torch.as_tensor(count, dtype=pairs.dtype, device=pairs.device)
        return self.temperature * ((hidden / self.temperature).logsumexp(-1) - count.log())


def set_contrast(
    visual: Float[Tensor, "b q e"],
    textual: Float[Tensor, "b k e"],
    valid: Bool[Tensor, "b k"],
    scale: Float[Tensor, ""] | float,
    similarity: SetSimilarity | None = None,
    *,
    key: Int[Tensor, " b"] | None = None,
    chunk: int | None = None,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """InfoNCE across the batch between pictures and reports as sets, averaged over both directions.

    Args:
        visual: observations of each picture.
        textual: sentences of its report.
        valid: False where there is no sentence; a report without any takes no part.
        scale: inverse temperature.
        similarity: how sets are compared.
        key: reports of one key share the positive mass; only a picture's own report is right where None.
        chunk: rows at a time, value and gradient together: memory O(chunk x B x q x k).
        gather: compare with the reports and pictures of all ranks.

    Returns:
        A scalar; zero with a gradient when no report has a sentence.
    """
    similarity = similarity or SetSimilarity()
    with torch.autocast(visual.device.type, enabled=False):
        rows = valid.any(1)
        visual, textual, valid = exact(visual)[rows], exact(textual)[rows], valid[rows]
        key = None if key is None else key[rows]
        pictures, reports, first = _of_all_ranks(visual, textual, gather)
        everyone, keys = (_plain_rows(value, gather) for value in (valid, key))
        assert everyone is not None
        scale = torch.as_tensor(scale, dtype=visual.dtype, device=visual.device)

        def nearest(start: int, logits: Tensor) -> Tensor:
            index = torch.arange(start, start + len(logits), device=logits.device)
            return _cross_entropy(logits, index + first, None if key is None else key[index], keys)

        def of_pictures(start: int, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
            return nearest(start, factor * similarity(rows, columns, everyone))

        def of_reports(start: int, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
            return nearest(start, factor * similarity(columns, rows, valid[start : start + len(rows)]).T)

        sums = []
        for block, *inputs in ((of_pictures, visual, reports, scale), (of_reports, textual, pictures, scale)):
            if not len(visual):
                sums.append(torch.stack([value.sum() * 0 for value in inputs]).sum())
            else:
                sums.append(block(0, *inputs) if chunk is None else chunked_sum(block, chunk, *inputs))
        return ranked_mean((sums[0] + sums[1]) / 2, len(visual), gather)


def _of_all_ranks(visual: Tensor, textual: Tensor, gather: bool) -> tuple[Tensor, Tensor, int]:
    """The same of all ranks, and the place of this rank's first row. Pictures and reports go in one collective, so that
    all ranks run the same ones in the same order in the backward pass too."""
    if not gather or world_size() == 1:
        return visual, textual, 0
    counts = row_counts(visual)
    both = gather_rows(torch.cat([visual, textual], dim=1), counts)
    pictures, reports = both.split([visual.shape[1], textual.shape[1]], dim=1)
    return pictures, reports, sum(counts[: torch.distributed.get_rank()])


def _plain_rows(rows: Tensor | None, gather: bool) -> Tensor | None:
    """Rows without a gradient, of all ranks."""
    if rows is None or not gather or world_size() == 1:
        return rows
    return gather_rows(rows.long()).bool() if rows.dtype == torch.bool else gather_rows(rows)


def answers(
    textual: Float[Tensor, "b k e"], visual: Float[Tensor, "b q e"], temperature: float
) -> Float[Tensor, "b k e"]:
    """What a picture's observations say to each sentence: their mean, weighted by a softmax of their similarities with
    the sentence, at length one (zero stays zero)."""
    weights = (torch.einsum("bke,bqe->bkq", textual, visual) / temperature).softmax(-1)
    return F.normalize(weights @ visual, dim=-1)


def sentence_contrast(
    found: Float[Tensor, "b k e"],
    textual: Float[Tensor, "b k e"],
    valid: Bool[Tensor, "b k"],
    scale: Float[Tensor, ""] | float,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """InfoNCE inside each study between its sentences and what was found for them, averaged over both directions.

    Args:
        found: for each sentence (``answers``).
        textual: the sentences.
        valid: False where there is no sentence.
        scale: inverse temperature.
        gather: mean over the sentences of all ranks.

    Returns:
        Mean over sentences; the only sentence of a study adds zero. Zero with a gradient where there is none.
    """
    with torch.autocast(found.device.type, enabled=False):
        found, textual = exact(found), exact(textual)
        logits = (scale * torch.einsum("bke,bje->bkj", found, textual)).masked_fill(~valid[:, None, :], _MASKED)
        other = (scale * torch.einsum("bke,bje->bkj", textual, found)).masked_fill(~valid[:, None, :], _MASKED)
        terms = sum(
            side.logsumexp(2) - side.diagonal(dim1=1, dim2=2) for side in (logits, other)
        )  # the same place is right in both
        assert isinstance(terms, Tensor)
        return ranked_mean(terms.where(valid, 0).sum() / 2, valid.sum(), gather)


def query_overlap(visual: Float[Tensor, "b q e"], gather: bool = False) -> Float[Tensor, ""]:
    """How much a picture's observations say the same: ``|V V^T - I|^2 / q^2``, mean over pictures.

    Args:
        visual: unit vectors.
        gather: mean over the pictures of all ranks.
    """
    with torch.autocast(visual.device.type, enabled=False):
        visual = exact(visual)
        alike = visual @ visual.transpose(1, 2) - torch.eye(visual.shape[1], device=visual.device, dtype=visual.dtype)
        return ranked_mean(alike.square().mean((1, 2)).sum(), len(visual), gather)


def _cross_entropy(logits: Tensor, paired: Tensor, key: Tensor | None, keys: Tensor | None) -> Tensor:
    """Sum over rows; ``own`` is the right column of each."""
    if key is None:
        return F.cross_entropy(logits, paired, reduction="sum")
    weights = equal_key(Block(paired, logits.shape[1], key, keys)).to(logits.dtype)
    return (logits.logsumexp(1) - (weights * logits).sum(1)).sum()
