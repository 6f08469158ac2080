"""Details of crops: extremes are those of the finer voxels, thin things are removed and thick ones are kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ctglip.data.crops import CropSettings, cut_crop
from ctglip.data.details import LIMIT_HU, detail_maps
from ctglip.data.rendering import render
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import load_organs
from ctglip.volume.organs import organ_table

ORGANS = load_organs()
FACES = [np.linspace(0, 24, 7)] * 3
"""Six grid voxels of four voxels each."""


def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(-100, 200, (24, 24, 24)).astype(np.int16), np.ones((24, 24, 24), bool)


def test_extremes_are_those_of_the_voxels_inside() -> None:
    image, inside = volume()
    high, low = detail_maps(image, inside, 50.0, FACES, (1, 1, 1), ("highest", "lowest"), 9.0)
    blocks = (image - 50).clip(-LIMIT_HU, LIMIT_HU).reshape(6, 4, 6, 4, 6, 4)
    np.testing.assert_array_equal(high, blocks.max((1, 3, 5)))
    np.testing.assert_array_equal(low, blocks.min((1, 3, 5)))


@pytest.mark.parametrize("step", [0.37, 1.0, 2.6])
def test_any_grid_holds_what_lies_in_its_voxels(step: float) -> None:
    """By hand: the voxels whose middle lies between two faces, or else the nearest one."""
    image, inside = volume()
    faces = 3.2 + step * np.arange(8)
    (high,) = detail_maps(image, inside, 0.0, [faces, FACES[1], FACES[2]], (1, 1, 1), ("highest",), 9.0)
    for cell in range(7):
        own = [i for i in range(24) if faces[cell] <= i + 0.5 < faces[cell + 1]]
        own = own or [int((faces[cell] + faces[cell + 1]) / 2)]
        assert high[cell, 2, 3] == min(image[own, 8:12, 12:16].max(), LIMIT_HU)


def test_other_organs_and_what_lies_beyond_the_scan_tell_nothing() -> None:
    image, inside = volume()
    inside[:12] = False
    faces = [np.linspace(-8, 16, 7), *FACES[1:]]
    maps = detail_maps(image, inside, 50.0, faces, (1, 1, 1), ("highest", "lowest", "opened", "closed"), 2.0)
    assert (maps[:, :5] == 0).all()
    assert (maps[0, 5] > 0).all()
    assert (maps[1, 5] < 0).all()


def test_what_is_thin_is_removed_and_what_is_thick_is_kept() -> None:
    """A vessel of 4 mm and a nodule of 14 mm, both as bright; and the same, dark, in a liver."""
    image = np.full((24, 24, 24), -850, dtype=np.int16)
    image[4:6, :, 4:6] = 40
    image[12:19, 12:19, 12:19] = 40
    inside = np.ones(image.shape, bool)
    (opened,) = detail_maps(image, inside, -850.0, FACES, (2, 2, 2), ("opened",), 9.0)
    assert opened.max() == LIMIT_HU
    assert (opened[:2] == 0).all()
    assert (opened[3:5, 3:5, 3:5] == LIMIT_HU).all()
    (closed,) = detail_maps(
        (40 - (image + 850) // 20).astype(np.int16), inside, 40.0, FACES, (2, 2, 2), ("closed",), 9.0
    )
    assert closed.min() == -44
    assert (closed[:2] == 0).all()
    assert (closed[3:5, 3:5, 3:5] == -44).all()


@pytest.mark.parametrize("step", [3.0, 2.0, 1.0])
def test_opening_and_closing_are_those_of_scipy(step: float) -> None:
    rng = np.random.default_rng(1)
    image, inside = rng.integers(-100, 100, (24, 24, 24)).astype(np.int16), np.ones((24, 24, 24), bool)
    every = [np.arange(25.0)] * 3
    opened, closed = detail_maps(image, inside, 0.0, every, (step, step, step), ("opened", "closed"), 9.0)
    size = [round(9 / step)] * 3
    inner = (slice(9, -9),) * 3  # the faces are treated in other ways
    np.testing.assert_array_equal(opened[inner], ndimage.grey_opening(image, size)[inner])
    np.testing.assert_array_equal(closed[inner], ndimage.grey_closing(image, size)[inner])


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
    places = np.argwhere(seen[3] > 1)
    assert len(places) == 1
    assert seen[3].max() == 2.0
    assert np.abs(seen[2][tuple(places[0])]) < 0.2
    mean_alone = settings.model_copy(update={"fill": "organ_mean"})
    control = render([crop], mean_alone)[0, 3].numpy()
    assert np.ptp(control[crop.mask == 255]) < 1e-5
