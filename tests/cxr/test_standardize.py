"""Radiographs on the recipe's grid: proportions, borders, sides, boxes."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CXR_MAX, CxrRecipe
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.types import Region


def centre(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.argwhere(where).mean(0)


def test_letterbox_keeps_proportions_sides_and_letters(phantom: np.ndarray) -> None:
    made = standardize_radiograph(Radiograph(phantom.astype(np.float32)), CxrRecipe(size=240))
    assert made.image.shape == (240, 240)
    assert made.image.dtype == np.uint16
    assert made.image.max() == CXR_MAX
    assert not made.image[:, :20].any()
    assert not made.image[:, 220:].any()
    scaled = made.image[:, 20:220]
    assert scaled[16:18, 14:18].min() > 0.9 * CXR_MAX, "the letter is burned in and stays"
    assert scaled[150, 120] > scaled[150, 40] + 1000, "the heart is on the picture's right"


def test_stretch_fills_the_square(phantom: np.ndarray) -> None:
    made = standardize_radiograph(Radiograph(phantom.astype(np.float32)), CxrRecipe(size=64, fit="stretch"))
    assert made.image[:, 0].any()
    assert made.image[:, -1].any()


@pytest.mark.parametrize("tall", [True, False])
def test_cover_cuts_the_longer_side_down_to_its_middle(tall: bool) -> None:
    rng = np.random.default_rng(0)
    wide = rng.uniform(100, 200, (40, 70)).astype(np.float32)
    pixels = np.ascontiguousarray(wide.T) if tall else wide
    recipe = CxrRecipe(size=32, fit="cover", crop_borders=False, window="percentile", percentiles=(0, 100))
    box = (20, 35, 10, 30) if tall else (10, 30, 20, 35)
    outside = Region("edge", 0, 10, 0, 40) if tall else Region("edge", 0, 40, 0, 10)
    made = standardize_radiograph(Radiograph(pixels), recipe, None, [Region("middle", *box), outside])
    middle = pixels[15:55] if tall else pixels[:, 15:55]
    low, high = pixels.min(), pixels.max()
    from PIL import Image

    square = Image.fromarray(((middle - low) / (high - low)).astype(np.float32))
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)) * CXR_MAX
    assert np.abs(made.image.astype(float) - expected).max() <= 1
    (region,) = made.regions
    expected_box = (4, 16, 8, 24) if tall else (8, 24, 4, 16)
    assert (region.row0, region.row1, region.column0, region.column1) == expected_box


@pytest.mark.parametrize("value", [0, 4095])
def test_borders_go_but_what_is_written_into_them_stays(phantom: np.ndarray, value: int) -> None:
    framed = np.full((160, 150), value, np.float32)
    framed[20:140, 30:130] = phantom
    recipe = CxrRecipe(size=120, percentiles=(0, 100))
    plain = standardize_radiograph(Radiograph(phantom.astype(np.float32)), recipe)
    cut = standardize_radiograph(Radiograph(framed), recipe)
    assert np.abs(cut.image.astype(float) - plain.image).mean() < 0.02 * CXR_MAX
    framed[5:12, 60:75] = 4095 - value
    kept = standardize_radiograph(Radiograph(framed), recipe)
    rows, _ = np.nonzero(np.abs(kept.image[:12].astype(float) - value / 4095 * CXR_MAX) > 0.8 * CXR_MAX)
    assert len(rows), "the text in the frame is still there"


def test_a_large_cxr_is_shrunk_without_aliasing() -> None:
    stripes = np.tile(np.array([0, 1000], np.float32), (400, 200))
    stripes[:, :40] = 0
    made = standardize_radiograph(Radiograph(stripes, window=(0, 1000)), CxrRecipe(size=50, crop_borders=False))
    assert np.ptp(made.image[:, 10:].astype(int)) < 0.1 * CXR_MAX


def test_boxes_move_with_the_radiograph(phantom: np.ndarray) -> None:
    framed = np.zeros((160, 150), np.float32)
    framed[20:140, 30:130] = phantom
    heart = Region("cardiac_silhouette", 75, 110, 78, 105)
    outside = Region("spine", 0, 10, 0, 10)
    made = standardize_radiograph(Radiograph(framed), CxrRecipe(size=240), regions=(heart, outside))
    (box,) = made.regions
    inside = made.image[box.row0 : box.row1, box.column0 : box.column1]
    assert inside[4:-4, 4:-4].min() > 0.65 * CXR_MAX
    assert made.image[(box.row0 + box.row1) // 2, box.column1 + 8] < 0.5 * CXR_MAX
    assert [check.code for check in made.checks if check.code == "region_outside"] == ["region_outside"]


def test_the_affine_leads_back_to_the_source(phantom: np.ndarray) -> None:
    radiograph = Radiograph(phantom.astype(np.float32), spacing_mm=(0.5, 0.5))
    made = standardize_radiograph(radiograph, CxrRecipe(size=240))
    row, column = 17, 25 + 11  # grid pixel; source = (17 + .5) / 2 - .5, ((36 - 20) + .5) / 2 - .5
    millimetres = made.affine @ [row, column, 0, 1]
    np.testing.assert_allclose(millimetres[:2], [8.25 * 0.5, 7.75 * 0.5])


def test_masks_follow_and_keep_their_labels(phantom: np.ndarray) -> None:
    labels = np.zeros(phantom.shape, np.uint8)
    labels[20:90, 10:42] = 3
    made = standardize_radiograph(Radiograph(phantom.astype(np.float32)), CxrRecipe(size=240), labels)
    assert made.organs is not None
    assert set(np.unique(made.organs).tolist()) == {0, 3}
    assert made.image[made.organs == 3].mean() < 0.35 * CXR_MAX
