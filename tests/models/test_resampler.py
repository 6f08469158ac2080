"""Observations: what queries find in tokens of several levels, and where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.base import VisionFeatures
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.resampler import Resampler, ResamplerSettings, waves
from ctglip.models.weights.matching import load_unique_state, unique_state
from tests.models.building import dual_encoder

SETTINGS = ResamplerSettings(queries=5, layers=2, heads=2, dim=16, levels=(0, 1))


def resampler(dims: int) -> Resampler:
    torch.manual_seed(0)
    encoder = SimpleNamespace(level_channels=(4, 6), settings=SimpleNamespace(spatial_dims=dims))
    return Resampler(SETTINGS, encoder, 8, 10)  # pyright: ignore[reportArgumentType]


def vision(levels: list[torch.Tensor]) -> VisionFeatures:
    return VisionFeatures(tuple(levels), torch.zeros(0), (), torch.zeros(0))


def levels(dims: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 4, *[6, 4, 2][:dims]), torch.randn(2, 6, *[3, 2, 1][:dims])]


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_is_shared_among_all_voxels_of_all_levels(dims):
    found = resampler(dims)(vision(levels(dims)))
    assert found.tokens.shape == (2, 5, 16)
    assert [tuple(part.shape[2:]) for part in found.attention] == [tuple(level.shape[2:]) for level in levels(dims)]
    total = sum(part.flatten(2).sum(2) for part in found.attention)
    torch.testing.assert_close(total, torch.ones(2, 5))


def test_queries_are_a_set_and_pictures_do_not_see_each_other():
    plain, maps = resampler(2), levels(2)
    before = plain(vision(maps))
    order = torch.tensor([3, 1, 0, 4, 2])
    plain.queries.weight.data = plain.queries.weight.data[order]
    after = plain(vision(maps))
    torch.testing.assert_close(after.tokens, before.tokens[:, order])
    torch.testing.assert_close(after.attention[0], before.attention[0][:, order])
    torch.testing.assert_close(plain(vision([level[1:] for level in maps])).tokens, after.tokens[1:])


def test_queries_know_places():
    plain = resampler(2)
    maps = [torch.zeros(1, 4, 6, 4), torch.zeros(1, 6, 3, 2)]
    maps[0][0, 1, 1, 0] = 2.0
    other = [maps[0].flip(3), maps[1]]
    assert (plain(vision(maps)).tokens - plain(vision(other)).tokens).abs().max() > 1e-3
    positions = waves((3, 4))
    assert positions.shape == (12, 16)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1


ENCODERS = [
    CNNSettings(spatial_dims=2, widths=(8, 16), blocks=(0, 1)),
    ViTSettings(spatial_dims=2, patch=4, image_size=16, dim=8, depth=1, heads=2),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_a_model_has_them_where_asked(encoder):
    plain = {"encoder": encoder, "in_channels": 2, "text_dim": 10}
    without = dual_encoder(**plain)
    assert not any("resampler" in name for name, _ in without.named_parameters())
    model = dual_encoder(**plain, resampler=SETTINGS.model_copy(update={"levels": (-2, -1)})).eval()
    images = torch.randn(3, 1, 16, 16)
    found = model.resampler(model.encode_image(images))
    vectors = model.resampler.visual(found.tokens)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3, 5))
    again = DualEncoder(DualEncoderSettings.model_validate(model.settings.model_dump(mode="json")), model.inputs).eval()
    load_unique_state(again, unique_state(model))
    torch.testing.assert_close(again.resampler(again.encode_image(images)).tokens, found.tokens)
