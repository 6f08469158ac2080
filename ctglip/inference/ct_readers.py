"""Organs of CT scans, read from crops of each or from whole scans."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.data.augment import AugmentSettings, augment_crop, augment_hu, draw_augmentations
from ctglip.data.collate import owners
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.organ_crops import CropFiles, cut_study, instances_of, read_crops, slot_bytes
from ctglip.data.organs import trainable_organs
from ctglip.data.reader import StandardizedStudy
from ctglip.data.rendering import CropStack
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import PlacedScan, ScanCut, ScanSettings, render_scans, scan_on_grid
from ctglip.data.tokens import TokenFiles
from ctglip.errors import ModelError
from ctglip.inference.heatmap import crop_affine, grid_affine
from ctglip.inference.readers import OrganReader, OrganReading
from ctglip.inference.scoring import Dictionaries
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import Finding, OrganRegion, OrganRow, Standardized
from ctglip.vocabulary.organs import Organ

T = TypeVar("T")
_OPEN_ENDED = frozenset(
    {"aorta", "arteries", "veins", "digestive", "ribs", "muscles", "body_wall", "regions", "airways"}
)
_GRAZE = 0.1
"""A border face that holds less than this share of an organ's largest cross-section takes nothing away from it."""


class _CtReader(OrganReader[T]):
    """What both ways have in common: organs are where the masks draw them."""

    def __init__(self, release: Release, crops: CropSettings | None = None) -> None:
        super().__init__(release, release.model.reading)
        self.crops = crops or CropSettings.model_validate(release.crops)

    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        """Those that masks draw."""
        return instances_of(store, study_ids, names, self.crops)

    def trainable(self, store: Store, dictionaries: Dictionaries, findings: Iterable[Finding]) -> Sequence[str]:
        """Those that the dictionaries ask about and that some masks draw."""
        del findings
        return trainable_organs(store, dictionaries.organs, dictionaries.abnormalities)

    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        """From the rows of the masks; without masks each organ may be anywhere."""
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


