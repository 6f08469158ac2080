"""Texts that are false of an organ, drawn from what reports of a split affirm of others."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64

from ctglip.data.captions import FindingTexts, OrganCaptions, Paraphrases, worded
from ctglip.data.samples import NO_TEXT
from ctglip.data.sampling import Rows
from ctglip.vocabulary.negatives import CONFUSABLE_WEIGHT, Strategy

_REMEMBERED = 2_000
"""Captions whose false texts are remembered."""
_NONE = np.zeros(0, dtype=np.int64)
_WORD = 64
"""Bits of a whole number."""


class Negatives:
    """Draws texts that are false of an organ: what its report denies first, then what other studies' reports affirm.

    What is false of whom is worked out once for each saying (of very many, now and then anew).

    Args:
        paraphrases: (organ, abnormality) -> how it is affirmed.
        strategy: ``none`` and ``batch`` draw nothing here, ``random`` draws from all abnormalities, ``same_organ`` from
            this organ's, ``confusable`` likewise, but what is easily mistaken more often.
    """

    def __init__(self, paraphrases: Mapping[tuple[str, str], Paraphrases], strategy: Strategy = "same_organ") -> None:
        self.paraphrases = paraphrases
        self.strategy: Strategy = strategy
        self._false: dict[Hashable, _False] = {}
        self._affirmed: dict[str, _Affirmed] = {}

    def draw(
        self, captions: OrganCaptions, count: int, report_wording: float, rng: np.random.Generator
    ) -> Int[np.ndarray, " k"]:
        """So many texts; missing ones are ``NO_TEXT``.

        Args:
            report_wording: probability of a report's words where there are any.
        """
        false = self._of(captions)
        if not (count and len(false.rows)):
            return np.full(count, NO_TEXT, dtype=np.int64)
        first = [false.denied[i] for i in rng.permutation(len(false.denied))[:count]] if len(false.denied) else []
        out = []
        for number, (which, caption, wording, position) in enumerate(rng.random((count, 4)).tolist()):
            row = first[number] if number < len(first) else bisect_right(false.cumulative, which)
            finding = false.finding_texts[false.rows[row]]
            chosen = finding.captions[bisect_right(finding.cumulative, caption)]
            out.append(worded(chosen, wording < report_wording, position))
        return np.array(out, dtype=np.int64)

    def _of(self, captions: OrganCaptions) -> _False:
        near = captions.near if self.strategy == "confusable" else None
        key = (captions.organ, captions.hard, captions.others, near, self._elsewhere(captions))
        if key not in self._false:
            if len(self._false) >= _REMEMBERED:
                self._false.clear()
            self._false[key] = self._worked_out(captions)
        return self._false[key]

    def _elsewhere(self, captions: OrganCaptions) -> frozenset[str] | None:
        return captions.possible if self.strategy == "random" else None

    def _worked_out(self, captions: OrganCaptions) -> _False:
        """Claims of which no part can be true of the study's organ, nor, where organs are mixed, of any other organ."""
        if self.strategy in ("none", "batch"):
            return _False((), _NONE, np.zeros(0), _NONE)
        affirmed = self._affirmed_of(captions.organ)
        rows, denied = affirmed.within({*captions.hard, *captions.others}), affirmed.within(set(captions.hard))
        if self.strategy == "random":
            others = (words for (organ, _), words in self.paraphrases.items() if organ != captions.organ)
            every = (one for words in others for one in words.finding_texts)
            apart = list(dict.fromkeys(one for one in every if one.names.isdisjoint(captions.possible)))
            rows = np.append(rows, len(affirmed.finding_texts) + np.arange(len(apart)))
            also = [number for number, one in enumerate(apart) if one.names.issubset(captions.hard)]
            denied = np.append(denied, len(affirmed.finding_texts) + np.array(also, dtype=np.int64))
            affirmed = _Affirmed((*affirmed.finding_texts, *apart), ())
        weights = affirmed.totals[rows]
        if self.strategy == "confusable":
            weights[np.isin(rows, affirmed.touching(captions.near))] *= CONFUSABLE_WEIGHT
        sums = np.cumsum(weights)
        return _False(affirmed.finding_texts, rows, sums / sums[-1:], np.searchsorted(rows, denied))

    def _affirmed_of(self, organ: str) -> _Affirmed:
        if organ not in self._affirmed:
            names = sorted(name for other, name in self.paraphrases if other == organ)
            every = (finding for name in names for finding in self.paraphrases[organ, name].finding_texts)
            self._affirmed[organ] = _Affirmed(tuple(dict.fromkeys(every)), names)
        return self._affirmed[organ]


class _Affirmed:
    """What reports affirm of an organ, those first whose abnormalities' names come first.

    Args:
        finding_texts: in this order.
        names: the organ's abnormalities.

    Attributes:
        totals: of each, how likely it is drawn.
    """

    def __init__(self, finding_texts: tuple[FindingTexts, ...], names: Sequence[str]) -> None:
        self.finding_texts = finding_texts
        self.totals = np.array([finding.total for finding in finding_texts])
        self._numbers = {name: number for number, name in enumerate(names)}
        holds = np.zeros((len(finding_texts), _WORD * (1 + len(names) // _WORD)), dtype=bool)
        for row, finding in enumerate(finding_texts):
            holds[row, [self._numbers.get(name, -1) for name in finding.names]] = True
        self._holds = np.ascontiguousarray(np.packbits(holds, axis=1).view(np.uint64).T)

    def within(self, names: Set[str]) -> Rows:
        """Those that affirm nothing but some abnormalities."""
        return np.flatnonzero(np.bitwise_or.reduce(self._holds & ~self._marked(names)) == 0)

    def touching(self, names: Set[str]) -> Rows:
        """Those that affirm any of some abnormalities."""
        return np.flatnonzero(np.bitwise_or.reduce(self._holds & self._marked(names)))

    def _marked(self, names: Set[str]) -> UInt64[np.ndarray, "words 1"]:
        """A bit for each name, as in ``_holds``: one more than there are names is for those of other organs."""
        found = np.zeros(_WORD * len(self._holds), dtype=bool)
        found[[self._numbers[name] for name in names if name in self._numbers]] = True
        return np.packbits(found).view(np.uint64)[:, None]


@dataclass(frozen=True)
class _False:
    """Claims that are false of an organ.

    Attributes:
        finding_texts: all that reports affirm.
        rows: which of them are false.
        cumulative: how likely each of these is, added up.
        denied: which of these its report denies.
    """

    finding_texts: Sequence[FindingTexts]
    rows: Rows
    cumulative: Float[np.ndarray, " n"]
    denied: Rows
