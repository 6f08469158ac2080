"""Which pictures does a sentence speak of, which sentences does a picture deserve? One by one across the batch.

The finer form of PLACE's alignment (re-implementation from the abstract, arXiv 2506.10573; this project's own): no set
is compared with a set, so a sentence that many reports have has many right pictures, and what contradicts a sentence
can stand against it alone. Vectors are used as they are (normalise before).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.chunks import chunked_sum
from ctglip.losses.contrastive import exact
from ctglip.losses.gather import gather_rows, ranked_mean, row_counts, world_size
from ctglip.losses.observations import SetSimilarity

_MASKED = -1e30


@dataclass(frozen=True)
class Mentions:
    """The sentences of B reports, without gradients.

    Attributes:
        key: equal for sentences that say the same; -1 where there is no sentence.
        weight: of the sentences, not negative.
        affirmed, denied: what each sentence says of each of T things, for ``contradictions``.
    """

    key: Int[Tensor, "b k"]
    weight: Float[Tensor, "b k"]
    affirmed: Bool[Tensor, "b k t"] | None = None
    denied: Bool[Tensor, "b k t"] | None = None

    def flat(self) -> Mentions:
        """One row for each sentence, those that are none too."""
        said = (None if value is None else value.flatten(0, 1)[:, None] for value in (self.affirmed, self.denied))
        return Mentions(self.key.view(-1, 1), self.weight.view(-1, 1), *said)

    def of_all_ranks(self, gather: bool) -> Mentions:
        """The same with those of the other ranks."""
        if not gather or world_size() == 1:
            return self
        said = (None if v is None else gather_rows(v.long()).bool() for v in (self.affirmed, self.denied))
        return Mentions(gather_rows(self.key), gather_rows(self.weight), *said)


def mention_contrast(
    visual: Float[Tensor, "b q e"],
    textual: Float[Tensor, "b k e"],
    mentions: Mentions,
    scale: Float[Tensor, ""] | float,
    similarity: SetSimilarity | None = None,
    *,
    chunk: int | None = None,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """InfoNCE between pictures and single sentences of the whole batch, averaged over both directions.

    A picture is as like a sentence as its best observation is. From a picture: every sentence of the batch once, those
    that its own report has share the positive mass by their weights. From a sentence: every picture, those whose report
    has it share the mass; a mean by the sentences' weights.

    Args:
        visual: observations of each picture.
        textual: the sentences of its report.
        mentions: which these are.
        scale: inverse temperature.
        similarity: what the best observation is.
        chunk: pictures (or reports) at a time, value and gradient together.
        gather: compare with the sentences and pictures of all ranks.

    Returns:
        A scalar; zero with a gradient where no sentence has a weight.
    """
    with torch.autocast(visual.device.type, enabled=False):
        visual, textual = exact(visual), exact(textual)
        pictures, reports = _everyone(visual, textual, gather)
        all_said = mentions.of_all_ranks(gather)
        every = all_said.flat()
        scale = torch.as_tensor(scale, dtype=visual.dtype, device=visual.device)
        similarity = similarity or SetSimilarity()
        heard, weight = every.key[:, 0], mentions.weight.to(visual.dtype).where(mentions.key >= 0, 0)
        often = _often(heard).to(visual.dtype)

        def of_pictures(start: int, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
            own = slice(start, start + len(rows))
            logits = factor * _alike(similarity, rows, columns.flatten(0, 1))
            same = (mentions.key[own, :, None] == heard) & (heard >= 0)  # [r, k, n]
            mass = (same.to(logits.dtype) * weight[own, :, None]).amax(1) / often
            mass = mass / mass.sum(1, keepdim=True).clamp(min=1e-12)
            counted = (logits - often.log()).masked_fill(heard < 0, _MASKED)
            return (counted.logsumexp(1) * (mass.sum(1) > 0) - (mass * logits).sum(1)).sum()

        def of_sentences(start: int, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
            own = slice(start, start + len(rows))
            logits = factor * _alike(similarity, columns, rows.flatten(0, 1)).T
            asked, heavy = mentions.key[own].flatten(), weight[own].flatten()
            right = (asked[:, None, None] == all_said.key).any(2).to(logits.dtype)
            right = right / right.sum(1, keepdim=True).clamp(min=1)
            return ((logits.logsumexp(1) - (right * logits).sum(1)) * heavy).sum()

        first = _summed(of_pictures, chunk, visual, reports, scale)
        second = _summed(of_sentences, chunk, textual, pictures, scale)
        told = (weight > 0).any(1).sum()
        return (ranked_mean(first, told, gather) + ranked_mean(second, weight.sum(), gather)) / 2


def contradictions(
    visual: Float[Tensor, "b q e"],
    textual: Float[Tensor, "b k e"],
    mentions: Mentions,
    scale: Float[Tensor, ""] | float,
    similarity: SetSimilarity | None = None,
    *,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Each sentence of a picture's report against all sentences of the batch that contradict it: that affirm a thing
    which it denies, or the other way round. What zero-shot questions ask.

    Args:
        As ``mention_contrast``; ``mentions`` with what is affirmed and denied.

    Returns:
        Mean by weight over the sentences that something contradicts; zero with a gradient where there is none.
    """
    with torch.autocast(visual.device.type, enabled=False):
        visual, textual = exact(visual), exact(textual)
        _, reports = _everyone(visual, textual, gather)
        every = mentions.of_all_ranks(gather).flat()
        similarity = similarity or SetSimilarity()
        (yes, no), (other_yes, other_no) = _said(mentions, visual), _said(every, visual)
        against = (yes @ other_no[:, 0].T + no @ other_yes[:, 0].T > 0) & (every.key[:, 0] >= 0)
        logits = scale * _alike(similarity, visual, reports.flatten(0, 1)) - _often(every.key[:, 0]).to(visual).log()
        own = scale * similarity.best(torch.einsum("bqe,bke->bkq", visual, textual))
        others = logits[:, None].masked_fill(~against, _MASKED).logsumexp(2)
        weight = mentions.weight.to(visual.dtype).where(against.any(2) & (mentions.key >= 0), 0)
        return ranked_mean((F.softplus(others - own) * weight).sum(), weight.sum(), gather)


def _alike(
    similarity: SetSimilarity, visual: Float[Tensor, "a q e"], said: Float[Tensor, "n e"]
) -> Float[Tensor, "a n"]:
    return similarity.best(torch.einsum("aqe,ne->anq", visual, said))


def _often(key: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How often each key is there."""
    _, place, count = key.unique(return_inverse=True, return_counts=True)
    return count[place]


def _everyone(visual: Tensor, textual: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Pictures and reports of all ranks, in one collective."""
    if not gather or world_size() == 1:
        return visual, textual
    both = gather_rows(torch.cat([visual, textual], dim=1), row_counts(visual))
    pictures, reports = both.split([visual.shape[1], textual.shape[1]], dim=1)
    return pictures, reports


def _said(mentions: Mentions, like: Tensor) -> tuple[Tensor, Tensor]:
    assert mentions.affirmed is not None
    assert mentions.denied is not None
    return mentions.affirmed.to(like), mentions.denied.to(like)


def _summed(block: Callable[..., Tensor], chunk: int | None, *inputs: Tensor) -> Tensor:
    if not len(inputs[0]):
        return torch.stack([value.sum() * 0 for value in inputs]).sum()
    return block(0, *inputs) if chunk is None else chunked_sum(block, chunk, *inputs)
