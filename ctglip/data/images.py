"""Whole studies as a model sees them, scans and radiographs through one interface: views with the organs' boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from ctglip.cxr.regions import region_entries
from ctglip.cxr.sentence_regions import SECTIONS, sentences_by_region
from ctglip.cxr.views import FRONTAL
from ctglip.data.augment import augment_hu
from ctglip.data.cxr import CxrDataSettings, CxrInput, cxr_input, stored_edge
from ctglip.data.cxr_window import cxr_window
from ctglip.data.reader import CachedReader
from ctglip.data.scans import (
    PlacedScan,
    ScanBatchSettings,
    ScanCut,
    ScanDataSettings,
    ScanSettings,
    render_scans,
    scan_on_grid,
)
from ctglip.data.tokens import TokenDataSettings
from ctglip.store.shards import PixelBox
from ctglip.store.tables import Store
from ctglip.types import Finding, OrganRow
from ctglip.vocabulary.organs import OrganDictionary

T = TypeVar("T")
RegionReading = Literal["mask", "box", "query", "none"]
"""How a model reads an organ of a whole image: by its label map, its box, a learned query, or not at all."""


@dataclass(frozen=True)
class Views:
    """One study as a model sees it.

    Attributes:
        images, labels, boxes, size: as of ``StudySample``, for all regions of the study.
        visible: regions that a model can read in every view.
    """

    images: Float[np.ndarray, "v c *s"]
    labels: Num[np.ndarray, ...] | None
    boxes: Float[np.ndarray, "v m e"]
    size: Float[np.ndarray, "m 4"]
    visible: Bool[np.ndarray, " m"]


class StudyImages(ABC, Generic[T]):
    """The images of some studies.

    Attributes:
        reader: reads them.
        regions: names of what can be located: organs of scans, regions of radiographs.
        numbers: which regions each study has, by their place in ``regions``.
    """

    reader: CachedReader[str, T]
    regions: tuple[str, ...]
    numbers: Mapping[str, Int[np.ndarray, " m"]]

    @abstractmethod
    def views(self, study_id: str, item: T, count: int, rng: np.random.Generator | None) -> Views:
        """A study that was read, so many times; ``rng`` draws the augmentation, None leaves the image as it is."""

    @abstractmethod
    def organ_of(self, region: str) -> str | None:
        """The organ that a region shows as a whole."""

    @abstractmethod
    def sentences(self, findings: Sequence[Finding]) -> dict[str, tuple[int, ...]]:
        """The sentences of a report that belong to each region, by their ``sentence_index``."""


class ScanImages(StudyImages[PlacedScan]):
    """Whole scans on the model's grid, or what a frozen encoder made of them.

    Args:
        reader: of the scans.
        rows: the organs of each study.
        names: the organs that numbers count through.
        ids: the organs whose sentences count.
        organs: the dictionary.
        settings: the scans.
        reading: ``mask`` needs label maps, and an organ that has a voxel on the grid.
    """

    def __init__(
        self,
        reader: CachedReader[str, Any],
        rows: Mapping[str, Sequence[OrganRow]],
        names: Sequence[str],
        ids: Sequence[str],
        organs: OrganDictionary,
        settings: ScanDataSettings | TokenDataSettings,
        reading: RegionReading,
    ) -> None:
        self.reader, self.regions, self.ids, self.organs = reader, tuple(names), ids, organs
        self.settings, self.reading = settings, reading
        self._labels = 1 + max((label for name in names for label in organs.roi_labels(name)), default=0)
        number = {name: number for number, name in enumerate(names)}
        self.rows = {study_id: [row for row in several if row.organ in number] for study_id, several in rows.items()}
        self.numbers = {
            study_id: np.array([number[row.organ] for row in several], dtype=np.int64)
            for study_id, several in self.rows.items()
        }

    def views(self, study_id: str, item: PlacedScan, count: int, rng: np.random.Generator | None) -> Views:
        """See ``StudyImages``."""
        rows = self.rows[study_id]
        labels, boxes = item.location(self._labels) if self.reading == "mask" else None, item.boxes(rows)
        views = [self._view(item, labels, boxes, rng) for _ in range(count)]
        located = np.array([row.volume_ml > 0 for row in rows], dtype=bool)
        placed = np.stack([box for _, _, box in views])
        visible = ~located | has_extent(placed)
        if self.reading == "mask":
            present = item.present
            visible = np.array([present[list(self.organs.roi_labels(row.organ))].any() for row in rows], dtype=bool)
        size = item.sizes(rows) * located[:, None].astype(np.float32)
        return Views(np.stack([image for image, _, _ in views]), views[0][1], placed, size, visible)

    def organ_of(self, region: str) -> str | None:
        """Regions are organs."""
        return region

    def sentences(self, findings: Sequence[Finding]) -> dict[str, tuple[int, ...]]:
        """See ``StudyImages``."""
        return sentences_by_organ(findings, self.ids, self.organs)

    def _view(
        self, item: PlacedScan, labels: np.ndarray | None, boxes: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """A scan, shifted (what comes in at a face repeats that face), with its labels and boxes; tokens as they
        are."""
        if not isinstance(item, ScanCut) or isinstance(self.settings, TokenDataSettings):
            return item.image(self.settings.input), labels, boxes
        hu = item.hu
        if rng is not None:
            hu, labels, boxes = moved(hu, labels, boxes, self.settings, rng)
            hu = augment_hu(hu[None], self.settings.shift_hu, self.settings.noise_hu, rng)[0]
        return render_scans(hu, self.settings.input), labels, boxes


class CxrImages(StudyImages[CxrInput]):
    """Radiographs in a model's window.

    Args:
        reader: of the radiographs.
        boxes: of each study's regions, by their numbers.
    """

    def __init__(self, reader: CachedReader[str, CxrInput], boxes: Mapping[str, Mapping[int, PixelBox]]) -> None:
        self.reader, self.regions, self._boxes = reader, tuple(region_entries()), boxes
        self.numbers = {name: np.array(list(several), dtype=np.int64) for name, several in boxes.items()}

    def views(self, study_id: str, item: CxrInput, count: int, rng: np.random.Generator | None) -> Views:
        """See ``StudyImages``."""
        boxes = item.scaled_boxes(list(self._boxes[study_id].values()))
        views = [cxr_window(item.pixels, boxes, item.settings, rng) for _ in range(count)]
        placed = np.stack([box for _, box in views])
        visible, size = has_extent(placed), np.zeros((len(boxes), 4), np.float32)
        return Views(np.stack([image for image, _ in views]), None, placed.astype(np.float32), size, visible)

    def organ_of(self, region: str) -> str | None:
        """See ``organ_of_region``."""
        return organ_of_region(region)

    def sentences(self, findings: Sequence[Finding]) -> dict[str, tuple[int, ...]]:
        """See ``StudyImages``."""
        return sentences_by_region(findings)


def moved(
    hu: np.ndarray,
    labels: np.ndarray | None,
    boxes: Float[np.ndarray, "m 6"],
    settings: ScanBatchSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None, Float[np.ndarray, "m 6"]]:
    """A scan shifted and mirrored, with its labels and boxes.

    Args:
        hu, labels: of one grid.
        boxes: ``(x0, x1, y0, y1, z0, z1)`` in its voxels.
        settings: how far, and how often.
        rng: draws it.
    """
    reach = np.broadcast_to(settings.shift_voxels, 3)
    if reach.any():
        steps = rng.integers(-reach, reach + 1)
        index = np.ix_(*(np.clip(np.arange(n) + by, 0, n - 1) for n, by in zip(hu.shape, steps, strict=True)))
        hu, labels = hu[index], None if labels is None else labels[index]
        boxes = np.clip(boxes - np.repeat(steps, 2), 0, np.repeat(hu.shape, 2)).astype(np.float32)
    mirrored: list[int] = np.flatnonzero(rng.random(3) < settings.flip).tolist() if settings.flip else []
    for axis in mirrored:
        hu, labels = np.flip(hu, axis), None if labels is None else np.flip(labels, axis)
        boxes = boxes.copy()
        boxes[:, 2 * axis : 2 * axis + 2] = hu.shape[axis] - boxes[:, [2 * axis + 1, 2 * axis]]
    return hu, None if labels is None else np.ascontiguousarray(labels), boxes


def has_extent(boxes: Float[np.ndarray, "v m e"]) -> Bool[np.ndarray, " m"]:
    """Which boxes are a voxel wide at least, in every view."""
    return np.all(boxes[..., 1::2] - boxes[..., ::2] >= 1, axis=(0, 2))


@cache
def organ_of_region(region: str) -> str | None:
    """The organ that a region shows as a whole; the pleura for a costophrenic angle, None for a zone of the lung."""
    entry = region_entries()[region]
    if region.endswith("_costophrenic_angle"):
        return f"pleura_{entry.side}"
    return entry.organs[0] if entry.organs and not entry.level else None


def cxr_reader(store: Store, settings: CxrDataSettings, study_ids: Sequence[str]) -> CachedReader[str, CxrInput]:
    """Reads radiographs at the size that windows are taken from."""
    capacity = int(settings.keep_gb * 1e9 / (2 * stored_edge(settings) ** 2))
    return CachedReader(partial(_load_cxr, store, settings), study_ids, str, capacity, settings.threads)


def _load_cxr(store: Store, settings: CxrDataSettings, study_id: str, _: Sequence[str]) -> list[CxrInput]:
    return [cxr_input(store.study(study_id).image(), settings)]


def scan_reader(
    store: Store, settings: ScanSettings, study_ids: Sequence[str], memory_gb: float, threads: int
) -> CachedReader[str, ScanCut]:
    """Reads scans on the model's grid."""
    capacity = int(memory_gb * 1e9 / (3 * np.prod(settings.grid)))
    return CachedReader(partial(_load_scan, store, settings), study_ids, str, capacity, threads)


