"""Which organs meet in a batch: few organs, many studies of each, abnormal ones as often as normal ones.

Texts of the same organ are the informative contrast (fatty liver against normal liver); texts of other organs are told
apart at a glance. A batch is a function of (seed, step), so a run can go on at any step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.sayings import OrganSayings


class SamplingSettings(Settings):
    """What a batch is made of.

    Attributes:
        batch: organs in a batch.
        organs: different organs in a batch.
        abnormal: share of abnormal ones, where the organ has any.
        silent: share of organs of which nothing is said (they teach anatomy alone).
    """

    batch: int = Field(default=48, ge=2)
    organs: int = Field(default=6, ge=1)
    abnormal: float = Field(default=0.5, ge=0, le=1)
    silent: float = Field(default=0.0, ge=0, le=1)


class BalancedSampler:
    """Draws batches of dataset rows.

    Abnormal rows are drawn by abnormality first, so that a rare one is seen as often as a common one.

    Args:
        sayings: what is said of each row of the dataset.
        settings: see :class:`SamplingSettings`.
        seed: of everything drawn.
    """

    def __init__(self, sayings: Sequence[OrganSayings], settings: SamplingSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        abnormal: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._normal: dict[str, list[int]] = defaultdict(list)
        self._silent: dict[str, list[int]] = defaultdict(list)
        for row, said in enumerate(sayings):
            for name in said.affirmed:
                abnormal[said.organ][name].append(row)
            if said.kind == "normal":
                self._normal[said.organ].append(row)
            elif said.kind == "silent":
                self._silent[said.organ].append(row)
        self._abnormal = {organ: list(by_name.values()) for organ, by_name in abnormal.items()}
        self.organs = sorted({said.organ for said in sayings})

    def rng(self, step: int) -> np.random.Generator:
        """The generator of one step: rows are drawn from it first, then texts and augmentations."""
        return np.random.default_rng([self.seed, step])

    def rows(self, rng: np.random.Generator) -> list[int]:
        """One batch: rows of the dataset, none twice."""
        wanted = min(self.settings.organs, len(self.organs))
        chosen = rng.permutation(len(self.organs))[:wanted]
        shares = np.full(wanted, self.settings.batch // wanted)
        shares[: self.settings.batch % wanted] += 1
        rows: list[int] = []
        for organ, share in zip(chosen, shares, strict=True):
            rows += self._of_organ(self.organs[organ], int(share), rng)
        return rows

    def _of_organ(self, organ: str, count: int, rng: np.random.Generator) -> list[int]:
        """Rows of one organ; where a kind runs out, the others fill up."""
        silent = self._some(self._silent[organ], round(self.settings.silent * count), rng)
        room = count - len(silent)
        abnormal = self._abnormal_rows(organ, round(self.settings.abnormal * room), rng)
        normal = self._some(self._normal[organ], room - len(abnormal), rng)
        missing = room - len(abnormal) - len(normal)
        more = self._abnormal_rows(organ, missing, rng, set(abnormal))
        rest = self._some([r for r in self._silent[organ] if r not in silent], missing - len(more), rng)
        return [*abnormal, *normal, *more, *silent, *rest]

    def _abnormal_rows(
        self, organ: str, count: int, rng: np.random.Generator, taken: set[int] | None = None
    ) -> list[int]:
        taken = set(taken or ())
        pools = self._abnormal.get(organ, [])
        out: list[int] = []
        for _ in range(4 * count if pools else 0):
            pool = pools[int(rng.integers(len(pools)))]
            row = pool[int(rng.integers(len(pool)))]
            if row not in taken:
                taken.add(row)
                out.append(row)
            if len(out) == count:
                break
        return out

    @staticmethod
    def _some(rows: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
        picked = rng.permutation(len(rows))[: max(count, 0)]
        return [rows[int(i)] for i in picked]
