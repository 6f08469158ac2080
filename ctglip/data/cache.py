"""Crops of many organs as whole numbers, cut from the store once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int8, Int16, UInt8

from ctglip.data.crops import CropSettings, OrganCrop, crop_region, cut_crop, cut_region
from ctglip.data.rendering import CropStack
from ctglip.data.samples import OrganInstance
from ctglip.errors import CTGLIPError, StoreError
from ctglip.parallel import worker_threads
from ctglip.store.study import StudyReader, organ_row
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow, Progress
from ctglip.vocabulary.organs import OrganDictionary

MAX_FAILED_SHARE = 0.05


@dataclass(frozen=True)
class CropCache:
    """Crops of N organs.

    Attributes:
        instances: whose they are.
        hu, detail, mask: int16 ``[N, x, y, z]``, int8 ``[N, d, x, y, z]``, uint8 ``[N, x, y, z]`` (see
            ``data.crops.OrganCrop``).
        size, median_hu: float32 ``[N, 4]``, ``[N]``.
        failures: studies that could not be read, left out.
    """

    instances: tuple[OrganInstance, ...]
    hu: Int16[np.ndarray, "n x y z"]
    detail: Int8[np.ndarray, "n d x y z"]
    mask: UInt8[np.ndarray, "n x y z"]
    size: Float[np.ndarray, "n 4"]
    median_hu: Float[np.ndarray, " n"]
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.instances)

    def take(self, rows: Sequence[int] | np.ndarray) -> CropCache:
        """Some of the crops, in the order asked for."""
        chosen = np.asarray(rows, dtype=np.int64)
        instances = tuple(self.instances[int(row)] for row in chosen)
        voxels = (self.hu[chosen], self.detail[chosen], self.mask[chosen])
        return CropCache(instances, *voxels, self.size[chosen], self.median_hu[chosen])

    def crop(self, row: int) -> OrganCrop:
        """One of the crops: the same object each time."""
        if row not in self._crops:
            voxels, median = (self.hu[row], self.detail[row], self.mask[row]), float(self.median_hu[row])
            self._crops[row] = OrganCrop(self.instances[row].organ, *voxels, self.size[row], median)
        return self._crops[row]

    @cached_property
    def _crops(self) -> dict[int, OrganCrop]:
        """Those asked for so far."""
        return {}

    def readable(self) -> CropCache:
        """Those that can be read (see ``stored.StoredCrops.readable``): all."""
        return self

    def draw(
        self, rows: Sequence[int] | np.ndarray, substitutes: Callable[[int], Iterable[int]]
    ) -> tuple[list[int], list[OrganCrop]]:
        """Some of the crops, and which they are: those asked for (see ``stored.StoredCrops.draw``)."""
        del substitutes  # nothing here is unreadable
        return [int(row) for row in rows], [self.crop(row) for row in rows]

    def stack(self, settings: CropSettings) -> CropStack:
        """The crops, of which a model's input can be drawn."""
        return CropStack.of([self.crop(row) for row in range(len(self))], settings)


def instances_of(
    store: Store, study_ids: Sequence[str], organs: Sequence[str], settings: CropSettings
) -> list[OrganInstance]:
    """The wanted organs that are present in some studies, study by study.

    Args:
        organs: names; the order within a study is theirs.
        settings: ``truncated`` decides about organs that the field of view cuts off.
    """
    order = {organ: number for number, organ in enumerate(organs)}
    distinct = dict.fromkeys(study_ids)
    found: dict[str, list[OrganRow]] = {study_id: [] for study_id in distinct}
    for columns in store.table("organs").iter_rows(named=True):
        if columns["study_id"] in distinct and columns["organ"] in order:
            row = organ_row(columns)
            if settings.truncated == "keep" or not row.touches_border:
                found[columns["study_id"]].append(row)
    return [
        OrganInstance(study_id, row)
        for study_id, rows in found.items()
        for row in sorted(rows, key=lambda r: order[r.organ])
    ]


