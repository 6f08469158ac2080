"""Which organs meet in a batch: few organs, many studies of each, abnormal ones as often as normal ones.

Texts of the same organ are the informative contrast (fatty liver against normal liver); texts of other organs are told
apart at a glance. A batch is a function of (seed, step), so a run can go on at any step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from pydantic import Field

from ctglip.config import Settings

T = TypeVar("T")


class SamplingSettings(Settings):
    """What a batch is made of.

    Attributes:
        batch: organs in a batch.
        organs: different organs in a batch.
        abnormal: share of abnormal ones, where the organ has any.
        silent: share of organs that no text can be given of (they teach anatomy alone).
    """

    batch: int = Field(default=48, ge=2)
    organs: int = Field(default=6, ge=1)
    abnormal: float = Field(default=0.5, ge=0, le=1)
    silent: float = Field(default=0.0, ge=0, le=1)


def rows_of_rank(rows: Sequence[T], rank: int, world: int) -> list[T]:
    """A rank's share of a batch: every ``world``-th row, so that all ranks have of every organ and kind.

    Args:
        rows: of the whole batch, the same on all ranks.
        rank: 0 .. world - 1.
    """
    return list(rows[rank::world])


def rows_of_epoch(count: int, batch: int, seed: int, step: int) -> list[int]:
    """The rows of a step's batch, of all ranks: each of ``count`` rows is seen once before any is seen again."""
    batch = min(batch, count)
    epoch, position = divmod(step, count // batch)
    order = np.random.default_rng([seed, 0, epoch]).permutation(count)
    return order[position * batch : (position + 1) * batch].tolist()


def in_random_order(rows: Sequence[T] | np.ndarray, rng: np.random.Generator) -> Iterator[T]:
    """Each row once, in random order: a few of very many cost no more than a few (Fisher and Yates's shuffle)."""
    moved: dict[int, int] = {}
    for position in range(len(rows)):
        other = int(rng.integers(position, len(rows)))
        yield rows[moved.get(other, other)]
        moved[other] = moved.pop(position, position)


Rows = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Pools:
    """The rows of each organ, by what they are drawn for, ascending.

    Attributes:
        organs: all of them, sorted.
        abnormal: organ -> the rows of each abnormality that reports affirm in it, that of the first row first.
        normal, silent: organ -> rows of that kind.
    """

    organs: Sequence[str]
    abnormal: Mapping[str, Sequence[Rows]]
    normal: Mapping[str, Rows]
    silent: Mapping[str, Rows]


class BalancedSampler:
    """Draws batches of dataset rows.

    Abnormal rows are drawn by abnormality first, so that a rare one is seen as often as a common one.

    Args:
        pools: of the dataset.
        settings: see :class:`SamplingSettings`.
        seed: of everything drawn.
    """

    def __init__(self, pools: Pools, settings: SamplingSettings, seed: int) -> None:
        self.pools, self.settings, self.seed = pools, settings, seed

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step: rows are drawn from it first, then texts and augmentations."""
        return np.random.default_rng([self.seed, step])

    def rows(self, rng: np.random.Generator) -> list[int]:
        """One batch: rows of the dataset, none twice."""
        organs = self.pools.organs
        chosen_count = min(self.settings.organs, len(organs))
        chosen = rng.permutation(len(organs))[:chosen_count]
        shares = np.full(chosen_count, self.settings.batch // chosen_count)
        shares[: self.settings.batch % chosen_count] += 1
        rows: list[int] = []
        for organ, share in zip(chosen, shares, strict=True):
            rows += self._of_organ(organs[int(organ)], int(share), rng)
        return rows

    def _of_organ(self, organ: str, count: int, rng: np.random.Generator) -> list[int]:
        """Rows of one organ; where a kind runs out, the others fill up."""
        pools = self.pools
        silent = _some(pools.silent[organ], round(self.settings.silent * count), rng)
        room = count - len(silent)
        abnormal = self._abnormal_rows(organ, round(self.settings.abnormal * room), rng, ())
        normal = _some(pools.normal[organ], room - len(abnormal), rng)
        missing = room - len(abnormal) - len(normal)
        more = self._abnormal_rows(organ, missing, rng, abnormal)
        missing -= len(more)
        others = np.setdiff1d(pools.silent[organ], silent, assume_unique=True) if missing else ()
        return [*abnormal, *normal, *more, *silent, *_some(others, missing, rng)]

    def _abnormal_rows(self, organ: str, count: int, rng: np.random.Generator, taken: Iterable[int]) -> list[int]:
        taken = set(taken)
        pools = self.pools.abnormal.get(organ, ())
        out: list[int] = []
        for which, position in rng.random((4 * count if pools else 0, 2)).tolist():
            pool = pools[int(which * len(pools))]
            row = int(pool[int(position * len(pool))])
            if row not in taken:
                taken.add(row)
                out.append(row)
            if len(out) == count:
                break
        return out


def _some(rows: Sequence[int] | Rows, count: int, rng: np.random.Generator) -> list[int]:
    return [int(row) for row in islice(in_random_order(rows, rng), count)]
