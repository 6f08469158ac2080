"""Crops of a phantom whose every property is known: where, how large, which way round, what is outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctglip.ct.organs import organ_table
from ctglip.data.crops import AIR_HU, CropSettings, OrganCrop, cut_crop
from ctglip.data.rendering import render
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import Organ, load_organs

ORGANS = load_organs()
SETTINGS = CropSettings(grid=(16, 16, 16))
BOX = (8, 24, 6, 18, 10, 20)
SPACING = (2.0, 3.0, 4.0)


def phantom(organ: str, box: tuple[int, ...] = BOX) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU that grow along x, y and z by 1, 2 and 3 a voxel, and a box-shaped organ."""
    x, y, z = np.indices((36, 30, 28))
    labels = np.zeros(x.shape, dtype=np.uint8)
    x0, x1, y0, y1, z0, z1 = box
    labels[x0:x1, y0:y1, z0:z1] = ORGANS[organ].label or next(iter(ORGANS.labels_of(organ)))
    return (x + 2 * y + 3 * z).astype(np.int16), labels, np.diag([*SPACING, 1.0])


def cut(image: np.ndarray, labels: np.ndarray, affine: np.ndarray, organ: Organ) -> tuple[OrganCrop, OrganRow]:
    row = next(r for r in organ_table(labels, image, affine, ORGANS) if r.organ == organ.name)
    return cut_crop(image, labels, affine, organ, row, ORGANS, SETTINGS), row


def grounded(name: str, **change: object) -> Organ:
    organ = ORGANS[name]
    return organ.model_copy(update={"roi": organ.roi.model_copy(update=change)})


def test_a_linear_field_comes_back_in_its_place() -> None:
    """Linear interpolation reproduces linear fields, so every voxel's HU tells where it was taken."""
    image, labels, affine = phantom("liver")
    crop, _ = cut(image, labels, affine, grounded("liver", margin_mm=6.0))
    low = np.array([8, 6, 10]) - 6.0 / np.array(SPACING)
    high = np.array([24, 18, 20]) + 6.0 / np.array(SPACING)
    centres = [low[a] + (np.arange(16) + 0.5) * (high[a] - low[a]) / 16 - 0.5 for a in range(3)]
    x, y, z = np.meshgrid(*centres, indexing="ij")
    assert np.abs(crop.hu - (x + 2 * y + 3 * z)).max() <= 0.6


def test_axes_keep_their_direction() -> None:
    image, labels, affine = phantom("liver")
    crop, _ = cut(image, labels, affine, ORGANS["liver"])
    steps = [np.diff(crop.hu.astype(int), axis=axis).mean() for axis in range(3)]
    assert steps[0] > 0
    assert steps[1] > 0
    assert steps[2] > 0
    mirrored = cut(image[::-1].copy(), labels[::-1].copy(), affine, ORGANS["liver"])[0]
    assert np.diff(mirrored.hu.astype(int), axis=0).mean() < 0


def test_scale_and_volume_travel_beside_the_voxels() -> None:
    small = cut(*phantom("liver"), grounded("liver", margin_mm=0.0))[0]
    large = cut(*phantom("liver", (4, 36, 3, 27, 4, 24)), grounded("liver", margin_mm=0.0))[0]
    difference = large.size - small.size
    assert difference[:3] == pytest.approx(np.full(3, np.log(2) / 0.6), abs=1e-5)
    assert difference[3] == pytest.approx(np.log(8) / 2, abs=1e-5)


def test_the_mask_keeps_the_organs_volume() -> None:
    image, labels, affine = phantom("liver")
    organ = grounded("liver", margin_mm=8.0)
    crop, row = cut(image, labels, affine, organ)
    extent = np.array([16 * 2 + 16, 12 * 3 + 16, 10 * 4 + 16]) / 16
    volume = crop.mask.sum() / 255 * np.prod(extent) / 1000
    assert volume == pytest.approx(row.volume_ml, rel=0.03)
    assert crop.mask[8, 8, 8] == 255
    assert crop.mask[0, 0, 0] == 0


def test_beyond_the_scan_there_is_air() -> None:
    image, labels, affine = phantom("liver", (0, 12, 0, 12, 0, 12))
    crop, row = cut(np.full_like(image, 50), labels, affine, grounded("liver", margin_mm=20.0))
    assert row.touches_border
    assert (crop.hu[:3] == AIR_HU).all()
    assert crop.hu[8, 8, 8] == 50


def test_a_shell_surrounds_its_mask_without_it() -> None:
    image, labels, affine = phantom("lung_left")
    lung, _ = cut(image, labels, affine, grounded("lung_left", margin_mm=30.0))
    organ = grounded("pleura_left", dilate_mm=10.0, margin_mm=20.0)
    shell, _ = cut(image, labels, affine, organ)
    inside = lung.mask == 255
    assert shell.mask[inside].max() == 0
    both = (shell.mask > 127) | (lung.mask > 127)
    thickness = both[:, 8, 8].sum() - (lung.mask[:, 8, 8] > 127).sum()
    voxel_mm = (16 * 2 + 60) / 16
    assert thickness * voxel_mm == pytest.approx(20.0, abs=1.5 * voxel_mm)
    grown, _ = cut(
        image,
        labels,
        affine,
        organ.model_copy(update={"roi": organ.roi.model_copy(update={"shell": False})}),
    )
    assert (grown.mask[inside] == 255).all()


