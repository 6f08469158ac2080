"""From a cohort row to a standardised radiograph with its masks and boxes: the stages of a scan in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ctglip.cohort import CohortRow
from ctglip.cxr.io import Radiograph, read_radiograph
from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.regions import Region, read_regions, regions_of_masks
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.cxr.views import view_of
from ctglip.errors import ScanError
from ctglip.store.study import SourceGrid
from ctglip.types import QualityCheck, Standardized
from ctglip.vocabulary.organs import OrganDictionary


@dataclass(frozen=True)
class CxrStudy:
    """What is stored of a radiograph; ``row`` has the projection filled in."""

    row: CohortRow
    standardized: Standardized
    source: SourceGrid
    regions: tuple[Region, ...]


def make_radiograph(row: CohortRow, recipe: CxrRecipe, organs: OrganDictionary) -> CxrStudy:
    """Read and standardise a radiograph, its masks and its boxes.

    The table's ``view`` wins over the file's. A box of the ``regions`` file wins over the box of a mask.

    Raises:
        ScanError: from ``read_radiograph``; ``not_a_radiograph`` for a row of another modality.
        MaskError: from ``read_cxr_masks`` or ``read_regions``.
    """
    if "modality" in row.model_fields_set and row.modality != "cxr":
        raise ScanError(
            f"Study {row.study_id} has modality {row.modality!r}, this recipe is for radiographs.",
            code="not_a_radiograph",
            fix="Preprocess scans with a recipe for volumes.",
        )
    radiograph, checks = read_radiograph(row.image, recipe)
    rows, columns = radiograph.pixels.shape
    given = {region.name: region for region in (read_regions(row.regions) if row.regions else ())}
    labels = None
    if row.masks is not None:
        labels, noticed = read_cxr_masks(row.masks, (rows, columns), recipe, organs)
        checks = (*checks, *noticed)
        given = {region.name: region for region in regions_of_masks(labels, organs.label_names())} | given
    view, doubts = _view(row.view, radiograph)
    standardized, regions = standardize_radiograph(radiograph, recipe, labels, tuple(given.values()))
    standardized = replace(standardized, checks=(*checks, *doubts, *standardized.checks))
    row = row.model_copy(update={"modality": "cxr", "view": view})
    return CxrStudy(row, standardized, SourceGrid((rows, columns), _source_affine(radiograph)), regions)


def _source_affine(radiograph: Radiograph) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = radiograph.spacing_mm or (1.0, 1.0)
    return affine


def _view(stated: str | None, radiograph: Radiograph) -> tuple[str | None, tuple[QualityCheck, ...]]:
    view = view_of(stated) or radiograph.view
    if view is None:
        return None, (QualityCheck("view_unknown", "info", "Nobody says which projection the radiograph is."),)
    if stated is not None and radiograph.view is not None and (view == "lateral") != (radiograph.view == "lateral"):
        message = (
            "The table and the file disagree whether the radiograph is frontal or lateral; the table was believed."
        )
        return view, (QualityCheck("view_disputed", "warning", message),)
    return view, ()
