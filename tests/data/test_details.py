"""Details of crops: extremes are those of the finer voxels."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.ct.organs import organ_table
from ctglip.data.crops import CropSettings, cut_crop
from ctglip.data.details import LIMIT_HU, detail_maps
from ctglip.data.rendering import render
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
FACES = [np.linspace(0, 24, 7)] * 3
"""Six grid voxels of four voxels each."""


def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(-100, 200, (24, 24, 24)).astype(np.int16), np.ones((24, 24, 24), bool)


def test_extremes_are_those_of_the_voxels_inside() -> None:
    image, inside = volume()
    high, low = detail_maps(image, inside, 50.0, FACES, ("highest", "lowest"))
    blocks = (image - 50).clip(-LIMIT_HU, LIMIT_HU).reshape(6, 4, 6, 4, 6, 4)
    np.testing.assert_array_equal(high, blocks.max((1, 3, 5)))
    np.testing.assert_array_equal(low, blocks.min((1, 3, 5)))


@pytest.mark.parametrize("step", [0.37, 1.0, 2.6])
def test_any_grid_holds_what_lies_in_its_voxels(step: float) -> None:
    """By hand: the voxels whose middle lies between two faces, or else the nearest one."""
    image, inside = volume()
    faces = 3.2 + step * np.arange(8)
    (high,) = detail_maps(image, inside, 0.0, [faces, FACES[1], FACES[2]], ("highest",))
    for cell in range(7):
        own = [i for i in range(24) if faces[cell] <= i + 0.5 < faces[cell + 1]]
        own = own or [int((faces[cell] + faces[cell + 1]) / 2)]
        assert high[cell, 2, 3] == min(image[own, 8:12, 12:16].max(), LIMIT_HU)


def test_other_organs_and_what_lies_beyond_the_scan_tell_nothing() -> None:
    image, inside = volume()
    inside[:12] = False
    faces = [np.linspace(-8, 16, 7), *FACES[1:]]
    maps = detail_maps(image, inside, 50.0, faces, ("highest", "lowest"))
    assert (maps[:, :5] == 0).all()
    assert (maps[0, 5] > 0).all()
    assert (maps[1, 5] < 0).all()


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
    assert seen.shape[0] == settings.channels == 4
    instances = np.argwhere(seen[2] > 1)
    assert len(instances) == 1
    assert seen[2].max() == 2.0
    assert np.abs(seen[1][tuple(instances[0])] - 0.05) < 0.1  # of the window -160 to 240
    mean_alone = settings.model_copy(update={"fill": "organ_mean"})
    control = render([crop], mean_alone)[0, 3].numpy()
    assert np.ptp(control[crop.mask == 255]) < 1e-5
