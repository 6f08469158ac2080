"""CT and chest radiographs behind one interface: what is read is what is given, files are told apart, organs found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctglip.config import Settings
from ctglip.ct.recipe import CtRecipe
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.modality import MODALITIES, GivenOrgans, Modality, OrganLocations, looks_like, modality_of
from ctglip.types import LabelMap, OrganRegion, Region, Scan
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()


def _scan() -> tuple[Scan, LabelMap]:
    rng = np.random.default_rng(0)
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[6:34, 6:34, 4:36] = rng.normal(40, 12, (28, 28, 32)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[20:30, 12:24, 10:20] = ORGANS["liver"].label or 0
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    return Scan(hu, affine), LabelMap(labels, affine)


def _radiograph() -> tuple[Radiograph, LabelMap]:
    pixels = np.random.default_rng(0).normal(120, 30, (120, 100)).astype(np.float32)
    labels = np.zeros((120, 100), np.uint8)
    labels[20:90, 10:42] = ORGANS["lung_right"].label or 0
    image = Radiograph(pixels, spacing_mm=(0.5, 0.5))
    return image, LabelMap(labels, image.affine)


CASES = [("ct", _scan, CtRecipe(), "liver"), ("cxr", _radiograph, CxrRecipe(size=64), "lung_right")]


@pytest.mark.parametrize(("name", "make", "recipe", "organ"), CASES)
def test_every_modality_answers_the_four_questions(name: Any, make: Any, recipe: Settings, organ: str) -> None:
    modality: Modality[Any, Any] = MODALITIES[name]
    assert modality_of(recipe) is modality
    image, masks = make()
    read, checks = modality.read(image, recipe)
    assert read is image
    assert not [check for check in checks if check.severity == "error"]
    locations = modality.locate(image, recipe, ORGANS, GivenOrgans(masks))
    assert locations.source == "label map in memory"
    made = modality.standardize(image, locations, recipe, ORGANS)
    assert made.organs is not None
    assert made.organs.shape == made.image.shape
    shape, affine = image.grid
    assert len(shape) == made.image.ndim
    assert affine.shape == (4, 4)
    (found,) = modality.organs_found(made).values()
    assert found
    box = tuple(edge for n in made.image.shape for edge in (0, n))
    whole = modality.picture(made.image, made.spacing_mm, made.organs, OrganRegion(organ, box), ORGANS, "case 1")
    inner = tuple(edge for n in made.image.shape for edge in (n // 4, n // 2))
    marked = modality.picture(made.image, made.spacing_mm, made.organs, OrganRegion(organ, inner), ORGANS, "case 1")
    assert marked.legend[0].name == ORGANS[organ].display
    assert "case 1" in whole.alt


def test_boxes_of_radiographs_win_over_those_of_masks() -> None:
    image, masks = _radiograph()
    box = Region("right_lung", 1, 50, 2, 40)
    alone = MODALITIES["cxr"].locate(image, CxrRecipe(), ORGANS, GivenOrgans(masks))
    both = MODALITIES["cxr"].locate(image, CxrRecipe(), ORGANS, GivenOrgans(masks, (box,)))
    assert [region.name for region in alone.regions] == [region.name for region in both.regions] == ["right_lung"]
    assert (alone.regions[0].row0, alone.regions[0].row1) == (20, 90)
    assert both.regions == (box,)
    assert both.source == "label map in memory, boxes in memory"


def test_masks_are_made_for_scans_that_come_without_where_that_is_wanted() -> None:
    image, masks = _scan()
    locate = MODALITIES["ct"].locate
    assert locate(image, CtRecipe(), ORGANS, GivenOrgans()) == OrganLocations()
    made = locate(image, CtRecipe(), ORGANS, GivenOrgans(segmenter=lambda scan: (masks, ())))
    assert (made.masks, made.source) == (masks, "TotalSegmentator")


def test_the_projection_of_the_table_counts() -> None:
    view, modality = MODALITIES["cxr"].view, MODALITIES["ct"]
    pixels = np.zeros((50, 50), np.float32)
    assert view(Radiograph(pixels, view="pa"), None) == ("pa", ())
    told, doubts = view(Radiograph(pixels, view="lateral"), "AP")
    assert (told, [check.code for check in doubts]) == ("ap", ["view_disputed"])
    assert [check.code for check in view(Radiograph(pixels), None)[1]] == ["view_unknown"]
    assert modality.view(_scan()[0], "axial") == ("axial", ())


def test_files_are_told_apart_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "a.PNG")
    (tmp_path / "b.dcm").touch()
    (tmp_path / "c.txt").touch()
    ct, cxr = MODALITIES["ct"], MODALITIES["cxr"]
    told = {"series": ct, "a.PNG": cxr, "b.dcm": cxr, "c.txt": None, "scan.nii.gz": ct, "scan.NRRD": ct}
    assert {name: looks_like(tmp_path / name) for name in told} == told
