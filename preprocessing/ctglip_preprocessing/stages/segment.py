"""The organ masks of a study: given, made here, or none."""

from __future__ import annotations

import functools

from ctglip.cohort import CohortRow
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.segmentation import SegmentationSettings, Segmenter
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import OrganDictionary


def needs_segmentation(row: CohortRow, recipe: CtRecipe) -> bool:
    """Whether TotalSegmentator has to be run for this study."""
    return row.masks is None and recipe.segmentation is not None


def find_masks(
    row: CohortRow, scan: Scan, recipe: CtRecipe, organs: OrganDictionary
) -> tuple[LabelMap | None, tuple[QualityCheck, ...]]:
    """Masks on the scan's grid, with what was noticed about them; None where there are none and none are wanted.

    Raises:
        MaskError: masks that cannot be laid on the scan, or a segmentation that failed.
    """
    if row.masks is not None:
        return read_masks(row.masks, scan, recipe, organs, row.numbering)
    if recipe.segmentation is None:
        return None, ()
    return _open_segmenter().of(recipe.segmentation, organs).run(scan)


class _OpenSegmenter:
    """This process's TotalSegmentator: its model is loaded with the first study and stays for those that follow."""

    def __init__(self) -> None:
        self._segmenter: Segmenter | None = None

    def of(self, settings: SegmentationSettings, organs: OrganDictionary) -> Segmenter:
        if self._segmenter is None or self._segmenter.settings != settings:
            self.close()
            self._segmenter = Segmenter(settings, organs)
        return self._segmenter

    def close(self) -> None:
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None


@functools.cache
def _open_segmenter() -> _OpenSegmenter:
    return _OpenSegmenter()


def close_segmenter() -> None:
    """End this process's TotalSegmentator, if one was started; else it ends with this process."""
    _open_segmenter().close()
