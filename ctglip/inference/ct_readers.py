"""Organs of CT scans, read from crops of each or from whole scans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ctglip.data.cache import instances_of, stacked
from ctglip.data.crops import CropSettings, OrganCrop, cut_crop
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import ScanCut, ScanSettings, cut_scan, render_scans
from ctglip.errors import ModelError, StoreError
from ctglip.inference.encoding import PARTS, OrganEmbeddings, concatenated, encode_crops
from ctglip.inference.heatmap import HeatMap, crop_affine, crop_maps, grid_affine
from ctglip.inference.readers import InMemory, OrganReader, StandardizedStudy, pairs_of
from ctglip.inference.readings import OrganReading
from ctglip.inference.scans import encode_scan, readable, scan_maps, scan_regions
from ctglip.inference.scoring import Scorer
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, OrganRow, Standardized
from ctglip.vocabulary.organs import Organ

_OPEN_ENDED = frozenset(
    {"aorta", "arteries", "veins", "digestive", "ribs", "muscles", "body_wall", "regions", "airways"}
)
_GRAZE = 0.1
"""A border face that holds less than this share of an organ's largest cross-section takes nothing away from it."""


class _CtReader(OrganReader):
    """What both ways have in common: organs are where the masks draw them."""

    def __init__(self, release: Release, crops: CropSettings | None = None) -> None:
        super().__init__(release, release.model.reading)
        self.crops = crops or CropSettings.model_validate(release.crops)

    @property
    def known(self) -> Collection[str]:
        return ()

    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        return instances_of(store, study_ids, names, self.crops)

    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        rows = {row.organ: row for row in standardized.rows}
        box = tuple(edge for n in standardized.image.shape for edge in (0, n))
        found: dict[str, OrganReading | str] = {}
        for organ in organs:
            entry, row = self.organs[organ], rows.get(organ)
            if organ not in trained:
                found[organ] = f"The model was not trained on the {entry.display}."
            elif standardized.organs is None:  # without masks an organ may be anywhere
                found[organ] = OrganReading(OrganRegion(organ, box), self.reading)
            elif row is None:
                in_masks = np.isin(standardized.organs, list(self.organs.roi_labels(organ))).any()
                why = f"too small (less than {min_organ_ml:g} ml)" if in_masks else "not in the scan's masks"
                found[organ] = f"The {entry.display} {'are' if entry.plural else 'is'} {why}."
            else:
                found[organ] = OrganReading(row, self.reading, cut_off=self._cut_off(row, standardized))
        return found

    def _cut_off(self, row: OrganRow, standardized: Standardized) -> str:
        """That the field of view cuts an organ off; empty where it is complete, or never is."""
        entry = self.organs[row.organ]
        labels = list(self.organs.roi_labels(row.organ))
        if not row.touches_border or _open_ended(entry) or _grazes(standardized, row, labels):
            return ""
        return f"The {entry.display} {'are' if entry.plural else 'is'} cut off by the field of view."


class CropOrganReader(_CtReader):
    """Each organ from a crop around it."""

    @staticmethod
    def channel_names(release: Release) -> tuple[str, ...]:
        return CropSettings.model_validate(release.crops).channel_names

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> list[OrganCrop]:
        labels = study.organs()
        if labels is None:
            raise StoreError("The study has no organ masks.", code="no_masks")
        image, rows = study.image(), _measured(regions)
        return [cut_crop(image, labels, study.affine, self.organs[r.organ], r, self.organs, self.crops) for r in rows]

    def encode(
        self,
        prepared: Sequence[list[OrganCrop]],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str | None = None,
        batch: int = 64,
    ) -> OrganEmbeddings:
        del reading  # there is one
        instances = [OrganInstance("", row) for several in regions for row in _measured(several)]
        cache = stacked(instances, [crop for several in prepared for crop in several], self.crops)
        return encode_crops(self.release.model, cache, self.crops, batch)

    def maps(
        self,
        standardized: Standardized,
        readings: Mapping[str, OrganReading],
        questions: Mapping[str, Sequence[str]],
        scorer: Scorer,
    ) -> Iterator[HeatMap]:
        for organ, names in questions.items():
            (row,) = _measured([readings[organ].region])
            (crop,) = self.prepare(InMemory(standardized), [row])
            affine = crop_affine(crop, row, standardized.affine)
            axes = scorer.axes([(organ, name) for name in names])
            found = crop_maps(self.release.model, crop, self.crops, axes)
            for name, values in zip(names, found, strict=True):
                yield HeatMap(organ, name, values, affine)

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        if not regions:
            return _scan_input(self.release, standardized, (), self)
        crops = self.prepare(InMemory(standardized), regions)
        cache = stacked([OrganInstance("", row) for row in _measured(regions)], crops, self.crops)
        crop_stack = cache.stack(self.crops).to("cpu")
        return {
            "image": crop_stack.image,
            "mask": crop_stack.mask,
            "organ": [region.organ for region in regions],
            "size": torch.from_numpy(cache.size),
            "study_index": torch.arange(len(regions)),
        }


