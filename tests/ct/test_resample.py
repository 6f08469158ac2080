"""The separable path equals the plain formula; labels stay labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ctglip.ct.geometry import regrid
from ctglip.ct.resample import to_grid


def plain(array: np.ndarray, scale: float, offset: float, count: int, axis: int) -> np.ndarray:
    """Triangle-kernel interpolation along one axis, by its formula."""
    moved = np.moveaxis(array.astype(float), axis, 0)
    half, rows = max(abs(scale), 1.0), []
    for k in range(count):
        position = np.clip(offset + scale * k, 0, len(moved) - 1)
        weight = np.clip(1 - np.abs(np.arange(len(moved)) - position) / half, 0, None)
        rows.append(np.tensordot(weight / weight.sum(), moved, 1))
    return np.moveaxis(np.array(rows), 0, axis)


@pytest.mark.parametrize("shape", [(12, 15, 9), (13, 8, 16)])
@pytest.mark.parametrize("spacing", [(2.7, 1.3, 1.0), (0.5, 3.0, 2.0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_linear_equals_the_formula(shape: tuple[int, ...], spacing: tuple[float, ...], order: str) -> None:
    rng = np.random.default_rng(0)
    array = np.asarray(rng.integers(-1000, 2000, shape), np.int16, order=order)
    affine = np.diag([1.0, 1.2, 1.7, 1.0])
    target_shape, target = regrid(affine, (0, shape[0], 0, shape[1], 0, shape[2]), spacing)
    expected = array
    for k in range(3):
        scale = spacing[k] / affine[k, k]
        expected = plain(expected, scale, -0.5 + 0.5 * scale, target_shape[k], k)
    result = to_grid(array, affine, target_shape, target)
    assert result.dtype == np.int16
    assert result.flags.c_contiguous
    assert np.abs(result - expected).max() <= 0.51


def test_enlarging_is_scipy_linear() -> None:
    array = np.random.default_rng(1).normal(size=(7, 8, 9)).astype(np.float32)
    target_shape, target = regrid(np.eye(4), (0, 7, 0, 8, 0, 9), (0.5, 0.4, 0.3))
    index = np.indices(target_shape).reshape(3, -1)
    positions = target[:3, :3] @ index + target[:3, 3:]
    expected = ndimage.map_coordinates(array, positions, order=1, mode="nearest").reshape(target_shape)
    assert np.allclose(to_grid(array, np.eye(4), target_shape, target), expected, atol=1e-5)


def test_identity_and_crop_copy_exactly() -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    same = to_grid(array, np.eye(4), (4, 5, 6), np.eye(4))
    assert np.array_equal(same, array)
    assert not np.shares_memory(same, array)
    moved = np.eye(4)
    moved[:3, 3] = (1, 2, 3)
    assert np.array_equal(to_grid(array, np.eye(4), (3, 3, 3), moved), array[1:, 2:, 3:])


def test_outside_is_filled_and_values_are_clipped_first() -> None:
    array = np.full((4, 4, 4), -3024, np.int16)
    moved = np.eye(4)
    moved[0, 3] = -2
    result = to_grid(array, np.eye(4), (8, 4, 4), moved, fill=-7, clip=(-1024, 3071))
    assert (result[:2] == -7).all()
    assert (result[2:6] == -1024).all()
    assert (result[6:] == -7).all()


def test_axes_in_another_order_and_direction() -> None:
    array = np.random.default_rng(2).integers(0, 100, (6, 7, 8)).astype(np.int16)
    swapped = array.transpose(2, 0, 1)[::-1]
    affine = np.eye(4)[:, [2, 0, 1, 3]]
    affine[:3, 0] *= -1
    affine[2, 3] = 7
    for labels in (False, True):
        assert np.array_equal(to_grid(swapped, affine, (6, 7, 8), np.eye(4), labels=labels), array)


@pytest.mark.parametrize("labels", [False, True])
def test_memory_that_runs_backwards_changes_nothing(labels: bool) -> None:
    rng = np.random.default_rng(1)
    stored = np.asarray(rng.integers(0, 200, (19, 23, 14)), np.uint8 if labels else np.int16, order="F")
    turned = stored[::-1, :, ::-1]
    affine = np.diag([0.7, 0.9, 1.1, 1.0])
    box = (1, 18, 2, 23, 0, 11)
    shape, target = regrid(affine, box, (1.5, 0.6, 2.0))
    result = to_grid(turned, affine, shape, target, labels=labels)
    assert np.array_equal(result, to_grid(np.ascontiguousarray(turned), affine, shape, target, labels=labels))
    same, moved = regrid(affine, box, (0.7, 0.9, 1.1))
    assert np.array_equal(to_grid(turned, affine, same, moved, labels=labels), turned[1:18, 2:23, :11])


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (1.5, 0.7, 2.2), (0.6, 0.6, 0.6)])
def test_labels_are_exact_and_volumes_kept(spacing: tuple[float, float, float]) -> None:
    grid = np.indices((40, 40, 40)) - 19.5
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[(grid**2).sum(0) < 15**2] = 5
    labels[(grid**2).sum(0) < 9**2] = 117
    shape, target = regrid(np.eye(4), (0, 40, 0, 40, 0, 40), spacing)
    result = to_grid(labels, np.eye(4), shape, target, labels=True)
    assert set(np.unique(result)) == {0, 5, 117}
    for label in (5, 117):
        before, after = (labels == label).sum(), (result == label).sum() * np.prod(spacing)
        assert after == pytest.approx(before, rel=0.05)


def test_turned_grid_takes_the_general_path() -> None:
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32)[:, None, None] * 10, (30, 30, 10)).copy()
    turn[:3, 3] = (14, 4, 2)
    result = to_grid(ramp, np.eye(4), (10, 10, 5), turn)
    position = turn @ [3, 4, 2, 1]
    assert result[3, 4, 2] == pytest.approx(position[0] * 10, abs=0.01)
    labels = to_grid((ramp > 150).astype(np.uint8) * 9, np.eye(4), (10, 10, 5), turn, labels=True)
    assert set(np.unique(labels)) <= {0, 9}


def test_coarse_grids_are_smoothed() -> None:
    """A pattern finer than the new grid averages out in place of folding into a false coarse one."""
    stripes = np.zeros((48, 48, 48), np.float32)
    stripes[::2] = 100
    shape, target = regrid(np.eye(4), (0, 48, 0, 48, 0, 48), (4, 4, 4))
    inner = to_grid(stripes, np.eye(4), shape, target)[2:-2]
    assert np.abs(inner - 50).max() < 2
