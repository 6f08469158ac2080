"""Crops of many organs, cut once from the store and kept in memory as whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int16, UInt8

from ctglip.data.crops import CropSettings, OrganCrop, cut_crop, render
from ctglip.errors import CTGLIPError, StoreError
from ctglip.store.study import StudyReader, organ_row
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow
from ctglip.vocabulary.organs import OrganDictionary

Progress = Callable[[int, int], None]
MAX_FAILED_SHARE = 0.05


@dataclass(frozen=True)
class Place:
    """One organ of one study."""

    study_id: str
    row: OrganRow

    @property
    def organ(self) -> str:
        """Name in the organ dictionary."""
        return self.row.organ


@dataclass(frozen=True)
class CropCache:
    """Crops of N organs.

    Attributes:
        places: whose they are.
        hu: int16 ``[N, x, y, z]``; mask: uint8; size: float32 ``[N, 4]``; median_hu: float32 ``[N]`` (see
            ``data.crops.OrganCrop``).
        failures: studies that could not be read, left out.
    """

    places: tuple[Place, ...]
    hu: Int16[np.ndarray, "n x y z"]
    mask: UInt8[np.ndarray, "n x y z"]
    size: Float[np.ndarray, "n 4"]
    median_hu: Float[np.ndarray, " n"]
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def images(self, rows: Sequence[int] | np.ndarray, settings: CropSettings) -> Float[np.ndarray, "m c x y z"]:
        """What a model sees of some crops."""
        return render(self.hu[rows], self.mask[rows], self.median_hu[rows], settings)

    def masks(self, rows: Sequence[int] | np.ndarray) -> Float[np.ndarray, "m 1 x y z"]:
        """Coverage of some crops, 0 to 1."""
        return self.mask[rows][:, None].astype(np.float32) / 255.0


def places_of(store: Store, study_ids: Sequence[str], organs: Sequence[str], settings: CropSettings) -> list[Place]:
    """The wanted organs that are present in some studies, study by study.

    Args:
        organs: names; the order within a study is theirs.
        settings: ``truncated`` decides about organs that the field of view cuts off.
    """
    order = {organ: number for number, organ in enumerate(organs)}
    wanted = dict.fromkeys(study_ids)
    found: dict[str, list[OrganRow]] = {study_id: [] for study_id in wanted}
    for columns in store.table("organs").iter_rows(named=True):
        if columns["study_id"] in wanted and columns["organ"] in order:
            row = organ_row(columns)
            if settings.truncated == "keep" or not row.touches_border:
                found[columns["study_id"]].append(row)
    return [
        Place(study_id, row) for study_id, rows in found.items() for row in sorted(rows, key=lambda r: order[r.organ])
    ]


def cut_places(
    store: Store,
    places: Sequence[Place],
    settings: CropSettings,
    organs: OrganDictionary,
    threads: int = 2,
    progress: Progress | None = None,
) -> CropCache:
    """Cut all places out of the store, study by study in parallel threads.

    Raises:
        StoreError: more than a twentieth of the studies cannot be read.
    """
    by_study: dict[str, list[Place]] = {}
    for place in places:
        by_study.setdefault(place.study_id, []).append(place)

    def cut(study_id: str) -> list[OrganCrop] | Failure:
        try:
            return cut_study(store.study(study_id), [p.row for p in by_study[study_id]], settings, organs)
        except (CTGLIPError, OSError, ValueError) as error:
            return Failure(study_id, "crops", getattr(error, "code", "unreadable"), str(error))

    crops: list[OrganCrop] = []
    kept: list[Place] = []
    failures: list[Failure] = []
    with ThreadPoolExecutor(threads) as pool:
        for done, (study_id, found) in enumerate(zip(by_study, pool.map(cut, by_study), strict=True), start=1):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                crops += found
                kept += by_study[study_id]
            if progress:
                progress(done, len(by_study))
    if len(failures) > MAX_FAILED_SHARE * len(by_study):
        raise StoreError(
            f"{len(failures)} of {len(by_study)} studies cannot be read, the first is {failures[0].study_id}: "
            f"{failures[0].message}",
            code="damaged_store",
            fix="Run: ctglip store verify STORE --repair",
        )
    return stacked(kept, crops, settings, failures)


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


def stacked(
    places: Sequence[Place], crops: Sequence[OrganCrop], settings: CropSettings, failures: Sequence[Failure] = ()
) -> CropCache:
    """Crops side by side."""
    hu = np.empty((len(crops), *settings.grid), dtype=np.int16)
    mask = np.empty((len(crops), *settings.grid), dtype=np.uint8)
    for number, crop in enumerate(crops):
        hu[number], mask[number] = crop.hu, crop.mask
    size = np.array([crop.size for crop in crops], dtype=np.float32).reshape(len(crops), 4)
    median = np.array([crop.median_hu for crop in crops], dtype=np.float32)
    return CropCache(tuple(places), hu, mask, size, median, tuple(failures))