def cut_instances(
    store: Store,
    instances: Sequence[OrganInstance],
    settings: CropSettings,
    organs: OrganDictionary,
    threads: int = 2,
    progress: Progress | None = None,
    max_damaged: float = MAX_FAILED_SHARE,
) -> CropCache:
    """Cut all places out of the store, study by study in parallel threads.

    Args:
        progress: called with (studies done, studies).
        max_damaged: share of the studies that may be unreadable; they are left out and named in ``failures``.

    Raises:
        StoreError: code ``damaged_store``: more than that cannot be read.
    """
    rows = _rows_by_study(instances)

    def cut(study_id: str) -> list[OrganCrop] | Failure:
        try:
            return cut_study(store.study(study_id), [instances[row].row for row in rows[study_id]], settings, organs)
        except (CTGLIPError, OSError, ValueError) as error:
            return failure_of(study_id, error)

    found = stacked(instances, (), settings)
    readable_rows: list[np.ndarray] = []
    failures: list[Failure] = []
    with worker_threads(threads) as pool:
        for done, (study_id, crops) in enumerate(zip(rows, pool.map(cut, rows), strict=True), start=1):
            if isinstance(crops, Failure):
                failures.append(crops)
            else:
                _put(found, rows[study_id], crops)
                readable_rows.append(rows[study_id])
            if progress:
                progress(done, len(rows))
    check_damage(failures, len(rows), max_damaged)
    if failures:
        found = found.take(np.sort(np.concatenate(readable_rows)) if readable_rows else ())
    return replace(found, failures=tuple(failures))


def _rows_by_study(instances: Sequence[OrganInstance]) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = {}
    for number, instance in enumerate(instances):
        rows.setdefault(instance.study_id, []).append(number)
    return {study_id: np.array(numbers) for study_id, numbers in rows.items()}


def failure_of(study_id: str, error: Exception) -> Failure:
    """A study whose crops cannot be cut, as a value."""
    return Failure(study_id, "crops", getattr(error, "code", "unreadable"), str(error))


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


def cut_study(
    study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    """Cut organs out of one stored study.

    Raises:
        StoreError: the study is damaged or has no masks.
    """
    labels = study.organs()
    if labels is None:
        raise StoreError(f"Study {study.study_id} has no organ masks.", code="no_masks")
    image = study.image()
    return [cut_crop(image, labels, study.affine, organs[row.organ], row, organs, settings) for row in rows]


def cut_instance(study: StudyReader, row: OrganRow, settings: CropSettings, organs: OrganDictionary) -> OrganCrop:
    """Cut one organ out of a stored study; only the chunks that its crop needs are read.

    Raises:
        StoreError: the study is damaged or has no masks.
    """
    organ = organs[row.organ]
    region = crop_region(study.shape, study.affine, organ, row, settings)
    labels = study.organs(region)
    if labels is None:
        raise StoreError(f"Study {study.study_id} has no organ masks.", code="no_masks")
    return cut_region(study.image(region), labels, region, study.affine, organ, row, organs, settings)


def stacked(instances: Sequence[OrganInstance], crops: Sequence[OrganCrop], settings: CropSettings) -> CropCache:
    """Crops side by side; without crops the room for them."""
    count = len(instances)
    shape = (count, *settings.grid)
    found = CropCache(
        instances=tuple(instances),
        hu=np.zeros(shape, dtype=np.int16),
        detail=np.zeros((count, len(settings.details), *settings.grid), dtype=np.int8),
        mask=np.zeros(shape, dtype=np.uint8),
        size=np.zeros((count, 4), dtype=np.float32),
        median_hu=np.zeros(count, dtype=np.float32),
    )
    _put(found, np.arange(len(crops)), crops)
    return found


def _put(cache: CropCache, rows: np.ndarray, crops: Sequence[OrganCrop]) -> None:
    for row, crop in zip(rows, crops, strict=True):
        cache.hu[row], cache.detail[row], cache.mask[row] = crop.hu, crop.detail, crop.mask
        cache.size[row], cache.median_hu[row] = crop.size, crop.median_hu
