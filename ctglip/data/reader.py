"""What inputs are made of: crops of organs, scans on a grid, radiographs. Made when they are asked for, kept in memory
as far as they fit."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ctglip.data.loading import prefetched
from ctglip.errors import CTGLIPError, StoreError
from ctglip.parallel import worker_threads
from ctglip.types import Failure, Progress, Standardized

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
MAX_FAILED_SHARE = 0.05


class StandardizedStudy(Protocol):
    """A standardised study, stored (``StudyReader``) or in memory (``InMemory``)."""

    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image."""
        ...

    def image(self, box: Any = None) -> np.ndarray:
        """int16 HU ``[x, y, z]`` or uint16 ``[row, column]``: whole, or a half-open box of it."""
        ...

    def organs(self, box: Any = None) -> np.ndarray | None:
        """Organ labels like the image, or None."""
        ...


class InMemory:
    """A standardised study that is in no store."""

    def __init__(self, standardized: Standardized) -> None:
        self._standardized, self.affine = standardized, standardized.affine
        self.shape = standardized.image.shape

    def image(self, box: Any = None) -> np.ndarray:
        """The image, or a box of it."""
        return _part(self._standardized.image, box)

    def organs(self, box: Any = None) -> np.ndarray | None:
        """Organ labels, or a box of them; None where it has no masks."""
        labels = self._standardized.organs
        return None if labels is None else _part(labels, box)


def _part(array: np.ndarray, box: Sequence[int] | None) -> np.ndarray:
    return array if box is None else array[tuple(slice(*ends) for ends in zip(box[::2], box[1::2], strict=True))]


class CachedReader(Generic[K, T]):
    """Reads things of a store's studies by their keys: whole studies by their ids, organs by their instances.

    What one process that was forked from this one cannot read, all know of.

    Args:
        load: makes some things of one study: (study id, keys) to one for each key.
        keys: all that can be asked for.
        study_of: the study of a key.
        studies: of all keys, where that is known.
        capacity: how many are kept in memory; the others are made again each time.
        threads: studies read at a time.
        max_damaged: share of the studies that may be unreadable; by default a twentieth.
    """

    def __init__(
        self,
        load: Callable[[str, Sequence[K]], Sequence[T]],
        keys: Sequence[K],
        study_of: Callable[[K], str],
        capacity: int,
        threads: int = 2,
        max_damaged: float | None = None,
        studies: Iterable[str] | None = None,
    ) -> None:
        self.keys, self.study_of, self.threads = keys, study_of, threads
        self.max_damaged = MAX_FAILED_SHARE if max_damaged is None else max_damaged
        self._load, self._capacity = load, capacity
        self._items: dict[K, T] = {}
        names = dict.fromkeys(map(study_of, keys) if studies is None else studies)
        self._numbers = {name: number for number, name in enumerate(names)}
        self._damaged = np.frombuffer(mmap.mmap(-1, max(len(self._numbers), 1)), dtype=np.uint8)
        self._reasons: dict[str, Failure] = {}

    @property
    def failures(self) -> list[Failure]:
        """Studies that could not be read so far, by this process or its workers."""
        damaged = [name for name, number in self._numbers.items() if self._damaged[number]]
        if unknown := {name: [] for name in damaged if name not in self._reasons}:  # a worker found them out
            for key in self.keys:
                unknown.get(self.study_of(key), []).append(key)
            for name, keys in unknown.items():
                self._try(name, keys)
        unreadable = ("images", "unreadable", "It could not be read once.")
        return [self._reasons.get(name) or Failure(name, *unreadable) for name in damaged]

    def read(self, keys: Sequence[K]) -> list[T | None]:
        """Some of them, in order; None for one whose study cannot be read.

        Raises:
            StoreError: code ``damaged_store``: too many of the studies cannot be read.
        """
        missing: dict[str, list[K]] = {}
        for key in dict.fromkeys(keys):
            if key not in self._items:
                missing.setdefault(self.study_of(key), []).append(key)
        found: dict[K, T] = {}
        if missing:  # a pool takes milliseconds
            with worker_threads(self.threads) as pool:
                made = pool.map(self._try, missing, missing.values())
                for several, items in zip(missing.values(), made, strict=True):
                    found.update(zip(several, items, strict=False))
            self._keep(found.items())
        if self._damaged.sum() > self.max_damaged * len(self._numbers):
            check_damage(self.failures, len(self._numbers), self.max_damaged)
        return [self._items.get(key, found.get(key)) for key in keys]

    def preload(self, keys: Sequence[K] | None = None, progress: Progress | None = None) -> Sequence[K]:
        """Read some of them (all by default) where memory holds them, before worker processes share it.

        Args:
            progress: called with (studies done, studies).

        Returns:
            Those that can be read; all where memory does not hold them.
        """
        keys = self.keys if keys is None else keys
        return keys if len(keys) > self._capacity else [key for key, _ in self.readable(keys, progress)]

    def readable(
        self, keys: Sequence[K] | None = None, progress: Progress | None = None, workers: int = 0
    ) -> Iterator[tuple[K, T]]:
        """Those of some (all by default) that can be read, a few studies at a time.

        Args:
            progress: as in ``preload``.
            workers: processes that read what memory does not hold yet; 0 reads it in this one.
        """
        by_study: dict[str, list[K]] = {}
        for key in self.keys if keys is None else keys:
            by_study.setdefault(self.study_of(key), []).append(key)
        studies, step = list(by_study.values()), 4 * self.threads
        groups = [list(chain.from_iterable(studies[at : at + step])) for at in range(0, len(studies), step)]
        missing = any(key not in self._items for group in groups for key in group)
        several = min(workers, len(groups)) if missing else 0
        with closing(prefetched(lambda number: self.read(groups[number]), 0, len(groups), several)) as coming:
            for number, (group, (items, _)) in enumerate(zip(groups, coming, strict=True), start=1):
                there = [(key, item) for key, item in zip(group, items, strict=True) if item is not None]
                self._keep(there)
                yield from there
                if progress is not None:
                    progress(min(number * step, len(studies)), len(studies))

    def _keep(self, items: Iterable[tuple[K, T]]) -> None:
        """As many as memory may hold."""
        for key, item in items:
            if len(self._items) < self._capacity:
                self._items[key] = item

    def _try(self, study_id: str, keys: Sequence[K]) -> Sequence[T]:
        """The things of one study; nothing where it cannot be read, which is remembered."""
        try:
            return self._load(study_id, keys)
        except (CTGLIPError, OSError, ValueError) as error:
            self._reasons[study_id] = Failure(study_id, "images", getattr(error, "code", "unreadable"), str(error))
            self._damaged[self._numbers[study_id]] = 1
            return ()


def check_damage(failures: Sequence[Failure], studies: int, max_damaged: float) -> None:
    """Refuse to go on when too many studies cannot be read.

    Raises:
        StoreError: code ``damaged_store``: more than the share ``max_damaged`` of ``studies`` failed.
    """
    if len(failures) > max_damaged * studies:
        named = ", ".join(failure.study_id for failure in failures[:8]) + (", ..." if len(failures) > 8 else "")
        raise StoreError(
            f"{len(failures)} of {studies} studies cannot be read ({named}), the first because: {failures[0].message}",
            code="damaged_store",
            fix=f"Run: ctglip store verify STORE --repair ({max_damaged:.0%} of the studies may fail).",
        )
