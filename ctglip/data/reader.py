"""Images of a store as inputs are made of them: kept in memory as far as they fit, else read again each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.errors import CTGLIPError
from ctglip.parallel import worker_threads
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress

T = TypeVar("T")


class ImageReader(Generic[T]):
    """Whole scans or radiographs of a store.

    Args:
        store: where they are.
        load: what is made of a study.
        studies: how many there are; a twentieth of them may be damaged.
        item_bytes: memory that ``load`` gives for a study.
        memory_gb: for studies that were read; the others are read again each time.
        threads: studies read at a time.

    Attributes:
        failures: studies that could not be read so far.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[StudyReader], T],
        studies: int,
        item_bytes: int,
        memory_gb: float,
        threads: int,
    ) -> None:
        self.store, self.load, self.studies, self.threads = store, load, studies, threads
        self.failures: list[Failure] = []
        self._items: dict[str, T] = {}
        self._capacity = int(memory_gb * 1e9 / item_bytes)

    def read(self, study_ids: Sequence[str]) -> list[T | None]:
        """Some studies, in order; None for one that cannot be read.

        Raises:
            StoreError: code ``damaged_store``: more than a twentieth of the studies cannot be read.
        """
        missing = [name for name in dict.fromkeys(study_ids) if name not in self._items]
        found: dict[str, T | Failure] = {}
        if missing:  # a pool takes milliseconds
            with worker_threads(self.threads) as pool:
                found = dict(zip(missing, pool.map(self._load, missing), strict=True))
        known = {failure.study_id for failure in self.failures}
        for name, item in found.items():
            if isinstance(item, Failure):
                self.failures += [] if name in known else [item]
            elif len(self._items) < self._capacity:
                self._items[name] = item
        check_damage(self.failures, self.studies, MAX_FAILED_SHARE)
        items = (self._items.get(name, found.get(name)) for name in study_ids)
        return [None if isinstance(item, Failure) else item for item in items]

    def preload(self, study_ids: Sequence[str], progress: Progress | None = None) -> list[str]:
        """Read all of some studies where memory holds them, before worker processes share it.

        Args:
            progress: called with (studies done, studies).

        Returns:
            Those that can be read; all where memory does not hold them.
        """
        if len(study_ids) > self._capacity:
            return list(study_ids)
        readable, step = [], 4 * self.threads
        for start in range(0, len(study_ids), step):
            several = study_ids[start : start + step]
            readable += [name for name, item in zip(several, self.read(several), strict=True) if item is not None]
            if progress is not None:
                progress(start + len(several), len(study_ids))
        return readable

    def _load(self, study_id: str) -> T | Failure:
        try:
            return self.load(self.store.study(study_id))
        except (CTGLIPError, OSError, ValueError) as error:
            return Failure(study_id, "images", getattr(error, "code", "unreadable"), str(error))
