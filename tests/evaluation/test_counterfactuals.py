"""What is done to an organ is done to that organ alone."""

from __future__ import annotations

import numpy as np

from ctglip.data.crops import OrganCrop
from ctglip.evaluation.parts.counterfactuals import erase, mirror, truncate
from ctglip.types import OrganRow


def crop() -> OrganCrop:
    hu = np.full((12, 12, 12), -50, dtype=np.int16)
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[2:6, 3:8, 4:9] = 255
    hu[2:6, 3:8, 4:9] = 60
    hu[:, :, :4] = -900
    detail = np.clip(hu[None] - 60, -127, 127).astype(np.int8)
    return OrganCrop("liver", hu, detail, mask, np.zeros(4, dtype=np.float32), 60.0)


def test_an_erased_organ_holds_its_surroundings_and_keeps_its_mask() -> None:
    before, after = crop(), erase(crop())
    inside = before.mask > 0
    assert set(np.unique(after.hu[inside]).tolist()) <= {-50, -900}
    np.testing.assert_array_equal(after.hu[~inside], before.hu[~inside])
    np.testing.assert_array_equal(after.mask, before.mask)
    assert after.median_hu in (-50.0, -900.0)
    assert not after.detail.any()


def test_a_crop_without_organ_or_surroundings_is_left_alone() -> None:
    one = crop()
    full = OrganCrop("liver", one.hu, one.detail, np.full_like(one.mask, 255), one.size, one.median_hu)
    assert erase(full) is full


def test_mirrored_twice_is_as_before() -> None:
    before = crop()
    once = mirror(before)
    assert (once.mask[6:10, 3:8, 4:9] == 255).all()
    assert (once.hu[6:10, 3:8, 4:9] == 60).all()
    np.testing.assert_array_equal(once.detail, before.detail[:, ::-1])
    np.testing.assert_array_equal(mirror(once).hu, before.hu)


def test_a_cut_field_of_view_keeps_the_upper_half_in_its_place() -> None:
    hu = np.arange(10 * 10 * 20, dtype=np.int16).reshape(10, 10, 20)
    labels = np.zeros(hu.shape, dtype=np.uint8)
    labels[2:5, 2:5, 4:14] = 5
    labels[2:5, 2:4, 4:9] = 0
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    row = OrganRow("liver", (2, 5, 2, 5, 4, 14), 100.0, 0.0, False)
    inside = np.arange(256) == 5
    image, less, moved, cut = truncate(hu, labels, affine, row, inside)
    assert cut.box == (2, 5, 2, 5, 0, 5)
    assert cut.touches_border
    assert cut.volume_ml == 100.0 * 45 / 60
    np.testing.assert_array_equal(image, hu[:, :, 9:])
    assert moved[2, 3] == 27.0
    assert (less[2:5, 2:5, :5] == 5).all()
