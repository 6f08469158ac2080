"""Where the organs of a study lie: its masks and boxes, masks made here, or nothing."""

from __future__ import annotations

import functools
from typing import Any

from ctglip.cohort import CohortRow
from ctglip.config import Settings
from ctglip.ct.segmentation import SegmentationSettings, Segmenter
from ctglip.modality import GivenOrgans, OrganLocations, modality_of
from ctglip.vocabulary.organs import OrganDictionary


def segmentation_of(row: CohortRow, recipe: Settings) -> SegmentationSettings | None:
    """How TotalSegmentator has to be run for this study; None where it has not."""
    return None if row.masks is not None else modality_of(recipe).segmentation(recipe)


def locate_organs(row: CohortRow, image: Any, recipe: Settings, organs: OrganDictionary) -> OrganLocations:
    """The organs of a study's image, with what was noticed about them.

    Raises:
        MaskError: masks or boxes that cannot be laid on the image, or a segmentation that failed.
    """
    settings = segmentation_of(row, recipe)
    segmenter = None if settings is None else _open_segmenter().of(settings, organs).run
    return modality_of(recipe).locate(
        image, recipe, organs, GivenOrgans(row.masks, row.regions, row.numbering, segmenter)
    )


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
