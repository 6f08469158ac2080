"""Two kinds of images, CT scans and chest radiographs, behind one interface: read, standardize, locate, display.

Nothing outside of ``ctglip.ct`` and ``ctglip.cxr`` needs to know which of the two it works on: it takes a ``Modality``
from ``MODALITIES`` (by the name that a store, a cohort or a model has) and calls it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from ctglip.config import Settings
from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.quality import check_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.segmentation import SegmentationSettings
from ctglip.ct.standardize import standardize
from ctglip.cxr.io import SUFFIXES as PICTURE_SUFFIXES
from ctglip.cxr.io import read_radiograph
from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CXR_MAX, CxrRecipe
from ctglip.cxr.regions import read_regions, region_entries, regions_of_masks
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.cxr.views import view_of
from ctglip.files import DICOM_SUFFIXES, private_name
from ctglip.pages.cxr import cxr_picture
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import best_slice, slice_picture, window_for
from ctglip.types import LabelMap, ModalityName, OrganRegion, QualityCheck, Region, Scan, ScanHeader, Standardized
from ctglip.vocabulary.organs import OrganDictionary

Checks = tuple[QualityCheck, ...]
SLAB = 0.25
"""A scan whose height is a smaller part of its longest edge than this is shown from below."""
Image = TypeVar("Image", Scan, Radiograph)
Recipe = TypeVar("Recipe", CtRecipe, CxrRecipe)
MakeMasks = Callable[[Scan], tuple[LabelMap, Checks]]
"""Makes the masks of a scan that comes without."""


@dataclass(frozen=True)
class GivenOrgans:
    """What a study brings that says where its organs lie.

    Attributes:
        masks: organ masks, files or in memory.
        regions: boxes of a radiograph's regions: a file, or boxes in its pixels; they win over those of masks.
        numbering: what the numbers of the mask file mean, where the study has a numbering of its own.
        segmenter: makes masks of a scan that comes without.
    """

    masks: Path | LabelMap | None = None
    regions: Path | Sequence[Region] | None = None
    numbering: str | None = None
    segmenter: MakeMasks | None = None


@dataclass(frozen=True)
class OrganLocations:
    """Where the organs of an image lie, as its masks and boxes say.

    Attributes:
        masks: organ labels on the image's grid, or None.
        regions: boxes in the pixels of a radiograph.
        checks: what was noticed about them.
        source: where they come from, in words.
    """

    masks: LabelMap | None = None
    regions: tuple[Region, ...] = ()
    checks: Checks = ()
    source: str = "none"


class Modality(ABC, Generic[Image, Recipe]):
    """One kind of images.

    Attributes:
        name: as stores, cohorts and recipes have it.
        image: what one image is called; ``images``: what models of them were trained on.
        files: what an image can be read from, in words.
        recipe: the settings that say how images are read and standardised.
        other_code: code of the failure of a study of another modality.
        has_boxes: organs may be given as boxes of regions.
        has_border: an image may cut organs off.
        needs_masks: without organ masks no organ of an image is trained on.
        pixel_type: of standardised images.
        marked: the organs or regions that ``overview`` marks.
        organ_size: what an organ's size is on an image, and ``size_control`` what is asked of it alone.
        organ_hints: what tells organs apart beside their looks, with its verb.
        without_organs: what to do where no organ is known on any image.
    """

    name: ClassVar[ModalityName]
    image: ClassVar[str]
    images: ClassVar[str]
    files: ClassVar[str]
    recipe: type[Recipe]
    other_code: ClassVar[str]
    has_boxes: ClassVar[bool]
    has_border: ClassVar[bool]
    needs_masks: ClassVar[bool]
    pixel_type: ClassVar[np.dtype[Any]]
    marked: ClassVar[tuple[str, ...]]
    organ_size: ClassVar[str]
    size_control: ClassVar[str]
    organ_hints: ClassVar[str]
    without_organs: ClassVar[str] = ""

    @abstractmethod
    def read(self, image: Path | Image, recipe: Recipe, header: ScanHeader | None = None) -> tuple[Image, Checks]:
        """Read an image (one in memory is taken as it is), and what was noticed about it.

        Args:
            image: file, folder, or image.
            recipe: how it is read.
            header: of a scan, from a table, where its file has a blank one.

        Raises:
            ScanError: it cannot be read as an image of this kind.
        """

    @abstractmethod
    def locate(self, image: Image, recipe: Recipe, organs: OrganDictionary, given: GivenOrgans) -> OrganLocations:
        """Where the organs of an image lie.

        Args:
            image: as ``read`` gives it.
            given: what the study brings; a modality reads what it knows of it.

        Raises:
            MaskError: masks or boxes that cannot be used.
        """

    @abstractmethod
    def standardize(
        self, image: Image, locations: OrganLocations, recipe: Recipe, organs: OrganDictionary
    ) -> Standardized:
        """The image and its organs on the recipe's grid: the same at preprocessing and at inference."""

    @abstractmethod
    def picture(
        self,
        image: np.ndarray,
        spacing_mm: tuple[float, float, float],
        labels: np.ndarray | None,
        region: OrganRegion,
        organs: OrganDictionary,
        subject: str,
    ) -> Picture:
        """A standardised image for display, with one organ marked.

        Args:
            labels: organ labels on its grid, or None.
            region: the organ.
            subject: what is shown, for the alt text.
        """

    @abstractmethod
    def overview(self, study: Standardized, organs: OrganDictionary, subject: str) -> Picture:
        """A standardised image for display, as a whole, with its large organs marked."""

    @abstractmethod
    def size(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[tuple[str, str], float]:
        """How large an image is, as it was read: (what, unit) -> number."""

    @abstractmethod
    def grid(self, recipe: Mapping[str, Any]) -> str:
        """The grid of a recipe's images, in words; ``recipe`` as a store has it."""

    @abstractmethod
    def organs_found(self, standardized: Standardized) -> dict[str, list[Any]]:
        """The organs or regions that were found, as plain data by what they are called."""

    def view(self, image: Image, stated: str | None) -> tuple[str | None, Checks]:
        """The projection of an image, ``stated`` by a table or by its file, and doubts about it."""
        del image
        return stated, ()

    def compared(self, image: Image, standardized: Standardized) -> np.ndarray:
        """The numbers by which equal images under several ids are found."""
        del image
        return standardized.image

    def segmentation(self, recipe: Recipe) -> SegmentationSettings | None:
        """How masks are made for images that come without; None where none are."""
        del recipe
        return None


class Ct(Modality[Scan, CtRecipe]):
    """CT scans."""

    name = "ct"
    image, images = "scan", "CT scans"
    files = "a NIfTI or NRRD file or a folder of DICOM slices"
    recipe = CtRecipe
    other_code = "not_ct"
    has_boxes, has_border, needs_masks = False, True, True
    pixel_type = np.dtype(np.int16)
    marked = ("lungs", "heart", "aorta", "liver", "spleen", "kidneys", "urinary_bladder", "spine")
    organ_size, size_control = "volume", "Volume only"
    organ_hints = "The crop's field of view and the mask give"

    def read(self, image: Path | Scan, recipe: CtRecipe, header: ScanHeader | None = None) -> tuple[Scan, Checks]:
        """Read a scan; ``header`` counts where its file's is blank."""
        return (image, check_scan(image)) if isinstance(image, Scan) else read_scan(image, recipe, header)

    def locate(self, image: Scan, recipe: CtRecipe, organs: OrganDictionary, given: GivenOrgans) -> OrganLocations:
        """Organs of given masks, else of a segmenter's; none without either."""
        if isinstance(given.masks, LabelMap):
            return OrganLocations(given.masks, source="label map in memory")
        if given.masks is not None:
            found, checks = read_masks(given.masks, image, recipe, organs, given.numbering)
            return OrganLocations(found, checks=checks, source=private_name(given.masks))
        if given.segmenter is None:
            return OrganLocations()
        found, checks = given.segmenter(image)
        return OrganLocations(found, checks=checks, source="TotalSegmentator")

    def standardize(
        self, image: Scan, locations: OrganLocations, recipe: CtRecipe, organs: OrganDictionary
    ) -> Standardized:
        """Hounsfield units and masks on voxels of the recipe's spacing."""
        return standardize(image, locations.masks, recipe, organs)

    def picture(
        self,
        image: np.ndarray,
        spacing_mm: tuple[float, float, float],
        labels: np.ndarray | None,
        region: OrganRegion,
        organs: OrganDictionary,
        subject: str,
    ) -> Picture:
        """The axial slice that shows most of the organ, in its window and outlined."""
        outlined = {organs[region.organ].display: sorted(organs.roi_labels(region.organ))}
        index = best_slice(image.shape, "axial", labels, outlined)
        return slice_picture(
            image, spacing_mm, "axial", index, labels, outlined,
            window_hu=window_for([region.organ]), longest_px=320, subject=subject,
        )  # fmt: skip

    def overview(self, study: Standardized, organs: OrganDictionary, subject: str) -> Picture:
        """A coronal slice through the large organs, an axial one of a thin slab."""
        outlined = {organs[name].display: organs.labels_of(name) for name in self.marked}
        image, spacing_mm = study.image, study.spacing_mm
        extent = [size * edge for size, edge in zip(image.shape, spacing_mm, strict=True)]
        plane = "coronal" if extent[2] > SLAB * max(extent) else "axial"
        index = best_slice(image.shape, plane, study.organs, outlined)
        return slice_picture(image, spacing_mm, plane, index, study.organs, outlined, longest_px=300, subject=subject)

    def size(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[tuple[str, str], float]:
        """Edges of a voxel in plane and along z, in mm."""
        del shape
        return {
            ("Voxel edge in plane, as scanned", "mm"): max(spacing_mm[:2]),
            ("Slice spacing, as scanned", "mm"): spacing_mm[2],
        }

    def grid(self, recipe: Mapping[str, Any]) -> str:
        """Edges of a voxel in mm."""
        return " × ".join(f"{edge:g}" for edge in recipe.get("spacing_mm", ())) + " mm"

    def organs_found(self, standardized: Standardized) -> dict[str, list[Any]]:
        """``organs``: the rows of organs."""
        return {"organs": list(standardized.rows)}

    def compared(self, image: Scan, standardized: Standardized) -> np.ndarray:
        """Hounsfield units as read: equal scans are found before any recipe."""
        del standardized
        return image.hu

    def segmentation(self, recipe: CtRecipe) -> SegmentationSettings | None:
        """As the recipe has it."""
        return recipe.segmentation


class Cxr(Modality[Radiograph, CxrRecipe]):
    """Chest radiographs."""

    name = "cxr"
    image, images = "radiograph", "radiographs"
    files = "a PNG, JPEG or DICOM radiograph"
    recipe = CxrRecipe
    other_code = "not_a_radiograph"
    has_boxes, has_border, needs_masks = True, False, False
    pixel_type = np.dtype(np.uint16)
    marked = ("right_lung", "left_lung", "cardiac_silhouette", "spine", "right_hemidiaphragm", "left_hemidiaphragm")
    organ_size, size_control = "area of the organ's box", "Box only"
    organ_hints = "The box's place and size give"
    without_organs = "Its radiographs have no boxes of them: try --set cxr.read=whole."

    def read(
        self, image: Path | Radiograph, recipe: CxrRecipe, header: ScanHeader | None = None
    ) -> tuple[Radiograph, Checks]:
        """Read a radiograph; no header from a table counts."""
        del header
        return (image, ()) if isinstance(image, Radiograph) else read_radiograph(image, recipe)

    def locate(
        self, image: Radiograph, recipe: CxrRecipe, organs: OrganDictionary, given: GivenOrgans
    ) -> OrganLocations:
        """Boxes of given masks and of given regions; a given region replaces that of a mask."""
        masks, regions = given.masks, given.regions
        found: dict[str, Region] = {}
        checks: Checks = ()
        source: list[str] = []
        if isinstance(masks, Path):
            rows, columns = image.pixels.shape
            labels, checks = read_cxr_masks(masks, (rows, columns), recipe, organs, given.numbering)
            source.append(private_name(masks))
            masks = LabelMap(labels, image.affine)
        elif masks is not None:
            source.append("label map in memory")
        if masks is not None:
            found = {region.name: region for region in regions_of_masks(masks.labels, organs.label_names())}
        if regions is not None:
            boxes = read_regions(regions) if isinstance(regions, Path) else regions
            source.append(private_name(regions) if isinstance(regions, Path) else "boxes in memory")
            found |= {region.name: region for region in boxes}
        return OrganLocations(masks, tuple(found.values()), checks, ", ".join(source) or "none")

    def standardize(
        self, image: Radiograph, locations: OrganLocations, recipe: CxrRecipe, organs: OrganDictionary
    ) -> Standardized:
        """Grey values, masks and boxes on the recipe's square."""
        del organs
        labels = None if locations.masks is None else locations.masks.labels
        return standardize_radiograph(image, recipe, labels, locations.regions)

    def picture(
        self,
        image: np.ndarray,
        spacing_mm: tuple[float, float, float],
        labels: np.ndarray | None,
        region: OrganRegion,
        organs: OrganDictionary,
        subject: str,
    ) -> Picture:
        """The whole radiograph with the organ's box, unless that is all of it."""
        del spacing_mm, labels
        is_full_frame = tuple(region.box) == (0, image.shape[0], 0, image.shape[1])
        boxes = () if is_full_frame else (Region(organs[region.organ].display, *region.box),)
        return cxr_picture(image, CXR_MAX, boxes, longest_px=320, subject=subject)

    def overview(self, study: Standardized, organs: OrganDictionary, subject: str) -> Picture:
        """The whole radiograph with the boxes of its large regions."""
        del organs
        entries, found = region_entries(), {region.name: region for region in study.regions}
        boxes = [replace(found[name], name=entries[name].display) for name in self.marked if name in found]
        return cxr_picture(study.image, CXR_MAX, boxes, longest_px=300, subject=subject)

    def size(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> dict[tuple[str, str], float]:
        """Rows and columns in pixels."""
        del spacing_mm
        return {("Rows, as read", "px"): float(shape[0]), ("Columns, as read", "px"): float(shape[1])}

    def grid(self, recipe: Mapping[str, Any]) -> str:
        """Pixels of the square, and how radiographs fit into it."""
        return f"{recipe.get('size')} × {recipe.get('size')} px, {recipe.get('fit', '')}"

    def organs_found(self, standardized: Standardized) -> dict[str, list[Any]]:
        """``regions``: the boxes of regions."""
        return {"regions": list(standardized.regions)}

    def view(self, image: Radiograph, stated: str | None) -> tuple[str | None, Checks]:
        """The table's projection, else the file's; the two may disagree whether it is frontal."""
        view = view_of(stated) or image.view
        if view is None:
            return None, (QualityCheck("view_unknown", "info", "Nobody says which projection the radiograph is."),)
        if stated is not None and image.view is not None and (view == "lateral") != (image.view == "lateral"):
            message = "The table and the file disagree whether the radiograph is frontal or lateral; the table counts."
            return view, (QualityCheck("view_disputed", "warning", message),)
        return view, ()


MODALITIES: Mapping[ModalityName, Modality[Any, Any]] = {one.name: one for one in (Ct(), Cxr())}


def modality_of(recipe: Settings) -> Modality[Any, Any]:
    """The modality that a recipe is for."""
    return next(modality for modality in MODALITIES.values() if isinstance(recipe, modality.recipe))


def looks_like(path: Path) -> Modality[Any, Any] | None:
    """What a file or folder is by its name: a folder, NIfTI and NRRD are scans, a picture or a single DICOM file is a
    radiograph; None where that says nothing."""
    name = path.name.lower()
    if path.is_dir() or name.endswith((".nii", ".nii.gz", ".nrrd")):
        return MODALITIES["ct"]
    return MODALITIES["cxr"] if path.is_file() and name.endswith((*PICTURE_SUFFIXES, *DICOM_SUFFIXES)) else None
