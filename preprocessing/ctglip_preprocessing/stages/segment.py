"""The organ masks of a study: given, made here, or none."""

from __future__ import annotations

from ctglip.cohort import CohortRow
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.volume.masks import read_masks
from ctglip.volume.recipe import VolumeRecipe


def needs_segmentation(row: CohortRow, recipe: VolumeRecipe) -> bool:
    """Whether TotalSegmentator has to be run for this study."""
    return row.masks is None and recipe.segmentation is not None


def find_masks(
    row: CohortRow, scan: Scan, recipe: VolumeRecipe, organs: OrganDictionary
) -> tuple[LabelMap | None, tuple[QualityCheck, ...]]:
    """Masks on the scan's grid, with what was noticed about them; None where there are none and none are wanted.

    Raises:
        MaskError: masks that cannot be laid on the scan, or a segmentation that failed.
    """
    if row.masks is not None:
        return read_masks(row.masks, scan, recipe, organs)
    if recipe.segmentation is None:
        return None, ()
    from ctglip.volume.segmentation import segment

    return segment(scan, recipe.segmentation, organs), ()
