"""Changes of a crop: the organ stays whole, HU stay HU, the size input follows, all that was done is recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from ctglip.data.augment import AugmentationParameters, AugmentSettings, augment_crop, draw_augmentations
from ctglip.data.crops import CropSettings, OrganCrop, voxel_mm
from ctglip.data.rendering import CropStack

SIZE = np.array([0.3, 0.1, -0.2, 0.5], dtype=np.float32)
N = 16
NONE = np.zeros((0, N, N, N), dtype=np.int8)


@dataclass
class Seen:
    """A changed crop as it is gathered for a model, and what was done to it."""

    hu: np.ndarray
    detail: np.ndarray
    mask: np.ndarray
    median_hu: float
    size: np.ndarray
    parameters: AugmentationParameters


def changed(
    hu: np.ndarray,
    mask: np.ndarray,
    parameters: AugmentationParameters,
    noise_hu: float = 0.0,
    detail: np.ndarray = NONE,
) -> Seen:
    found, applied = augment_crop(OrganCrop("liver", hu, detail, mask, SIZE, 40.0), parameters, noise_hu)
    stack = CropStack.of([found], CropSettings(grid=(N, N, N), details=("highest", "lowest")[: len(detail)]))
    shift, covered = float(stack.shift_hu[0]), stack.covered[0].numpy()
    image = stack.image[0].numpy()
    middle = np.clip((stack.hu[0].numpy().astype(np.float32) + shift + 160) / 200 - 1, -1, 1)
    np.testing.assert_allclose(image[1], middle, atol=1e-5)
    median = float(stack.median_hu[0]) + shift
    return Seen(stack.hu[0].numpy() + shift, stack.detail[0].numpy(), covered, median, found.size, applied)


def crop(first: tuple[int, int, int] = (4, 5, 6), last: tuple[int, int, int] = (9, 10, 11)) -> tuple:
    """HU that tell where they are, and a box-shaped organ."""
    x, y, z = np.indices((N, N, N))
    hu = (x + 20 * y + 400 * z - 1000).astype(np.int16)
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = 255
    return hu, mask


def volume(mask: np.ndarray) -> float:
    return float(mask.sum()) / 255


def test_nothing_drawn_changes_nothing() -> None:
    hu, mask = crop()
    found = changed(hu, mask, AugmentationParameters())
    assert np.array_equal(found.hu, hu)
    assert np.array_equal(found.mask, mask)
    assert (found.median_hu, found.parameters) == (40.0, AugmentationParameters())


def test_a_shift_moves_image_and_mask_alike() -> None:
    hu, mask = crop()
    found = changed(hu, mask, AugmentationParameters(shift_voxels=(1, -2, 0)))
    assert np.array_equal(found.hu[1:-1, 2:-1], hu[2:, :-3])
    assert np.array_equal(found.mask[1:-1, 2:-1], mask[2:, :-3])
    assert volume(found.mask) == volume(mask)


def test_a_shift_beyond_the_grid_shows_its_last_face() -> None:
    hu, mask = crop()
    found = changed(hu, np.zeros_like(mask), AugmentationParameters(shift_voxels=(2 * N, 0, -N)))
    assert found.parameters.shift_voxels == (N - 1, 0, 1 - N)
    assert np.array_equal(found.hu, np.broadcast_to(hu[-1:, :, :1], hu.shape))


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -2, 0), (0, 0, 2), (-1, 2, -3), (3, -1, 1), (4, 5, 6)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_shift_is_the_gather_of_its_places(shift: tuple[int, int, int], mirrored: bool) -> None:
    hu, mask = crop((5, 5, 6), (10, 10, 9))
    rng = np.random.default_rng(0)
    detail = rng.integers(-99, 99, (2, N, N, N), dtype=np.int8)
    found = changed(hu, mask, AugmentationParameters(shift_voxels=shift, mirrored=mirrored), detail=detail)
    assert found.parameters.shift_voxels == shift
    instances = np.ix_(*(np.clip(np.arange(N) + step, 0, N - 1) for step in shift))
    ahead = -1 if mirrored else 1
    assert np.array_equal(found.hu, hu[::ahead][instances])
    assert np.array_equal(found.mask, mask[::ahead][instances])
    assert np.array_equal(found.detail, detail[:, ::ahead][:, instances[0], instances[1], instances[2]])


@pytest.mark.parametrize("shift", [(3, 0, 0), (-3, 3, -3), (0, -3, 3)])
@pytest.mark.parametrize("zoom", [1.0, 1.4])
def test_shift_and_zoom_stop_where_the_organ_would_be_cut(shift: tuple[int, int, int], zoom: float) -> None:
    hu, mask = crop((0, 1, 13), (14, 12, 15))
    found = changed(hu, mask, AugmentationParameters(shift_voxels=shift, zoom=zoom))
    assert volume(found.mask) >= volume(mask) * 0.97
    assert found.parameters.zoom < 1.1
    done = found.parameters.shift_voxels
    assert 0 >= done[0] >= -1
    assert -3 <= done[1] <= 1
    assert 0 <= done[2] <= 3


@pytest.mark.parametrize("zoom", [0.8, 1.25])
def test_zoom_scales_the_organ_and_tells_the_model(zoom: float) -> None:
    hu, mask = crop((4, 4, 4), (11, 11, 11))
    found = changed(hu, mask, AugmentationParameters(zoom=zoom))
    assert volume(found.mask) == pytest.approx(volume(mask) * zoom**3, rel=0.05)
    assert voxel_mm(found.size) == pytest.approx(voxel_mm(SIZE) / zoom, rel=1e-5)
    assert found.size[3] == SIZE[3]
    mm3 = float(np.prod(voxel_mm(found.size)))
    assert volume(found.mask) * mm3 == pytest.approx(volume(mask) * float(np.prod(voxel_mm(SIZE))), rel=0.05)
    # the field is linear, so inside each voxel still tells where it was taken: to a twentieth of a voxel
    centre = (np.arange(N) + 0.5 - N / 2) / zoom + N / 2 - 0.5
    inside = (centre > 1) & (centre < N - 2)
    x, y, z = np.meshgrid(centre, centre, centre, indexing="ij")
    expected = x + 20 * y + 400 * z - 1000
    assert np.abs(found.hu - expected)[np.ix_(inside, inside, inside)].max() < 400 / 20


def test_hu_change_as_hu_do() -> None:
    hu, mask = crop()
    found = changed(hu, mask, AugmentationParameters(shift_hu=7.0, gain=0.01))
    assert found.hu[hu == -1000] == pytest.approx(-1000 + 7)
    assert found.hu - 7 == pytest.approx((hu + 1000.0) * 1.01 - 1000, abs=1e-2)
    assert found.median_hu == pytest.approx(1040 * 1.01 - 1000 + 7)


def test_noise_is_the_one_drawn() -> None:
    hu, mask = crop()
    found = [changed(hu, mask, AugmentationParameters(noise_seed=seed), noise_hu=5.0).hu for seed in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert float(np.std(found[0] - hu)) == pytest.approx(5.0, rel=0.05)


def test_a_mirrored_crop_is_flipped_along_x() -> None:
    hu, mask = crop()
    found = changed(hu, mask, AugmentationParameters(mirrored=True))
    assert np.array_equal(found.hu, hu[::-1])
    assert np.array_equal(found.mask, mask[::-1])


def test_details_go_the_way_of_the_crop() -> None:
    hu, mask = crop()
    x_of_voxel = np.indices(hu.shape)[0].astype(np.int8)
    detail = np.stack([x_of_voxel, -x_of_voxel])
    moved = changed(hu, mask, AugmentationParameters(shift_voxels=(1, 0, 0), shift_hu=7.0), detail=detail)
    assert np.array_equal(moved.detail[0, 1:-1], x_of_voxel[2:])  # relative to the median, which is shifted too
    assert np.array_equal(
        changed(hu, mask, AugmentationParameters(mirrored=True), detail=detail).detail, detail[:, ::-1]
    )
    larger = changed(hu, mask, AugmentationParameters(zoom=1.2, gain=0.1), detail=detail)
    middle = (np.arange(N) + 0.5 - N / 2) / larger.parameters.zoom + N / 2 - 0.5
    np.testing.assert_allclose(larger.detail[0, 4:-4, 8, 8], middle[4:-4], rtol=1e-4)  # whatever the gain
    np.testing.assert_allclose(larger.detail[1], -larger.detail[0], atol=1e-5)


def test_changes_are_drawn_from_the_steps_generator_and_as_asked() -> None:
    settings = AugmentSettings(shift_hu=4, gain=0.02, noise_hu=1, shift_voxels=2, zoom=0.2, mirror=0.5)
    first = draw_augmentations(400, settings, np.random.default_rng(3))
    assert first == draw_augmentations(400, settings, np.random.default_rng(3))
    assert first != draw_augmentations(400, settings, np.random.default_rng(4))
    assert {step for change in first for step in change.shift_voxels} == {-2, -1, 0, 1, 2}
    assert np.std([change.shift_hu for change in first]) == pytest.approx(4, rel=0.2)
    assert np.std([change.gain for change in first]) == pytest.approx(0.02, rel=0.2)
    zooms = [change.zoom for change in first]
    assert 1 / 1.2 <= min(zooms) < 0.9 < 1.1 < max(zooms) <= 1.2
    assert 0.4 < np.mean([change.mirrored for change in first]) < 0.6
    assert len({change.noise_seed for change in first}) == 400
    none = AugmentSettings(shift_hu=0, shift_voxels=0)
    assert set(draw_augmentations(5, none, np.random.default_rng(0))) == {AugmentationParameters()}
