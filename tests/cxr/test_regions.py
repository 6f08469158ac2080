"""Region boxes: the files they come in, and masks that become boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.regions import read_regions, region_entries, region_name, regions_of_masks
from ctglip.errors import MaskError
from ctglip.types import Region
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs


def test_every_region_refers_to_known_organs_and_regions() -> None:
    organs, entries, abnormalities = load_organs(), region_entries(), load_abnormalities()
    assert len(entries) >= 23
    for name, entry in entries.items():
        assert all(organ in organs for organ in entry.organs), name
        assert all(other in entries for other in entry.inside), name
        assert all(other in abnormalities for other in entry.findings), name
    assert region_name("Right Lung") == region_name("lung_right") == "right_lung"
    assert region_name("left hilum") == "left_hilar_structures"
    assert region_name("something new") == "something_new"


def test_chest_imagenome_scene_graph(tmp_path: Path) -> None:
    objects = [
        {"bbox_name": "right lung", "x1": 20, "y1": 30, "x2": 90, "y2": 160,
         "original_x1": 200, "original_y1": 300, "original_x2": 900, "original_y2": 1600},
        {"bbox_name": "cardiac silhouette",
         "original_x1": 800.5, "original_y1": 900, "original_x2": 1500, "original_y2": 1700},
        {"bbox_name": "carina", "original_x1": 0, "original_y1": 0, "original_x2": 0, "original_y2": 0},
    ]  # fmt: skip
    path = tmp_path / "x_SceneGraph.json"
    path.write_text(json.dumps({"image_id": "x", "objects": objects}))
    assert read_regions(path) == (
        Region("right_lung", 300, 1600, 200, 900),
        Region("cardiac_silhouette", 900, 1700, 800, 1500),
    )


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("region,row0,row1,column0,column1\nspine,1,9,2.5,4.5\n")
    assert read_regions(path) == (Region("spine", 1, 9, 2, 5),)


@pytest.mark.parametrize("text", ["region,row0\nspine,1\n", "region,row0,row1,column0,column1\nspine,5,5,0,1\n"])
def test_bad_boxes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(MaskError) as caught:
        read_regions(path)
    assert caught.value.code == "bad_regions"


def test_two_lungs_are_told_apart_by_side(tmp_path: Path) -> None:
    mask = np.zeros((60, 50), np.uint8)
    mask[10:50, 4:20] = mask[12:40, 30:46] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    organs = load_organs()
    labels, checks = read_cxr_masks(tmp_path / "mask.png", (120, 100), CxrRecipe(), organs)
    assert [check.code for check in checks] == ["mask_scaled"]
    boxes = {region.name: region for region in regions_of_masks(labels, organs.label_names())}
    assert boxes["right_lung"] == Region("right_lung", 20, 100, 8, 40), "the patient's right is on the left"
    assert boxes["left_lung"] == Region("left_lung", 24, 80, 60, 92)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 50), np.uint8)).save(tmp_path / "empty.png")
    Image.fromarray(np.full((60, 60), 9, np.uint8)).save(tmp_path / "nine.png")
    recipe, organs = CxrRecipe(label_map={1: "heart"}), load_organs()
    for name, shape, code in (("empty", (60, 50), "masks_empty"), ("nine", (60, 50), "mask_grid"),
                              ("nine", (60, 60), "unknown_class"), ("absent", (60, 60), "no_masks")):  # fmt: skip
        with pytest.raises(MaskError) as caught:
            read_cxr_masks(tmp_path / f"{name}.png", shape, recipe, organs)
        assert caught.value.code == code
