"""Details of crops: extremes are those of the finer voxels, thin things are removed and thick ones are kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ctglip.ct.organs import organ_table
from ctglip.data.crops import CropSettings, cut_crop
from ctglip.data.details import LIMIT_HU, detail_maps, roundness
from ctglip.data.rendering import render
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
FACES = [np.linspace(0, 24, 7)] * 3
"""Six grid voxels of four voxels each."""
ROUND = (-100.0, (9.0, 36.0))


def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(-100, 200, (24, 24, 24)).astype(np.int16), np.ones((24, 24, 24), bool)


def test_extremes_are_those_of_the_voxels_inside() -> None:
    image, inside = volume()
    high, low = detail_maps(image, inside, 50.0, FACES, (1, 1, 1), ("highest", "lowest"), 9.0, *ROUND)
    blocks = (image - 50).clip(-LIMIT_HU, LIMIT_HU).reshape(6, 4, 6, 4, 6, 4)
    np.testing.assert_array_equal(high, blocks.max((1, 3, 5)))
    np.testing.assert_array_equal(low, blocks.min((1, 3, 5)))


@pytest.mark.parametrize("step", [0.37, 1.0, 2.6])
def test_any_grid_holds_what_lies_in_its_voxels(step: float) -> None:
    """By hand: the voxels whose middle lies between two faces, or else the nearest one."""
    image, inside = volume()
    faces = 3.2 + step * np.arange(8)
    (high,) = detail_maps(image, inside, 0.0, [faces, FACES[1], FACES[2]], (1, 1, 1), ("highest",), 9.0, *ROUND)
    for cell in range(7):
        own = [i for i in range(24) if faces[cell] <= i + 0.5 < faces[cell + 1]]
        own = own or [int((faces[cell] + faces[cell + 1]) / 2)]
        assert high[cell, 2, 3] == min(image[own, 8:12, 12:16].max(), LIMIT_HU)


def test_other_organs_and_what_lies_beyond_the_scan_tell_nothing() -> None:
    image, inside = volume()
    inside[:12] = False
    faces = [np.linspace(-8, 16, 7), *FACES[1:]]
    maps = detail_maps(image, inside, 50.0, faces, (1, 1, 1), ("highest", "lowest", "opened", "closed"), 2.0, *ROUND)
    assert (maps[:, :5] == 0).all()
    assert (maps[0, 5] > 0).all()
    assert (maps[1, 5] < 0).all()


def test_what_is_thin_is_removed_and_what_is_thick_is_kept() -> None:
    """A vessel of 4 mm and a nodule of 14 mm, both as bright; and the same, dark, in a liver."""
    image = np.full((24, 24, 24), -850, dtype=np.int16)
    image[4:6, :, 4:6] = 40
    image[12:19, 12:19, 12:19] = 40
    inside = np.ones(image.shape, bool)
    (opened,) = detail_maps(image, inside, -850.0, FACES, (2, 2, 2), ("opened",), 9.0, *ROUND)
    assert opened.max() == LIMIT_HU
    assert (opened[:2] == 0).all()
    assert (opened[3:5, 3:5, 3:5] == LIMIT_HU).all()
    (closed,) = detail_maps(
        (40 - (image + 850) // 20).astype(np.int16), inside, 40.0, FACES, (2, 2, 2), ("closed",), 9.0, *ROUND
    )
    assert closed.min() == -44
    assert (closed[:2] == 0).all()
    assert (closed[3:5, 3:5, 3:5] == -44).all()


@pytest.mark.parametrize("step", [3.0, 2.0, 1.0])
def test_opening_and_closing_are_those_of_scipy(step: float) -> None:
    rng = np.random.default_rng(1)
    image, inside = rng.integers(-100, 100, (24, 24, 24)).astype(np.int16), np.ones((24, 24, 24), bool)
    every = [np.arange(25.0)] * 3
    opened, closed = detail_maps(image, inside, 0.0, every, (step, step, step), ("opened", "closed"), 9.0, *ROUND)
    size = [round(9 / step)] * 3
    inner = (slice(9, -9),) * 3  # the faces are treated in other ways
    np.testing.assert_array_equal(opened[inner], ndimage.grey_opening(image, size)[inner])
    np.testing.assert_array_equal(closed[inner], ndimage.grey_closing(image, size)[inner])


def test_roundness_is_the_share_of_a_ball_as_wide_as_the_piece_is_long() -> None:
    dense = np.zeros((40, 24, 24), bool)
    half = np.linalg.norm(np.indices((6, 11, 11)) - 5, axis=0) <= 5.5  # of a ball 22 mm across
    dense[2:8, 2:13, 2:13] = half
    dense[15:35, 3, 3] = True  # a vessel of 2 by 2 by 40 mm: too long for what is asked first
    dense[20:23, 20, 20] = True  # 6 mm: too short
    found = roundness(dense, (2, 2, 2), (9, 36))
    np.testing.assert_allclose(found[2:8, 2:13, 2:13][half], half.sum() * 8 / (np.pi / 6 * 22**3), rtol=1e-5)
    assert 0.5 < found[7, 7, 7] < 0.7
    assert (found[15:] == 0).all()
    long = roundness(dense, (2, 2, 2), (3, 60))
    np.testing.assert_allclose(long[20, 3, 3], 160 / (np.pi / 6 * 40**3), rtol=1e-5)
    np.testing.assert_allclose(long[21, 20, 20], 24 / (np.pi / 6 * 6**3), rtol=1e-5)
    assert (roundness(dense, (2, 2, 2), (3, 60))[~dense] == 0).all()
    assert roundness(dense & False, (2, 2, 2), (9, 36)).max() == 0


def test_pieces_that_touch_by_an_edge_alone_are_two_and_none_is_rounder_than_a_ball() -> None:
    dense = np.zeros((8, 8, 8), bool)
    dense[:3, :3, :3] = dense[3:6, 3:6, :3] = True
    found = roundness(dense, (3, 3, 3), (9, 36))
    np.testing.assert_array_equal(found[dense], 1.0)  # a cube is more than the ball in it


@pytest.mark.parametrize("limits", [(36, 9), (9, 9), (-1, 9)])
def test_limits_between_which_nothing_is_round_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        CropSettings(round_mm=limits)


def test_a_nodule_is_round_and_a_vessel_and_what_is_outside_the_lung_are_not() -> None:
    image = np.full((24, 24, 24), -850, dtype=np.int16)
    image[4:6, :, 4:6] = 40
    image[13:20, 13:20, 13:20] = 40
    inside = np.ones(image.shape, bool)
    (found,) = detail_maps(image, inside, -850.0, FACES, (2, 2, 2), ("round",), 9.0, *ROUND)
    assert found.dtype == np.int8
    assert found[4, 4, 4] == LIMIT_HU
    assert (found[:3] == 0).all()
    inside[13:] = False
    (found,) = detail_maps(image, inside, -850.0, FACES, (2, 2, 2), ("round",), 9.0, *ROUND)
    assert (found == 0).all()


def test_a_stone_that_the_mean_dilutes_is_a_channel_of_its_own() -> None:
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[4:36, 4:36, 4:36] = ORGANS["liver"].label
    image = np.full(labels.shape, 50, dtype=np.int16)
    image[:4] = 900  # bright, and outside
    image[21, 17, 13] = 400
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    settings = CropSettings(grid=(8, 8, 8), details=("highest",))
    row: OrganRow = next(r for r in organ_table(labels, image, affine, ORGANS) if r.organ == "liver")
    crop = cut_crop(image, labels, affine, ORGANS["liver"], row, ORGANS, settings)
    seen = render([crop], settings)[0].numpy()
    assert seen.shape[0] == settings.channels == 5
    instances = np.argwhere(seen[3] > 1)
    assert len(instances) == 1
    assert seen[3].max() == 2.0
    assert np.abs(seen[2][tuple(instances[0])]) < 0.2
    mean_alone = settings.model_copy(update={"fill": "organ_mean"})
    control = render([crop], mean_alone)[0, 3].numpy()
    assert np.ptp(control[crop.mask == 255]) < 1e-5
