"""Windows that are turned and warped: a known pixel lands where the geometry says, boxes go along, seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torchvision.transforms.v2 import functional as vision

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.cxr_window import between, cxr_window, mapped, turn, warped, warped_boxes

SIZE = 32
SETTINGS = CxrDataSettings(size=SIZE, margin=1.25, contrast=0.0, mean=0.0, std=1.0)


def spot(row: int, column: int, edge: int = SIZE) -> np.ndarray:
    radiograph = np.zeros((edge, edge), np.float32)
    radiograph[row, column] = 1
    return radiograph


def test_a_quarter_turn_moves_a_known_pixel() -> None:
    seen = warped(spot(3, 10), turn(90, SIZE), (0, 0), SIZE)
    assert np.unravel_index(seen.argmax(), seen.shape) == (SIZE - 1 - 10, 3), "counterclockwise: the right goes up"
    assert seen.max() == pytest.approx(1)
    assert_allclose(seen, np.rot90(spot(3, 10)), atol=1e-6)


def test_a_turn_is_torchvisions() -> None:
    rng = np.random.default_rng(0)
    radiograph = rng.random((SIZE, SIZE)).astype(np.float32)
    expected = vision.rotate(torch.from_numpy(radiograph)[None], 17.0, vision.InterpolationMode.BILINEAR)[0].numpy()
    inner = slice(8, 24)  # at the border the two blend with black in their own ways
    assert_allclose(warped(radiograph, turn(17.0, SIZE), (0, 0), SIZE)[inner, inner], expected[inner, inner], atol=1e-3)


def test_a_warp_takes_corners_to_corners_and_is_torchvisions() -> None:
    start = np.array([[0, 0], [0, SIZE], [SIZE, 0], [SIZE, SIZE]], np.float64)
    end = start + np.array([[3, 2], [4, -5], [-1, 6], [-2, -3]])
    matrix = between(start, end)
    assert_allclose(mapped(start, matrix), end, atol=1e-9)
    radiograph = np.add.outer(np.arange(SIZE), 2 * np.arange(SIZE)).astype(np.float32)
    order = [0, 1, 3, 2]  # torchvision: (x, y) of top left, top right, bottom right, bottom left
    points = [[[float(c), float(r)] for r, c in corners[order]] for corners in (start, end)]
    expected = vision.perspective(
        torch.from_numpy(radiograph)[None], points[0], points[1], vision.InterpolationMode.BILINEAR  # type: ignore[arg-type]
    )[0].numpy()  # fmt: skip
    inner = slice(8, 24)
    assert_allclose(warped(radiograph, matrix, (0, 0), SIZE)[inner, inner], expected[inner, inner], atol=0.2)


def test_a_turned_window_shows_the_cxr_around_it() -> None:
    radiograph = np.ones((SIZE + 20, SIZE + 20), np.float32)
    assert warped(radiograph, turn(30, SIZE), (10, 10), SIZE).min() == pytest.approx(1), (
        "no black corner inside of the radiograph"
    )
    assert warped(radiograph[10:-10, 10:-10], turn(30, SIZE), (0, 0), SIZE)[0, 0] == 0


def test_boxes_lie_around_what_was_turned() -> None:
    box = np.array([[4.0, 8.0, 10.0, 20.0]])
    assert_allclose(warped_boxes(box, turn(90, SIZE)), [[12, 22, 4, 8]])
    assert warped_boxes(np.zeros((0, 4)), turn(90, SIZE)).shape == (0, 4)
    settings = SETTINGS.model_copy(update={"rotate": 30.0, "perspective": 0.5})
    radiograph = np.zeros((40, 40), np.uint16)
    radiograph[16:24, 14:27] = CXR_MAX
    for seed in range(20):
        image, boxes = cxr_window(radiograph, np.array([[16.0, 24, 14, 27]]), settings, np.random.default_rng(seed))
        rows, columns = np.nonzero(image[0] > 0.5)
        row0, row1, column0, column1 = boxes[0]
        assert row0 - 0.5 <= rows.min()
        assert rows.max() + 1 <= row1 + 0.5
        assert column0 - 0.5 <= columns.min()
        assert columns.max() + 1 <= column1 + 0.5
        assert (row1 - row0) * (column1 - column0) < 4 * 8 * 13, "near what it holds"


def test_the_same_seed_draws_the_same_cxr_and_another_another() -> None:
    radiograph = np.random.default_rng(0).integers(0, CXR_MAX, (40, 40)).astype(np.uint16)
    settings = SETTINGS.model_copy(update={"rotate": 30.0, "perspective": 0.5, "autocontrast": 0.5, "contrast": 0.1})
    boxes = np.array([[5.0, 20, 5, 20]])
    first, again, other = (cxr_window(radiograph, boxes, settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert_array_equal(first[0], again[0])
    assert_array_equal(first[1], again[1])
    assert np.abs(first[0] - other[0]).max() > 0.1


def test_without_them_windows_are_drawn_as_ever() -> None:
    radiograph = np.random.default_rng(0).integers(0, CXR_MAX, (40, 40)).astype(np.uint16)
    rng = np.random.default_rng(3)
    row, column = rng.integers(0, 9, 2)
    image, boxes = cxr_window(radiograph, np.array([[5.0, 20, 5, 20]]), SETTINGS, np.random.default_rng(3))
    assert_allclose(image[0], radiograph[row : row + SIZE, column : column + SIZE] / np.float32(CXR_MAX), atol=1e-6)
    assert_allclose(boxes, np.clip([[5 - row, 20 - row, 5 - column, 20 - column]], 0, SIZE))
    assert cxr_window(radiograph, boxes, SETTINGS.model_copy(update={"rotate": 30.0}), None)[0][
        0, 0, 0
    ] == pytest.approx(radiograph[4, 4] / CXR_MAX), "judged radiographs stand upright"


def test_autocontrast_uses_all_grey_values() -> None:
    radiograph = np.linspace(0.3, 0.6, 1600).reshape(40, 40)
    radiograph = (radiograph * CXR_MAX).astype(np.uint16)
    settings = SETTINGS.model_copy(update={"autocontrast": 1.0})
    image, _ = cxr_window(radiograph, np.zeros((0, 4)), settings, np.random.default_rng(0))
    assert (image.min(), image.max()) == pytest.approx((0, 1), abs=1e-3)
