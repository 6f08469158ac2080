"""From a cohort row to a standardised film with its masks and boxes: the stages of a scan in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ctglip.cohort import CohortRow
from ctglip.errors import ScanError
from ctglip.film.io import Film, read_film
from ctglip.film.masks import read_film_masks
from ctglip.film.recipe import FilmRecipe
from ctglip.film.regions import Region, read_regions, regions_of_masks
from ctglip.film.standardize import standardize_film
from ctglip.film.views import view_of
from ctglip.store.study import SourceGrid
from ctglip.types import QualityCheck, Standardized
from ctglip.vocabulary.organs import OrganDictionary


@dataclass(frozen=True)
class FilmStudy:
    """What is stored of a film; ``row`` has the projection filled in."""

    row: CohortRow
    standardized: Standardized
    source: SourceGrid
    regions: tuple[Region, ...]


def make_film(row: CohortRow, recipe: FilmRecipe, organs: OrganDictionary) -> FilmStudy:
    """Read and standardise a film, its masks and its boxes.

    The table's ``view`` wins over the file's. A box of the ``regions`` file wins over the box of a mask.

    Raises:
        ScanError: from ``read_film``; ``not_a_film`` for a row of another modality.
        MaskError: from ``read_film_masks`` or ``read_regions``.
    """
    if "modality" in row.model_fields_set and row.modality != "cxr":
        raise ScanError(
            f"Study {row.study_id} has modality {row.modality!r}, this recipe is for films.",
            code="not_a_film",
            fix="Preprocess scans with a recipe for volumes.",
        )
    film, checks = read_film(row.image, recipe)
    rows, columns = film.pixels.shape
    given = {region.name: region for region in (read_regions(row.regions) if row.regions else ())}
    labels = None
    if row.masks is not None:
        labels, noticed = read_film_masks(row.masks, (rows, columns), recipe, organs)
        checks = (*checks, *noticed)
        given = {region.name: region for region in regions_of_masks(labels, organs.label_names())} | given
    view, doubts = _view(row.view, film)
    standardized, regions = standardize_film(film, recipe, labels, tuple(given.values()))
    standardized = replace(standardized, checks=(*checks, *doubts, *standardized.checks))
    row = row.model_copy(update={"modality": "cxr", "view": view})
    return FilmStudy(row, standardized, SourceGrid((rows, columns), _source_affine(film)), regions)


def _source_affine(film: Film) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = film.spacing_mm or (1.0, 1.0)
    return affine


def _view(told: str | None, film: Film) -> tuple[str | None, tuple[QualityCheck, ...]]:
    view = view_of(told) or film.view
    if view is None:
        return None, (QualityCheck("view_unknown", "info", "Nobody says which projection the film is."),)
    if told is not None and film.view is not None and (view == "lateral") != (film.view == "lateral"):
        message = "The table and the file disagree whether the film is frontal or lateral; the table was believed."
        return view, (QualityCheck("view_disputed", "warning", message),)
    return view, ()
