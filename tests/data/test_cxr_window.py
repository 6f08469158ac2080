"""Windows that are turned and warped: a known pixel lands where the geometry says, boxes go along, seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError
from torchvision.transforms import v2

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.cxr_window import cxr_window, upright

SIZE = 32
SETTINGS = CxrDataSettings(size=SIZE, margin=1.25, contrast=0.0, mean=0.0, std=1.0)


def bright(boxes: np.ndarray, edge: int = 40) -> np.ndarray:
    """A radiograph that is white inside of a box."""
    radiograph = np.zeros((edge, edge), np.uint16)
    row0, row1, column0, column1 = boxes[0].astype(int)
    radiograph[row0:row1, column0:column1] = CXR_MAX
    return radiograph


CHANGES = [
    {"rotate": 30.0, "perspective": 0.5},
    {"resized_crop": (0.3, 1.0)},
    {"flip": 0.5, "flip_vertical": 0.5},
    {"rotate": 30.0, "perspective": 0.5, "flip": 0.5, "flip_vertical": 0.5, "resized_crop": (0.5, 1.0)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "+".join(change))
def test_boxes_lie_around_what_was_changed(change: dict) -> None:
    settings, box = SETTINGS.model_copy(update=change), np.array([[16.0, 24, 14, 27]])
    for seed in range(20):
        image, boxes = cxr_window(bright(box), box, settings, np.random.default_rng(seed))
        rows, columns = np.nonzero(image[0] > 0.5)
        row0, row1, column0, column1 = boxes[0]
        if not len(rows):
            continue
        assert row0 - 1 <= rows.min()
        assert rows.max() + 1 <= row1 + 1
        assert column0 - 1 <= columns.min()
        assert columns.max() + 1 <= column1 + 1


def test_a_window_may_stand_upside_down_and_no_box_is_fine() -> None:
    radiograph = np.random.default_rng(0).integers(0, CXR_MAX, (SIZE, SIZE)).astype(np.uint16)
    settings = SETTINGS.model_copy(update={"margin": 1.0, "flip_vertical": 1.0})
    image, boxes = cxr_window(radiograph, np.zeros((0, 4)), settings, np.random.default_rng(0))
    assert_allclose(image[0], radiograph[::-1] / np.float32(CXR_MAX), atol=1e-6)
    assert boxes.shape == (0, 4)


def test_parts_of_a_radiograph_are_as_large_as_torchvisions() -> None:
    ramp = np.broadcast_to(np.linspace(0, CXR_MAX, 64), (64, 64)).astype(np.uint16)
    settings = CxrDataSettings(size=SIZE, margin=2.0, contrast=0.0, mean=0.0, std=1.0, resized_crop=(0.2, 1.0))
    spans = []
    for seed in range(200):
        image, _ = cxr_window(ramp, np.zeros((0, 4)), settings, np.random.default_rng(seed))
        spans.append(float(image[0, 0, -2] - image[0, 0, 1]) * SIZE / (SIZE - 3))
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0))
    theirs = [crop.make_params([torch.zeros(1, 64, 64)])["width"] / 64 for _ in range(2000)]
    assert np.mean(spans) == pytest.approx(np.mean(theirs), abs=0.05)
    assert (min(spans), max(spans)) == pytest.approx((min(theirs), 1.0), abs=0.1)


def test_warped_corners_stay_within_the_distortion() -> None:
    white = np.full((SIZE, SIZE), CXR_MAX, np.uint16)
    settings = SETTINGS.model_copy(update={"margin": 1.0, "perspective": 1.0, "distortion": 0.5})
    for seed in range(20):
        image, _ = cxr_window(white, np.zeros((0, 4)), settings, np.random.default_rng(seed))
        inner = slice(SIZE // 4 + 1, -SIZE // 4 - 1)
        assert image[0, inner, inner].min() > 0.99, "corners move a quarter of the window at most"


def test_brightness_and_contrast_are_changed_by_a_factor() -> None:
    grey = np.full((SIZE, SIZE), CXR_MAX // 2, np.uint16)
    settings = SETTINGS.model_copy(update={"margin": 1.0, "jitter": 0.2})
    found = [
        float(cxr_window(grey, np.zeros((0, 4)), settings, np.random.default_rng(seed))[0].mean()) for seed in range(50)
    ]
    assert 0.4 <= min(found) < 0.45
    assert 0.55 < max(found) <= 0.6


def test_labels_that_have_sides_see_upright_windows() -> None:
    wild = SETTINGS.model_copy(update={**CHANGES[-1], "autocontrast": 0.5})
    still = upright(wild)
    assert (still.flip, still.flip_vertical, still.rotate, still.perspective, still.resized_crop) == (0, 0, 0, 0, None)
    assert still.autocontrast == 0.5


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_shares_of_a_radiograph_are_between_none_and_all(shares: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="shares of the area"):
        CxrDataSettings(resized_crop=shares)


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
