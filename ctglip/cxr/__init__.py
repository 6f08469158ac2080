"""Chest radiographs: reading files, boxes of their regions, public cohorts, and one way to standardise all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.cxr.io import read_radiograph as read_radiograph
    from ctglip.cxr.masks import read_cxr_masks as read_cxr_masks
    from ctglip.cxr.picture import Radiograph as Radiograph
    from ctglip.cxr.recipe import CxrRecipe as CxrRecipe
    from ctglip.cxr.regions import read_regions as read_regions
    from ctglip.cxr.regions import region_entries as region_entries
    from ctglip.cxr.standardize import standardize_radiograph as standardize_radiograph

__getattr__, __dir__ = public_names(__name__)
