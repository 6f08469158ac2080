"""Looking at one scan, and at its masks, as preprocessing would, and saying everything that is noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctglip.ct.hounsfield import Histogram
from ctglip.ct.io import read_scan
from ctglip.ct.mask_checks import EXPECTED_HU
from ctglip.ct.masks import read_masks
from ctglip.ct.quality import PADDING_HU, sample_of
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import CTGLIPError
from ctglip.types import LabelMap, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import OrganDictionary, load_organs

BANDS_HU: Mapping[str, tuple[float, float]] = {
    "below air": (-math.inf, -1100), "air": (-1100, -900), "lung": (-900, -400), "between lung and fat": (-400, -150),
    "fat": (-150, -30), "soft tissue": (-30, 130), "contrast, spongy bone": (130, 400), "bone": (400, 1800),
    "above bone": (1800, math.inf),
}  # fmt: skip
"""Where what a scan shows lies, in HU; together they are the whole histogram."""
AIR_MODE_HU = (-1060, -935)


@dataclass(frozen=True)
class MeanHu:
    """The mean HU of a place, and the lowest and highest that CT shows there, whatever the patient and the contrast."""

    place: str
    mean_hu: float
    low: float
    high: float

    @property
    def is_expected(self) -> bool:
        """Whether it lies where CT puts it."""
        return self.low <= self.mean_hu <= self.high


@dataclass(frozen=True)
class ScanSummary:
    """What a scan is, before and after standardisation. Unknown where reading failed.

    Attributes:
        shape: voxels (x, y, z) in RAS+ order.
        spacing_mm: voxel edges.
        extent_mm: edges of the field of view.
        hu_range: lowest and highest HU.
        stored_shape: voxels after standardisation by the recipe.
        organs: volume in millilitres of each organ that is drawn by itself.
        cut_organs: those that reach the border of the field of view.
        bands: share of the voxels in each of ``BANDS_HU``.
        means: of air (the lowest mode of the histogram), and of organs whose mean HU is much the same in all people.
    """

    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    extent_mm: tuple[float, float, float] | None = None
    hu_range: tuple[int, int] | None = None
    stored_shape: tuple[int, int, int] | None = None
    organs: dict[str, float] = field(default_factory=dict)
    cut_organs: tuple[str, ...] = ()
    bands: dict[str, float] = field(default_factory=dict)
    means: tuple[MeanHu, ...] = ()


def examine(
    path: Path, masks: Path | None = None, recipe: CtRecipe | None = None, organs: OrganDictionary | None = None
) -> tuple[tuple[QualityCheck, ...], ScanSummary]:
    """Read, check and standardise one scan; a failure is a check with severity ``error``, never an exception.

    Args:
        path: the scan, as ``read_scan`` takes it.
        masks: its masks, as ``read_masks`` takes them, or None.
        recipe: as preprocessing would use it; the default one when None.
        organs: the dictionary; the shipped one by default.

    Returns:
        All checks in the order in which they were made, and what is known of the scan.
    """
    organs, recipe = organs or load_organs(), recipe or CtRecipe()
    try:
        scan, checks = read_scan(path, recipe)
    except CTGLIPError as error:
        return (_failure(error),), ScanSummary()
    found: LabelMap | None = None
    if masks is not None:
        try:
            found, more = read_masks(masks, scan, recipe, organs)
            checks = (*checks, *more)
        except CTGLIPError as error:
            checks = (*checks, _failure(error))
    study = standardize(scan, found, recipe, organs)
    return (*checks, *study.checks), _summary(scan, study, organs)


def _failure(error: CTGLIPError) -> QualityCheck:
    return QualityCheck(error.code, "error", str(error))


def _summary(scan: Scan, study: Standardized, organs: OrganDictionary) -> ScanSummary:
    x, y, z = scan.hu.shape
    a, b, c = study.image.shape
    dx, dy, dz = scan.spacing_mm
    organs_known = set(organs.segmented)
    rows = [row for row in study.rows if row.organ in organs_known]
    return ScanSummary(
        shape=(x, y, z),
        spacing_mm=(dx, dy, dz),
        extent_mm=(x * dx, y * dy, z * dz),
        hu_range=(int(scan.hu.min()), int(scan.hu.max())),
        stored_shape=(a, b, c),
        organs={row.organ: row.volume_ml for row in rows},
        cut_organs=tuple(row.organ for row in rows if row.touches_border),
        bands={
            name: float(np.mean((scan.hu >= low) & (scan.hu < high))) for name, (low, high) in BANDS_HU.items()
        },
        means=(*_air(scan), *(
            MeanHu(row.organ, row.mean_hu, *EXPECTED_HU[row.organ]) for row in study.rows if row.organ in EXPECTED_HU
        )),
    )  # fmt: skip


def _air(scan: Scan) -> tuple[MeanHu, ...]:
    """The lowest mode of the scan's numbers, padding left out."""
    sample = sample_of(scan.hu)
    histogram = Histogram.of(sample)
    padding = {one.value for one in histogram.low if one.value < PADDING_HU}
    modes = [mode for mode in histogram.modes if all(abs(mode - value) > 10 for value in padding)]
    return (MeanHu("air", min(modes), *AIR_MODE_HU),) if modes else ()
