"""Scan and masks onto the recipe's grid: the same function that inference uses."""

from __future__ import annotations

from dataclasses import replace

from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.types import LabelMap, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import OrganDictionary


def standardize_study(
    scan: Scan,
    masks: LabelMap | None,
    recipe: CtRecipe,
    organs: OrganDictionary,
    checks: tuple[QualityCheck, ...],
) -> Standardized:
    """Standardise a study; ``checks`` of the earlier stages come first among its own."""
    done = standardize(scan, masks, recipe, organs)
    return replace(done, checks=(*checks, *done.checks))