class ScanOrganReader(_CtReader):
    """All organs from the whole scan."""

    def __init__(self, release: Release, crops: CropSettings | None = None) -> None:
        super().__init__(release, crops)
        self.scans = ScanSettings.model_validate(release.scans)

    @staticmethod
    def channel_names(release: Release) -> tuple[str, ...]:
        return ScanSettings.model_validate(release.scans).channel_names

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> ScanCut:
        del regions
        return cut_scan(study.image(), study.organs(), study.affine, self.scans)

    def encode(
        self,
        prepared: Sequence[ScanCut],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str | None = None,
        batch: int = 64,
    ) -> OrganEmbeddings:
        del reading, batch  # there is one way; scans are encoded one by one
        release, parts = self.release, []
        for cut, several in zip(prepared, regions, strict=True):
            found = encode_scan(release.model, cut, several, release.organs, self.scans)
            lost = ~np.array(readable(cut, several, release.model, self.organs), dtype=bool)
            for name in PARTS:
                getattr(found, name)[lost] = np.nan
            parts.append(found)
        return concatenated(release.model, parts)

    def maps(
        self,
        standardized: Standardized,
        readings: Mapping[str, OrganReading],
        questions: Mapping[str, Sequence[str]],
        scorer: Scorer,
    ) -> Iterator[HeatMap]:
        release = self.release
        cut = self.prepare(InMemory(standardized), ())
        affine = grid_affine(cut.low, (cut.high - cut.low) / np.array(cut.hu.shape), standardized.affine)
        rows = [readings[organ].region for organ in questions]
        axes = [scorer.axes([(organ, name) for name in names]) for organ, names in questions.items()]
        found = scan_maps(release.model, cut, rows, self.organs, release.organs, self.scans, axes)
        for (organ, name), values in zip(pairs_of(questions), found, strict=True):
            yield HeatMap(organ, name, values, affine)

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        return _scan_input(self.release, standardized, regions, self)


def _scan_input(
    release: Release, standardized: Standardized, regions: Sequence[OrganRegion], reader: _CtReader
) -> dict[str, Any]:
    """A whole scan, and where organs are in it."""
    if release.scans is None:
        raise ModelError("This model reads organs, not whole scans.", code="regions", fix="Name organs.")
    settings, model = ScanSettings.model_validate(release.scans), release.model
    cut = cut_scan(standardized.image, standardized.organs, standardized.affine, settings)
    found: dict[str, Any] = {"image": model.pad_channels(torch.from_numpy(render_scans(cut.hu, settings))[None])}
    if not regions or model.region_reader is None:
        return found
    for region, visible in zip(regions, readable(cut, regions, model, reader.organs), strict=True):
        if not visible:
            name = reader.organs[region.organ].display
            raise ModelError(f"The {name} is too small for the model's grid.", code="no_organ")
    arguments = vars(scan_regions(model, cut, regions, release.organs))
    found |= {name: arguments[name].cpu() for name in ("size", "study_index")}
    found |= {name: arguments[name].cpu() for name in ("labels", "boxes") if arguments[name] is not None}
    return found | {"organ": [region.organ for region in regions]}


def _measured(regions: Sequence[OrganRegion]) -> list[OrganRow]:
    """Regions that masks draw; a crop has no other."""
    rows = [region for region in regions if isinstance(region, OrganRow)]
    assert len(rows) == len(regions)
    return rows


def _grazes(standardized: Standardized, row: OrganRow, labels: Sequence[int]) -> bool:
    """Whether an organ that touches the field of view's border loses next to nothing there: a lung's apex in the last
    slice. False where it ends at padding inside the volume, since nobody knows how much is missing."""
    assert standardized.organs is not None
    inside = np.isin(standardized.organs, labels)
    faces = []
    for axis, size in enumerate(inside.shape):
        areas = inside.sum(axis=tuple(other for other in range(3) if other != axis))
        ends = [areas[0]] * (row.box[2 * axis] == 0) + [areas[-1]] * (row.box[2 * axis + 1] == size)
        faces += [float(end) / float(areas.max()) for end in ends]
    return bool(faces) and max(faces) < _GRAZE


def _open_ended(organ: Organ) -> bool:
    """Whether scans hardly ever hold the whole of it, so that a cut end says nothing."""
    return organ.group in _OPEN_ENDED or (organ.group == "vertebrae" and bool(organ.parts))
