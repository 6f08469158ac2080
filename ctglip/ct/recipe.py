"""What a scan is turned into: one small piece of data that travels from preprocessing into the model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ctglip.config import Settings
from ctglip.ct.segmentation import WHERE_IT_RUNS, SegmentationSettings
from ctglip.errors import MaskError
from ctglip.files import value_hash
from ctglip.types import GridRule
from ctglip.vocabulary.numberings import numbering


class CtRecipe(Settings):
    """How scans and masks are read and standardised.

    Attributes:
        trained: settings that decide what a model sees: those of its training, and no others.
        spacing_mm: voxel edges (x, y, z) of the standardised volume.
        hu_clip: lowest and highest HU kept; padding such as -3024 ends up at the lowest.
        crop_to_body: cut away the air around the largest body.
        grid: how voxels of the new spacing lie on the scan's, and whether these are smoothed: ``smooth``, or as public
            models have it (``types.GridRule``).
        min_organ_ml: organs with less than this are not listed.
        slice_gaps: what to do with a DICOM series whose slices are unevenly spaced: interpolate them onto a regular
            grid, or refuse the series.
        series: which CT series of a folder to take: a series number, or words of its description. None takes the one
            with the most slices.
        label_map: what the numbers of multilabel mask files mean, where they are not TotalSegmentator v2's: the name of
            a numbering (``amos``, ``abdomenatlas``, ... see ``organ_dictionary/numberings.yaml``), or number to organ.
            A row's ``numbering`` in the cohort comes before it.
        align_masks_by_index: lay masks on the slices one by one when only their slice spacing disagrees.
        segmentation: run TotalSegmentator with these settings on scans that come without masks.
    """

    trained: ClassVar = ("spacing_mm", "hu_clip", "crop_to_body", "grid")

    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5)
    hu_clip: tuple[int, int] = (-1024, 3071)
    crop_to_body: bool = True
    grid: GridRule = "smooth"
    min_organ_ml: float = Field(default=0.05, ge=0)
    slice_gaps: Literal["resample", "refuse"] = "resample"
    series: str | None = None
    label_map: dict[int, str] | str | None = None
    align_masks_by_index: bool = False
    segmentation: SegmentationSettings | None = None

    @field_validator("spacing_mm")
    @classmethod
    def _possible_spacing(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0.1 <= edge <= 20 for edge in value):
            raise ValueError("every edge must be between 0.1 and 20 mm")
        return value

    @field_validator("label_map")
    @classmethod
    def _known_numbering(cls, value: dict[int, str] | str | None) -> dict[int, str] | str | None:
        if not isinstance(value, str):
            return value
        try:
            return numbering(value).name
        except MaskError as error:
            raise ValueError(str(error)) from error

    @field_validator("hu_clip")
    @classmethod
    def _ordered_clip(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not -32768 <= value[0] < value[1] <= 32767:
            raise ValueError("expected lowest < highest, both within int16")
        return value

    @property
    def hash(self) -> str:
        """The same for recipes with the same result; part of every cache key."""
        return value_hash(self.stored())

    def stored(self) -> dict[str, Any]:
        """As plain data, without what does not change the result: where TotalSegmentator runs, and the usual grid,
        which stores of before do not name."""
        found = self.model_dump(mode="json", exclude={"segmentation": WHERE_IT_RUNS})
        return {name: value for name, value in found.items() if (name, value) != ("grid", "smooth")}
