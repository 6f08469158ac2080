"""Radiographs of a store, small enough for a model: all of them in memory where they fit, else read again each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.data.cxr_input import shrunk
from ctglip.errors import CTGLIPError
from ctglip.parallel import worker_threads
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress


class CxrReader:
    """Some radiographs of a store.

    Args:
        store: where they are.
        study_ids: which.
        edge: rows and columns that they are shrunk to.
        keep_gb: memory for all of them; where they take more they are read in each step, and none is kept.
        threads: radiographs read at a time.
        progress: called with (radiographs read, radiographs) where all are kept.

    Attributes:
        study_ids: those that can be read, as far as that is known.
        failures: why the others cannot.

    Raises:
        StoreError: code ``damaged_store``: more than a twentieth of the radiographs cannot be read; ``read`` too.
    """

    def __init__(
        self,
        store: Store,
        study_ids: Sequence[str],
        edge: int,
        keep_gb: float,
        threads: int,
        progress: Progress | None = None,
    ) -> None:
        self.store, self.edge, self.threads = store, edge, threads
        self.study_ids, self.failures = list(study_ids), list[Failure]()
        self._studies, self._kept = len(study_ids), np.zeros((0, edge, edge), np.uint16)
        if 2 * edge**2 * len(study_ids) <= keep_gb * 1e9:
            self._keep(progress)

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        """uint16 ``[edge, edge]`` for each row of ``study_ids``; None for a radiograph that cannot be read."""
        if len(self._kept):
            return [self._kept[row] for row in rows]
        with worker_threads(self.threads) as pool:
            found = list(pool.map(self._read, [self.study_ids[row] for row in rows]))
        known = {failure.study_id for failure in self.failures}
        self.failures += [one for one in found if isinstance(one, Failure) and one.study_id not in known]
        check_damage(self.failures, self._studies, MAX_FAILED_SHARE)
        return [None if isinstance(one, Failure) else one for one in found]

    def _keep(self, progress: Progress | None) -> None:
        radiographs = np.zeros((len(self.study_ids), self.edge, self.edge), np.uint16)
        read_well: list[int] = []
        with worker_threads(self.threads) as pool:
            for row, found in enumerate(pool.map(self._read, self.study_ids)):
                if isinstance(found, Failure):
                    self.failures.append(found)
                else:
                    radiographs[row] = found
                    read_well.append(row)
                if progress is not None:
                    progress(row + 1, len(self.study_ids))
        check_damage(self.failures, self._studies, MAX_FAILED_SHARE)
        self.study_ids = [self.study_ids[row] for row in read_well]
        self._kept = radiographs[read_well] if self.failures else radiographs

    def _read(self, study_id: str) -> np.ndarray | Failure:
        try:
            return shrunk(self.store.study(study_id).image(), self.edge)
        except (CTGLIPError, OSError, ValueError) as error:
            return Failure(study_id, "radiographs", getattr(error, "code", "unreadable"), str(error))
