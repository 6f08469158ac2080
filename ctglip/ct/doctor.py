"""Looking at one scan, and at its masks, as preprocessing would, and saying everything that is noticed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import CTGLIPError
from ctglip.types import LabelMap, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import OrganDictionary, load_organs


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
    """

    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    extent_mm: tuple[float, float, float] | None = None
    hu_range: tuple[int, int] | None = None
    stored_shape: tuple[int, int, int] | None = None
    organs: dict[str, float] = field(default_factory=dict)
    cut_organs: tuple[str, ...] = ()


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
    )
