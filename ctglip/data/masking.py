"""Which words of a report are hidden from a model that must say them, and how much each counts (ECAMP).

In a report without an entity each word is hidden with p = 0.75. In others: words with p = 0.7, entities with 0.75, and
the two pieces before an entity, which describe it. The paper says that these are hidden; in the released code the
branch that would do so never runs, so they are hidden like any other word (``descriptors``). The words of "there is no
evidence of" and "there is no" count 0.05; descriptors, or all, count so much more that the sum of the weights stays
the length of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from ctglip.config import Settings
from ctglip.reports.wordpiece import Pieces, WordPieces

TEMPLATES = ("there is no evidence of", "there is no")
TEMPLATE_WEIGHT = 0.05
_BEFORE = 2
"""Pieces before an entity that describe it."""


class MaskingSettings(Settings):
    """How words are hidden.

    Attributes:
        kind: ``entity``, or ``uniform``: every word with ``word``, all of one weight (plain masked modelling).
        descriptors: what is done with an entity's descriptors: ``paper`` hides them, ``released`` treats them as any
            other word.
        word: chance of a word in a report without entities.
        context: chance of a word in a report with entities.
        entity: chance of an entity.
    """

    kind: Literal["entity", "uniform"] = "entity"
    descriptors: Literal["paper", "released"] = "paper"
    word: float = Field(default=0.75, gt=0, lt=1)
    context: float = Field(default=0.7, gt=0, lt=1)
    entity: float = Field(default=0.75, gt=0, lt=1)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.kind == "entity" else dict.fromkeys(("descriptors", "context", "entity"), "kind is uniform")


@dataclass(frozen=True)
class MaskedWords:
    """A text to be filled in.

    Attributes:
        ids: pieces, hidden ones replaced by [MASK].
        hidden: which were replaced.
        weights: how much each piece counts; their sum is the length.
        entity: pieces that are entities.
        focus: entities and their descriptors: what a text-attended window looks at.
    """

    ids: Int[np.ndarray, " l"]
    hidden: Bool[np.ndarray, " l"]
    weights: Float[np.ndarray, " l"]
    entity: Bool[np.ndarray, " l"]
    focus: Bool[np.ndarray, " l"]


class EntityMasker:
    """Hides words.

    Args:
        pieces: the vocabulary.
        entities: words that stand for entities; those that are not one piece of the vocabulary never match (as in the
            released code).
        settings: chances.
    """

    def __init__(self, pieces: WordPieces, entities: Iterable[str], settings: MaskingSettings | None = None) -> None:
        self.settings = settings or MaskingSettings()
        self.pieces = pieces
        found = (pieces.ids_of(word) for word in entities)
        single = {ids[0] for ids in found if len(ids) == 1} - {pieces.unknown}
        self.entities = np.array(sorted(single), dtype=np.int64)
        self.stop = pieces.ids_of(".")
        self.templates = [pieces.ids_of(text) for text in TEMPLATES]

    def __call__(self, text: Pieces, rng: np.random.Generator) -> MaskedWords:
        """One text.

        Args:
            text: its pieces.
            rng: draws what is hidden; equally many numbers for every text.
        """
        ids, settings = text.ids, self.settings
        there = (ids != self.pieces.pad) & (np.arange(len(ids)) > 0) & (np.arange(len(ids)) < len(ids) - 1)
        there = np.logical_and.accumulate(there[1:])  # the walk ends at the first padding
        there = np.concatenate([[False], there])
        entity = np.isin(ids, self.entities) & there & ~text.inside
        described = self._described(ids, entity)
        first, second = rng.random((2, len(ids)))
        plain = settings.kind == "uniform" or not entity.any()
        hidden = there & (first < (settings.word if plain else settings.context))
        if not plain:
            hidden &= ~entity
        hidden = _complete_words(hidden, text.inside) & there
        if not plain:
            hidden[entity] = second[entity] < settings.entity
            if settings.descriptors == "paper":
                hidden |= _words_of(described & ~entity, text.inside) & there & ~entity
        weights = np.ones(len(ids)) if settings.kind == "uniform" else self.weights(ids, described)
        masked_ids = np.where(hidden, self.pieces.mask, ids)
        return MaskedWords(masked_ids, hidden, weights.astype(np.float32), entity, entity | described)

    def weights(self, ids: Int[np.ndarray, " l"], described: Bool[np.ndarray, " l"]) -> Float[np.ndarray, " l"]:
        """How much each piece counts: templates little, descriptors more, or all where there is no descriptor.

        Args:
            ids: the text's true pieces.
            described: the descriptors.
        """
        down = np.zeros(len(ids), bool)
        for template in self.templates:
            down |= _occurrences(ids, template)
        weights = np.where(down, TEMPLATE_WEIGHT, 1.0)
        less = 1 - TEMPLATE_WEIGHT
        d, m, both = int(down.sum()), int(described.sum()), int((down & described).sum())
        if d and m:
            weights[described] *= (less * (d - both) + m) / (m - less * both)
        elif d:
            weights *= len(ids) / (len(ids) - less * d)
        return weights

    def _described(self, ids: Int[np.ndarray, " l"], entity: Bool[np.ndarray, " l"]) -> Bool[np.ndarray, " l"]:
        """The pieces before each entity that are no full stop; other entities among them."""
        found = np.zeros(len(ids), bool)
        for back in range(1, _BEFORE + 1):
            found[:-back] |= entity[back:]
        found[0] = False
        return found & ~np.isin(ids, self.stop)


def _complete_words(hidden: Bool[np.ndarray, " l"], inside: Bool[np.ndarray, " l"]) -> Bool[np.ndarray, " l"]:
    """Every piece as the first piece of its word."""
    starts = np.maximum.accumulate(np.where(inside, 0, np.arange(len(inside))))
    return hidden[starts]


def _words_of(some: Bool[np.ndarray, " l"], inside: Bool[np.ndarray, " l"]) -> Bool[np.ndarray, " l"]:
    """All pieces of the words that some pieces belong to."""
    word = np.cumsum(~inside)
    return np.isin(word, word[some])


def _occurrences(ids: Int[np.ndarray, " l"], phrase: Sequence[int]) -> Bool[np.ndarray, " l"]:
    """The places of a phrase in a text."""
    found = np.zeros(len(ids), bool)
    if len(phrase) > len(ids):
        return found
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(phrase))
    for start in np.flatnonzero((windows == np.array(phrase)).all(1)):
        found[start : start + len(phrase)] = True
    return found
