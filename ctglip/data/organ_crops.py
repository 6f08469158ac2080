"""The organ instances of studies and their crops: cut when they are asked for, kept on disk where there is room.

On disk a study has one file with a slot for each of its organs, filled when a crop is first cut, by whatever process.
A slot counts when its checksum and what it says of its organ's box fit, so nothing that a crash, a full disk or two
writers leave behind is ever taken for a crop. The folder can be deleted at any time.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.crops import CropSettings, OrganCrop, crop_region, cut_region
from ctglip.data.instances import InstanceTable, instance_arrays
from ctglip.data.reader import MAX_FAILED_SHARE, CachedReader, StandardizedStudy
from ctglip.data.samples import OrganInstance
from ctglip.data.split_tables import OrganSlots
from ctglip.errors import StoreError
from ctglip.files import check_id, free_bytes, value_hash
from ctglip.places import cache_of
from ctglip.store.tables import Store
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import OrganDictionary

VERSION = 1
"""Raised when the same settings give other crops than before."""
_HEADER = struct.Struct("<I6idd4f")
CacheMode = Literal["auto", "memory", "disk", "none"]
_FEW = 3
"""Organs of a study that are cut one by one; of more the whole study is read."""


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

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.keep == "auto" else {"memory_gb": f"keep is {self.keep}"}
        return found if self.keep in ("auto", "disk") else {**found, "folder": f"keep is {self.keep}"}


def instances_of(
    store: Store, study_ids: Sequence[str], organs: Sequence[str], settings: CropSettings
) -> list[OrganInstance]:
    """The wanted organs that are present in some studies, study by study.

    Args:
        organs: names; the order within a study is theirs.
        settings: ``truncated`` decides about organs that the field of view cuts off.
    """
    distinct = list(dict.fromkeys(study_ids))
    return list(InstanceTable(distinct, organs, instance_arrays(store, distinct, organs, settings)))


def open_crops(
    store: Store,
    instances: Sequence[OrganInstance],
    settings: CropSettings,
    organs: OrganDictionary,
    cache: CacheSettings,
    threads: int = 2,
) -> CachedReader[OrganInstance, OrganCrop]:
    """The crops of some organ instances, kept as the settings say."""
    keep = resolve(cache, len(instances), slot_bytes(settings), store)
    files = CropFiles(folder_of(cache, store), store, settings, organs) if keep == "disk" else None

    load = partial(_load, store=store, settings=settings, organs=organs, files=files)
    capacity = len(instances) if keep == "memory" else 0
    studies = instances.studies if isinstance(instances, InstanceTable) else None
    return CachedReader(load, instances, attrgetter("study_id"), capacity, threads, cache.max_damaged, studies)


def _load(study_id: str, some: Sequence[OrganInstance], *, store: Store, **how: Any) -> list[OrganCrop]:
    return read_crops(store, study_id, [one.row for one in some], **how)


def read_crops(
    store: Store,
    study_id: str,
    rows: Sequence[OrganRow],
    settings: CropSettings,
    organs: OrganDictionary,
    files: CropFiles | None = None,
) -> list[OrganCrop]:
    """Crops of some organs of a study; those that ``files`` has are not cut, and what is cut is kept there.

    Raises:
        StoreError: the study is damaged or has no masks.
    """
    crops = {row.organ: files and files.read(study_id, row) for row in rows}
    missing = [row for row in rows if crops[row.organ] is None]
    if missing:
        for row, crop in zip(missing, cut_study(store.study(study_id), missing, settings, organs), strict=True):
            crops[row.organ] = crop
            if files is not None:
                files.write(study_id, row, crop)
    return [crop for crop in crops.values() if crop is not None]


def cut_study(
    study: StandardizedStudy, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    """Cut organs out of one study; for a few only the chunks that their crops need are read.

    Raises:
        StoreError: the study is damaged or has no masks.
    """
    everything = (study.image(), study.organs()) if len(rows) > _FEW else None
    crops = []
    for row in rows:
        organ = organs[row.organ]
        region = crop_region(study.shape, study.affine, organ, row, settings)
        if everything is None:
            image, labels = study.image(region), study.organs(region)
        else:
            part = tuple(slice(*ends) for ends in zip(region[::2], region[1::2], strict=True))
            image, labels = everything[0][part], None if everything[1] is None else everything[1][part]
        if labels is None:
            raise StoreError("The study has no organ masks.", code="no_masks")
        crops.append(cut_region(image, labels, region, study.affine, organ, row, organs, settings))
    return crops


def folder_of(cache: CacheSettings, store: Store) -> Path:
    """Where crops are kept on disk."""
    return Path(cache.folder) if cache.folder else cache_of(store.path, "cache/crops")


def resolve(cache: CacheSettings, items: int, item_bytes: int, store: Store) -> CacheMode:
    """What ``auto`` means for so many crops (or other inputs): memory, disk or none; any other wish as it is."""
    if cache.keep != "auto":
        return cache.keep
    size, folder = items * item_bytes, folder_of(cache, store)
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
        self._slots = OrganSlots(store)
        self._sources = dict(store.table("studies").select("study_id", "source_checksum").iter_rows())

    def path(self, study_id: str) -> Path:
        """The file of a study as it is now: a study made from another source has another one."""
        source = value_hash(self._sources.get(study_id), 8)
        return self.folder / f"{check_id(study_id)}.{source}.crops"

    def read(self, study_id: str, row: OrganRow) -> OrganCrop | None:
        """A crop, or None where it is not there whole."""
        size = slot_bytes(self.settings)
        try:
            stream = os.open(self.path(study_id), os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(stream, size, self._slots(study_id, row.organ) * size)
        except OSError:
            return None
        finally:
            os.close(stream)
        return self._unpacked(data, row) if len(data) == size else None

    def write(self, study_id: str, row: OrganRow, crop: OrganCrop) -> None:
        """Keep a crop. Where the disk is full or read-only, nothing more is kept."""
        if not self._writable:
            return
        data = _packed(row, crop)
        path = self.path(study_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.pwrite(stream, data, self._slots(study_id, row.organ) * len(data))
            finally:
                os.close(stream)
        except OSError:
            self._writable = False

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