def _load_scan(store: Store, settings: ScanSettings, study_id: str, _: Sequence[str]) -> list[ScanCut]:
    return [scan_on_grid(store.study(study_id), settings)]


def reported_studies(store: Store) -> set[str]:
    """Studies with a findings or an impression section."""
    reports = store.table("reports")
    return set(reports.filter(reports["section"].is_in(list(SECTIONS)))["study_id"])


def frontal_studies(store: Store, study_ids: Sequence[str], lateral: bool, reported: bool = True) -> list[str]:
    """Radiographs: frontal ones and those of unknown projection, or all.

    Args:
        reported: those with a findings or an impression section alone.
    """
    counted = reported_studies(store) if reported else set(study_ids)
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    return [name for name in study_ids if name in counted and (lateral or views.get(name) in (None, *FRONTAL))]


def region_boxes(store: Store, study_ids: Sequence[str]) -> dict[str, dict[int, PixelBox]]:
    """For each radiograph the boxes of its known regions, by their numbers."""
    numbers = {name: number for number, name in enumerate(region_entries())}
    found: dict[str, dict[int, PixelBox]] = {name: {} for name in study_ids}
    for row in store.table("regions").iter_rows(named=True):
        if row["region"] in numbers and row["study_id"] in found:
            box = row["row0"], row["row1"], row["column0"], row["column1"]
            found[row["study_id"]][numbers[row["region"]]] = box
    return found


def sentences_by_organ(
    findings: Sequence[Finding], names: Sequence[str], organs: OrganDictionary
) -> dict[str, tuple[int, ...]]:
    """The sentences that belong to each of some organs, by their ``sentence_index``; organs without any are left out.

    They are about the organ or a part of it, or negate or call normal something that contains it.

    Args:
        findings: of one report; sections that tell why and how are left out.
        names: the organs.
    """
    by_organ: dict[str, list[Finding]] = {}
    for row in findings:
        if row.organ is not None and row.section in SECTIONS and row.status != "historical":
            by_organ.setdefault(row.organ, []).append(row)
    found = {}
    for name in names:
        rows = [row for organ in {name, *organs.parts_of(name)} & by_organ.keys() for row in by_organ[organ]]
        containers = organs.containing(name) & by_organ.keys()
        rows += [row for organ in containers for row in by_organ[organ] if row.status in ("negated", "normal")]
        if rows:
            found[name] = tuple(sorted({row.sentence_index for row in rows}))
    return found
