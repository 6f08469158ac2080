"""Crops that are cut when a step asks for them, for cohorts that memory cannot hold; kept on disk where there is room.

On disk a study has one file with a slot for each of its organs, filled when a crop is first cut, by whatever process.
A slot counts when its checksum and what it says of its organ's box fit, so nothing that a crash, a full disk or two
writers leave behind is ever taken for a crop. The folder can be deleted at any time.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.cache import (
    MAX_FAILED_SHARE,
    CropCache,
    OrganInstance,
    check_damage,
    cut_instance,
    cut_instances,
    cut_study,
    failure_of,
    stacked,
)
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.errors import CTGLIPError, StoreError
from ctglip.files import check_id, free_bytes, value_hash
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow, Progress
from ctglip.vocabulary.organs import OrganDictionary

VERSION = 1
"""Raised when the same settings give other crops than before."""
_HEADER = struct.Struct("<I6idd4f")
CacheMode = Literal["auto", "memory", "disk", "none"]
Substitutes = Callable[[int], Iterable[int]]


class CacheSettings(Settings):
    """Where crops stay between the steps that need them. The crops are the same whichever way.

    Attributes:
        keep: ``memory`` cuts all of them at the start; ``disk`` and ``none`` cut those of a step when it comes, best in
            worker processes (``loop.workers``), and ``disk`` keeps what was cut for later epochs and runs; ``auto``
            takes memory where they fit into ``memory_gb``, else the disk where there is room, else none.
        memory_gb: what ``auto`` may fill, in each process of a run; validation may fill as much again.
        folder: of the crops on disk; ``cache/crops`` in the store where none is named.
        max_damaged: share of the studies that may be unreadable before a run fails.
    """

    keep: CacheMode = "auto"
    memory_gb: float = Field(default=4.0, ge=0)
    folder: str | None = None
    max_damaged: float = Field(default=MAX_FAILED_SHARE, ge=0, le=1)


def open_crops(
    store: Store,
    instances: Sequence[OrganInstance],
    settings: CropSettings,
    organs: OrganDictionary,
    cache: CacheSettings,
    threads: int = 2,
    progress: Progress | None = None,
) -> CropCache | StoredCrops:
    """The crops of some places, held as the settings say.

    Args:
        threads, progress: for crops that are cut at the start; ``progress`` is called with (studies done, studies).

    Raises:
        StoreError: code ``damaged_store``: too many studies cannot be read (of crops that are cut at the start).
    """
    folder = Path(cache.folder) if cache.folder else store.path / "cache" / "crops"
    mode = resolve(cache, len(instances), settings, folder)
    if mode == "memory":
        return cut_instances(store, instances, settings, organs, threads, progress, cache.max_damaged)
    files = CropFiles(folder, store, settings, organs) if mode == "disk" else None
    return StoredCrops(store, instances, settings, organs, files, cache.max_damaged)


def resolve(cache: CacheSettings, crops: int, settings: CropSettings, folder: Path) -> CacheMode:
    """What ``auto`` means for so many crops: memory, disk or none; any other wish as it is."""
    size = crops * slot_bytes(settings)
    if cache.keep != "auto":
        return cache.keep
    if size <= cache.memory_gb * 1e9:
        return "memory"
    exists = next(path for path in (folder, *folder.parents) if path.exists())
    return "disk" if os.access(exists, os.W_OK) and size <= 0.5 * free_bytes(folder) else "none"


def slot_bytes(settings: CropSettings) -> int:
    """Bytes of a crop on disk (in memory a little less)."""
    return _HEADER.size + (3 + len(settings.details)) * int(np.prod(settings.grid))


class CropFiles:
    """Crops on disk, for one way of cutting them.

    Args:
        folder: of all caches; this one's is named by all that decides what a crop looks like, so that crops of other
            settings, recipes or dictionaries lie beside them. Windows and channels do not: they come later.
        store: where the crops are from.
        settings: grid.
        organs: the dictionary, which says how organs are grounded.
    """

    def __init__(self, folder: Path, store: Store, settings: CropSettings, organs: OrganDictionary) -> None:
        grounding = [
            [name, organ.roi.model_dump(), sorted(organs.roi_labels(name))] for name, organ in organs.organs.items()
        ]
        later = {"windows_hu", "relative_hu", "mask_channel", "truncated", "fill"}
        cut = settings.model_dump(mode="json", exclude=later)
        key = value_hash([VERSION, cut, store.info.recipe_hash, grounding])
        self.folder = folder / key
        self.settings = settings
        self._writable = True
        # read now: polars' threads do not survive the fork of a worker process
        organ_rows = store.table("organs").select("study_id", "organ", pl.int_range(pl.len()).over("study_id"))
        self._slots = {(study_id, organ): slot for study_id, organ, slot in organ_rows.iter_rows()}
        self._sources = dict(store.table("studies").select("study_id", "source_checksum").iter_rows())

    def path(self, study_id: str) -> Path:
        """The file of a study as it is now: a study made from another source has another one."""
        source = value_hash(self._sources.get(study_id), 8)
        return self.folder / f"{check_id(study_id)}.{source}.crops"

    def read(self, instance: OrganInstance) -> OrganCrop | None:
        """A crop, or None where it is not there whole."""
        size = slot_bytes(self.settings)
        try:
            stream = os.open(self.path(instance.study_id), os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(stream, size, self._slots[instance.study_id, instance.organ] * size)
        except OSError:
            return None
        finally:
            os.close(stream)
        return self._unpacked(data, instance.row) if len(data) == size else None

    def write(self, instance: OrganInstance, crop: OrganCrop) -> None:
        """Keep a crop. Where the disk is full or read-only, nothing more is kept."""
        if not self._writable:
            return
        data = _packed(instance.row, crop)
        path = self.path(instance.study_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.pwrite(stream, data, self._slots[instance.study_id, instance.organ] * len(data))
            finally:
                os.close(stream)
        except OSError:
            self._writable = False

    def cut_study(
        self, study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
    ) -> list[OrganCrop]:
        """As ``cache.cut_study``, but what is kept here is not cut, and what is cut is kept.

        Raises:
            StoreError: the study is damaged or has no masks.
        """
        crops = {row.organ: self.read(OrganInstance(study.study_id, row)) for row in rows}
        missing = [row for row in rows if crops[row.organ] is None]
        if missing:
            for row, crop in zip(missing, cut_study(study, missing, settings, organs), strict=True):
                self.write(OrganInstance(study.study_id, row), crop)
                crops[row.organ] = crop
        return [crop for crop in crops.values() if crop is not None]

    def _unpacked(self, data: bytes, row: OrganRow) -> OrganCrop | None:
        checksum, *box, volume_ml, median, s0, s1, s2, s3 = _HEADER.unpack_from(data)
        if checksum != zlib.crc32(data[4:]) or tuple(box) != tuple(row.box) or volume_ml != row.volume_ml:
            return None
        voxels = int(np.prod(self.settings.grid))
        hu = np.frombuffer(data, dtype="<i2", count=voxels, offset=_HEADER.size).reshape(self.settings.grid)
        rest = np.frombuffer(data, dtype=np.uint8, offset=_HEADER.size + 2 * voxels).reshape(-1, *self.settings.grid)
        return OrganCrop(
            row.organ, hu, rest[1:].view(np.int8), rest[0], np.array([s0, s1, s2, s3], dtype=np.float32), median
        )


def _packed(row: OrganRow, crop: OrganCrop) -> bytes:
    header = _HEADER.pack(0, *row.box, row.volume_ml, crop.median_hu, *(float(v) for v in crop.size))[4:]
    data = header + crop.hu.astype("<i2").tobytes() + crop.mask.tobytes() + crop.detail.tobytes()
    return zlib.crc32(data).to_bytes(4, "little") + data


class StoredCrops:
    """Crops of N organs that are read from disk, or cut, each time they are asked for.

    Args:
        files: where crops are kept; None keeps none.
        max_damaged: share of the studies that may be unreadable.

    Attributes:
        instances: whose they are.
    """

    def __init__(
        self,
        store: Store,
        instances: Sequence[OrganInstance],
        settings: CropSettings,
        organs: OrganDictionary,
        files: CropFiles | None = None,
        max_damaged: float = MAX_FAILED_SHARE,
    ) -> None:
        self.instances = tuple(instances)
        self.settings = settings
        self._store, self._organs, self._files, self._max_damaged = store, organs, files, max_damaged
        self._studies = list(dict.fromkeys(instance.study_id for instance in instances))
        self._numbers = {study_id: number for number, study_id in enumerate(self._studies)}
        # shared with the processes that are forked from this one: what one of them cannot read, all know of
        self._damaged = np.frombuffer(mmap.mmap(-1, max(len(self._studies), 1)), dtype=np.uint8)
        self._reasons: dict[str, Failure] = {}

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Studies that could not be read so far, by this process or its workers."""
        return tuple(self._reason(self._studies[number]) for number in np.flatnonzero(self._damaged))

    def take(self, rows: Sequence[int] | np.ndarray) -> CropCache:
        """Some of the crops, in the order asked for.

        Raises:
            StoreError: code ``damaged_store``: one of them cannot be read.
        """
        crops = self.draw(rows, lambda _: ())[1]
        return stacked([self.instances[row] for row in rows], crops, self.settings)

    def readable(self) -> StoredCrops:
        """Those that can be read; each is read (cut, kept) once for that.

        Raises:
            StoreError: code ``damaged_store``: too many studies cannot be read.
        """
        instances = [instance for row, instance in enumerate(self.instances) if self._crop(row) is not None]
        return StoredCrops(self._store, instances, self.settings, self._organs, self._files, self._max_damaged)

    def draw(self, rows: Sequence[int] | np.ndarray, substitutes: Substitutes) -> tuple[list[int], list[OrganCrop]]:
        """Some of the crops, another one in the place of each that cannot be read; and which they are.

        Args:
            substitutes: the rows that may stand in for a row, best first; each stands in once.

        Raises:
            StoreError: code ``damaged_store``: too many studies cannot be read so far, or none can stand in.
        """
        chosen, crops = [int(row) for row in rows], []
        taken = set(chosen)
        for number, row in enumerate(chosen):
            crop = self._crop(row)
            if crop is None:
                for other in (other for other in substitutes(row) if other not in taken):
                    crop = self._crop(other)
                    if crop is not None:
                        chosen[number] = other
                        taken.add(other)
                        break
            if crop is None:
                instance = self.instances[row]
                raise StoreError(
                    f"The organ {instance.organ} of study {instance.study_id} cannot be read, and no other study's can "
                    f"stand in for it: {self._reason(instance.study_id).message}",
                    code="damaged_store",
                    fix="Run: ctglip store verify STORE --repair",
                )
            crops.append(crop)
        return chosen, crops

    def _crop(self, row: int) -> OrganCrop | None:
        """A crop, or None where it cannot be read: always for the same rows, whatever was read before."""
        instance = self.instances[row]
        crop = self._files.read(instance) if self._files else None
        if crop is None:
            found = self._cut(instance)
            if isinstance(found, Failure):
                self._reasons[instance.study_id] = found
                self._damaged[self._numbers[instance.study_id]] = 1
                if self._damaged.sum() > self._max_damaged * len(self._studies):
                    check_damage(self.failures, len(self._studies), self._max_damaged)
                return None
            crop = found
            if self._files:
                self._files.write(instance, crop)
        return crop

    def _cut(self, instance: OrganInstance) -> OrganCrop | Failure:
        try:
            return cut_instance(self._store.study(instance.study_id), instance.row, self.settings, self._organs)
        except (CTGLIPError, OSError, ValueError) as error:
            return failure_of(instance.study_id, error)

    def _reason(self, study_id: str) -> Failure:
        """Why a study cannot be read; where a worker process found it out, it is read again for that."""
        if study_id not in self._reasons:
            tried = (self._cut(instance) for instance in self.instances if instance.study_id == study_id)
            found = next((failure for failure in tried if isinstance(failure, Failure)), None)
            self._reasons[study_id] = found or Failure(study_id, "crops", "unreadable", "It could not be read once.")
        return self._reasons[study_id]