def test_large_organs_are_averaged_not_skipped() -> None:
    """A bright voxel between two samples still shows: the kernel is as wide as a sample."""
    image, labels, affine = phantom("liver", (2, 34, 2, 28, 2, 26))
    settings = CropSettings(grid=(4, 4, 4))
    row = next(r for r in organ_table(labels, image, affine, ORGANS) if r.organ == "liver")
    dark = np.zeros_like(image)
    for instance in [(10, 12, 12), (11, 13, 13), (14, 15, 11)]:
        lit = dark.copy()
        lit[instance] = 3000
        crop = cut_crop(lit, labels, affine, ORGANS["liver"], row, ORGANS, settings)
        assert crop.hu.max() > 0


def test_channels_are_windows_relative_hu_and_mask() -> None:
    crop, _ = cut(*phantom("liver"), ORGANS["liver"])
    settings = CropSettings(grid=(16, 16, 16), windows_hu=((-100, 100), (0, 50)), relative_hu=True)
    seen = render([crop], settings)[0].numpy()
    assert seen.shape == (settings.channels, 16, 16, 16)
    np.testing.assert_allclose(seen[0], np.clip(crop.hu / 100.0, -1, 1), atol=1e-6)
    np.testing.assert_allclose(seen[1], np.clip(crop.hu / 25.0 - 1, -1, 1), atol=1e-6)
    relative = np.clip((crop.hu - crop.median_hu) / 60.0, -2, 2)
    np.testing.assert_allclose(seen[2][crop.mask == 255], relative[crop.mask == 255], atol=1e-6)
    assert (seen[2][crop.mask <= 191] == 0).all()
    np.testing.assert_allclose(seen[3], crop.mask / 255.0, atol=1e-6)
    many = render([crop] * 20, settings).numpy()
    assert len(many) == 20
    assert (many == seen).all()
    assert render([], settings).shape == (0, *seen.shape)


def test_the_mask_only_control_shows_shape_and_mean_alone() -> None:
    crop, _ = cut(*phantom("liver"), ORGANS["liver"])
    settings = CropSettings(grid=(16, 16, 16), windows_hu=((-1024.0, 1024.0),), fill="organ_mean")
    seen = render([crop], settings)[0, 0].numpy()
    assert np.ptp(seen[crop.mask == 255]) == pytest.approx(0, abs=1e-6)
    assert (seen[crop.mask == 0] == -1).all()
    inside = crop.mask == 255
    assert seen[inside][0] * 1024 == pytest.approx(
        (crop.hu * (crop.mask / 255.0)).sum() / (crop.mask / 255.0).sum(), abs=1
    )


def test_without_the_mask_the_box_is_all_that_is_told() -> None:
    """Another organ shape in the same box, and another volume, make no difference; the box and the HU do."""
    image, labels, affine = phantom("liver")
    settings = CropSettings(grid=(16, 16, 16), masked=False, relative_hu=True)
    row = next(r for r in organ_table(labels, image, affine, ORGANS) if r.organ == "liver")
    whole = cut_crop(image, labels, affine, ORGANS["liver"], row, ORGANS, settings)
    labels[12:20, 6:18, 10:20] = 0
    hollow = replace(row, volume_ml=row.volume_ml / 2)
    other = cut_crop(image, labels, affine, ORGANS["liver"], hollow, ORGANS, settings)
    assert (whole.mask == 255).all()
    assert np.array_equal(whole.size, other.size)
    assert whole.size[3] == 0
    assert whole.median_hu == other.median_hu == np.median(whole.hu)
    seen, again = render([whole, other], settings).numpy()
    assert np.array_equal(seen, again)
    assert len(seen) == settings.channels == 4
    assert (seen[-1] == 1).all()
    masked = cut(image, labels, affine, ORGANS["liver"])[0]
    assert np.array_equal(masked.hu, whole.hu)


def test_the_inputs_of_a_recipe_that_asks_for_nothing_more_are_windows_and_the_mask() -> None:
    settings = CropSettings()
    assert settings.channels == len(settings.windows_hu) + 1
    assert not settings.details


def test_a_common_field_of_view_shows_every_organ_at_one_scale() -> None:
    settings = CropSettings(grid=(16, 16, 16), field_mm=(32.0, 32.0, 32.0))
    boxes = (BOX, (12, 20, 10, 14, 13, 17))
    found = []
    for box in boxes:
        image, labels, affine = phantom("liver", box)
        row = next(r for r in organ_table(labels, image, affine, ORGANS) if r.organ == "liver")
        found.append(cut_crop(image, labels, affine, ORGANS["liver"], row, ORGANS, settings))
    large, small = found
    assert np.array_equal(large.size[:3], small.size[:3])
    assert large.size[3] > small.size[3]
    assert np.array_equal(large.hu, small.hu)  # both boxes have the same middle
    assert large.mask.sum() > small.mask.sum()
