"""Histograms of organs: counted by hand, blind to place and to what is outside, and kept where a network loses them."""

from __future__ import annotations

import torch

from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.intensity_histogram import IntensityHistogram, organ_histogram
from ctglip.models.region_readers import Regions
from tests.models.building import dual_encoder


def test_shares_are_those_counted_by_hand():
    image = torch.full((2, 2, 2, 2, 2), -9.0)
    image[0, 0] = torch.tensor([-2.0, -1.1, -0.9, 0.0, 0.9, 1.1, 1.9, 7.0]).view(2, 2, 2)
    mask = torch.ones(2, 1, 2, 2, 2)
    mask[0, 0, 0, 0, 0] = 0.4  # the first voxel is hardly the organ's
    found = organ_histogram(image, mask, bins=4)
    torch.testing.assert_close(found[0, 0] * 7, torch.tensor([1.0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(found[0, 1], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2))


def test_place_and_surroundings_make_no_difference_and_an_empty_mask_reads_all():
    torch.manual_seed(0)
    image, mask = torch.randn(1, 3, 8, 8, 8), (torch.rand(1, 1, 8, 8, 8) > 0.5).float()
    found = organ_histogram(image, mask, 16)
    flipped = organ_histogram(image.flip(2, 3), mask.flip(2, 3), 16)
    torch.testing.assert_close(found, flipped)
    torch.testing.assert_close(organ_histogram(image + 9 * (1 - mask), mask, 16), found)
    torch.testing.assert_close(organ_histogram(image, mask * 0, 16), organ_histogram(image, mask * 0 + 1, 16))
    assert organ_histogram(image[:0], mask[:0], 16).shape == (0, 3, 16)


def test_a_voxel_that_is_no_number_stops_nothing_here():
    """A step's own check names the batch; the first bin takes it."""
    image = torch.zeros(1, 1, 2, 2, 2)
    image[..., 0, 0, 0] = torch.nan
    found = organ_histogram(image, torch.ones(1, 1, 2, 2, 2), 4)
    torch.testing.assert_close(found[0, 0] * 8, torch.tensor([1.0, 0.0, 7.0, 0.0]))


def test_one_voxel_in_ten_thousand_reaches_the_feature():
    torch.manual_seed(0)
    layer = IntensityHistogram(1, 16, 8)
    image, mask = torch.zeros(1, 1, 22, 22, 22), torch.ones(1, 1, 22, 22, 22)
    stone = image.clone()
    stone[..., 0, 0, 0] = 1.9
    assert (layer(stone, mask) - layer(image, mask)).norm() > 0.01


def test_a_shift_of_a_whole_crop_is_told_apart():
    """Group normalisation alone hides it; the histogram does not."""
    torch.manual_seed(0)
    shared = {"encoder": CNNSettings(widths=(8, 16), blocks=(0, 1)), "in_channels": 1, "dim": 16, "text_dim": 12}
    image, mask, size = torch.randn(1, 1, 16, 16, 16) * 0.1, torch.ones(1, 1, 16, 16, 16), torch.zeros(1, 4)
    moved = []
    for bins in (0, 32):
        model = dual_encoder(**shared, regions={"name": "crop", "histogram": bins})
        model.encoder.stem[0].padding = (0, 0, 0)
        before, after = (model(x, Regions(mask=mask, size=size)) for x in (image, image + 0.3))
        moved.append(float((after - before).detach().norm()))
    assert moved[0] < 0.1 * moved[1]