class CropOrganReader(_CtReader[OrganCrop]):
    """Each organ from a crop around it.

    Args:
        crops: how organs are cut and shown, in place of the model's own settings.
        files: where crops of stored studies are kept.
    """

    def __init__(self, release: Release, crops: CropSettings | None = None, files: CropFiles | None = None) -> None:
        super().__init__(release, crops)
        self.files = files

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Those of crops."""
        return self.crops.channel_names

    @property
    def item_bytes(self) -> int:
        """Of one crop with its mask."""
        return slot_bytes(self.crops)

    def split(self, regions: Sequence[OrganRegion]) -> list[Sequence[OrganRegion]]:
        """Each organ from a crop of its own."""
        return [[region] for region in regions]

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> list[OrganCrop]:
        """Crops cut from the study."""
        return cut_study(study, _measured(regions), self.crops, self.organs)

    def load(self, store: Store, study_id: str, regions: Sequence[OrganRegion]) -> list[OrganCrop]:
        """Crops of a stored study, from files of crops where there are some."""
        return read_crops(store, study_id, _measured(regions), self.crops, self.organs, self.files)

    def visible(self, image: OrganCrop, regions: Sequence[OrganRegion], reading: str) -> Sequence[bool]:
        """All: a crop is of an organ that masks draw."""
        del image, reading
        return [True] * len(regions)

    def inputs(
        self,
        images: Sequence[OrganCrop],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: AugmentSettings | None = None,
    ) -> dict[str, Tensor]:
        """Crops as channels, with masks and sizes; an augmentation moves and changes each by itself."""
        del regions, reading  # there is one way
        if rng is not None and augment is not None:
            drawn = draw_augmentations(len(images), augment, rng)
            images = [augment_crop(crop, one, augment.noise_hu)[0] for crop, one in zip(images, drawn, strict=True)]
        stack = CropStack.of(images, self.crops).to(device)
        size = torch.from_numpy(np.stack([crop.size for crop in images])).to(device)
        index = torch.arange(len(images), device=size.device)
        return {"images": stack.image, "mask": stack.mask, "size": size, "study_index": index}

    def placed(
        self, image: OrganCrop, region: OrganRegion, affine: Float[np.ndarray, "4 4"]
    ) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "x y z"]]:
        """The crop's grid and the organ's mask on it."""
        return crop_affine(image, _measured([region])[0], affine), image.mask / 255.0

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, torch.Tensor]:
        """Without organs the whole scan, of a model that reads those too."""
        return (super() if regions else ScanOrganReader(self.release)).model_input(standardized, regions)


class ScanOrganReader(_CtReader[PlacedScan]):
    """All organs from the whole scan.

    Args:
        tokens: what the frozen encoder made of stored studies; its model has a ``CachedEncoder``.

    Raises:
        ModelError: code ``regions``: the model reads no whole scans.
    """

    at_once = 1

    def __init__(self, release: Release, crops: CropSettings | None = None, tokens: TokenFiles | None = None) -> None:
        super().__init__(release, crops)
        if release.scans is None:
            raise ModelError("This model reads organs, not whole scans.", code="regions", fix="Name organs.")
        self.scans, self.tokens = ScanSettings.model_validate(release.scans), tokens

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Those of whole scans."""
        return self.scans.channel_names

    @property
    def item_bytes(self) -> int:
        """HU and labels of a grid, or the tokens of a study."""
        return 3 * int(np.prod(self.scans.grid)) if self.tokens is None else self.tokens.item_bytes

    @property
    def needs_masks(self) -> bool:
        """Whether the model reads organs where masks or their boxes say."""
        return bool({"mask", "labels", "boxes"} & {*self.release.model.region_inputs})

    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        """Where masks draw them; in a scan without masks each may be anywhere, for a model that needs none."""
        found = super().instances(store, study_ids, names)
        if self.needs_masks:
            return found
        with_masks = set(store.table("organs")["study_id"])
        without = dict.fromkeys(name for name in study_ids if name not in with_masks)
        if not without:
            return found
        by_study: dict[str, list[OrganInstance]] = {name: [] for name in dict.fromkeys(study_ids)}
        for instance in found:
            by_study[instance.study_id].append(instance)
        shapes = dict(store.table("studies").select("study_id", "shape").iter_rows())
        for name in without:
            box = tuple(edge for side in shapes[name] for edge in (0, side))
            by_study[name] = [OrganInstance(name, OrganRegion(organ, box)) for organ in names]
        return [instance for several in by_study.values() for instance in several]

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> list[PlacedScan]:
        """The scan on the grid, whatever the organs."""
        del regions
        return [scan_on_grid(study, self.scans)]

    def load(self, store: Store, study_id: str, regions: Sequence[OrganRegion]) -> list[PlacedScan]:
        """From files of tokens where the model reads those."""
        return super().load(store, study_id, regions) if self.tokens is None else [self.tokens.read(study_id)]

    def visible(self, image: PlacedScan, regions: Sequence[OrganRegion], reading: str) -> Sequence[bool]:  # noqa: ARG002
        """A model that pools by label maps needs a voxel of an organ on the grid."""
        if "labels" not in self.release.model.region_inputs:
            return [True] * len(regions)
        there = image.present
        return [bool(there[list(self.organs.roi_labels(region.organ))].any()) for region in regions]

    def inputs(
        self,
        images: Sequence[PlacedScan],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: AugmentSettings | None = None,
    ) -> dict[str, Tensor]:
        """Scans as channels, with what the region reader wants to know of their organs."""
        model = self.release.model
        if rng is not None and augment is not None:
            hu = np.stack([cut.hu for cut in images if isinstance(cut, ScanCut)])
            rendered = render_scans(augment_hu(hu, augment.shift_hu, augment.noise_hu, rng), self.scans)
        else:
            rendered = np.stack([cut.image(self.scans) for cut in images])
        found = {
            "images": torch.from_numpy(rendered),
            "study_index": owners([len(several) for several in regions]),
        }
        if model.region_reader is not None and reading != "whole":
            sizes = [cut.sizes(several) for cut, several in zip(images, regions, strict=True)]
            ids = [self.release.organs.index(region.organ) for several in regions for region in several]
            found |= {"size": torch.from_numpy(np.concatenate(sizes)), "organ_id": torch.tensor(ids)}
            if "labels" in model.region_inputs:
                count = 1 + max((label for labels in model.inputs.organ_labels for label in labels), default=0)
                found["labels"] = torch.from_numpy(np.stack([cut.location(count) for cut in images]))
            if "boxes" in model.region_inputs:
                boxes = [cut.boxes(several) for cut, several in zip(images, regions, strict=True)]
                found["boxes"] = torch.from_numpy(np.concatenate(boxes))
        return {name: value.to(device) for name, value in found.items()}

    def placed(
        self, image: PlacedScan, region: OrganRegion, affine: Float[np.ndarray, "4 4"]
    ) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "x y z"] | None]:
        """The scan's grid, and the organ's voxels where there are masks."""
        assert isinstance(image, ScanCut)
        step, labels = (image.high - image.low) / np.array(image.hu.shape), list(self.organs.roi_labels(region.organ))
        inside = None if image.labels is None else np.isin(image.labels, labels).astype(np.float64)
        return grid_affine(image.low, step, affine), inside


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
