"""Masked pictures and the words beside them: what was hidden stays hidden, in 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctglip.losses.masked import select_window
from ctglip.models.encoders.vit import ViTEncoder, ViTSettings
from ctglip.models.fusion import ContextFusion, ReportBert, ReportBertSettings
from ctglip.models.masked import (
    MaskedDecoder,
    MaskedImageSettings,
    SuperResolutionHead,
    draw_patches,
    few_channels,
    halved,
    hidden_patches,
    spread_attention,
    wave_positions,
)

SMALL = MaskedImageSettings(width=32, depth=1, heads=4)


def vit(dims: int) -> ViTEncoder:
    torch.manual_seed(0)
    settings = ViTSettings(spatial_dims=dims, patch=4, image_size=8, dim=24, depth=2, heads=4)  # pyright: ignore[reportArgumentType]
    return ViTEncoder(settings, 1).eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_all_patches_seen_are_the_plain_encoder_in_any_order(dims):
    encoder, image = vit(dims), torch.randn(2, 1, *[12, 8, 8][:dims])
    plain = encoder(image).tokens
    order = torch.stack([torch.randperm(plain.shape[1]) for _ in range(2)])
    found = encoder.visible(image, order)
    torch.testing.assert_close(found, plain.gather(1, order[..., None].expand_as(plain)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_hidden_patches_do_not_reach_the_tokens_and_all_pixels_are_decoded(dims):
    encoder, side = vit(dims), 8
    decoder = MaskedDecoder(SMALL, 24, (4,) * dims, 3)
    image = torch.randn(1, 1, *[side] * dims)
    kept = torch.tensor([[0, 2]])
    other = image.clone()
    other[(0, 0, *[slice(4, None)] * dims)] += 5  # the last patch
    assert torch.equal(encoder.visible(image, kept), encoder.visible(other, kept))
    decoded = decoder(encoder.visible(image, kept), kept, (2,) * dims)
    assert decoded.shape == (1, 2**dims, 4**dims * 3)
    assert (decoded[0, 1] - decoded[0, -1]).abs().max() > 1e-3  # holes know where they are
    covered = hidden_patches(kept, 2**dims)
    assert covered[0, [0, 2]].sum() == 0
    assert covered.sum() == 2**dims - 2


def test_patches_are_drawn_by_the_generator():
    first, again, other = (draw_patches(196, 0.75, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert len(first) == 49
    assert (first == again).all()
    assert (first != other).any()
    assert (np.diff(first) > 0).all()
    assert len(draw_patches(2, 0.99, np.random.default_rng(0))) == 1


@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4)])
def test_every_place_has_positions_of_its_own(grid):
    found = wave_positions(grid, 32)[0]
    assert found.shape == (np.prod(grid), 32)
    distance = torch.cdist(found, found) + 9 * torch.eye(len(found))
    assert distance.min() > 0.05


@pytest.mark.parametrize("dims", [2, 3])
def test_half_the_resolution_keeps_the_grey_and_sharpening_doubles_it_again(dims):
    image = torch.rand(2, 3, *[8] * dims)
    assert halved(image).shape == (2, 3, *[4] * dims)
    assert halved(image).mean().item() == pytest.approx(image.mean().item(), abs=0.03)
    sharpener = SuperResolutionHead(3, dims, final_relu=True)
    assert sharpener(halved(image) - 2).min() == 0
    plain = SuperResolutionHead(3, dims)
    assert plain(halved(image) - 2).shape == image.shape
    assert plain(halved(image) - 2).min() < 0


@pytest.mark.parametrize(
    ("dims", "channels", "sides"), [(2, 1, (6, 9)), (2, 3, (5, 8)), (3, 4, (5, 6, 7)), (3, 9, (4, 4, 4))]
)
def test_a_convolution_of_few_channels_is_the_layer_value_and_gradient(dims, channels, sides):
    torch.manual_seed(0)
    kind = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    layer = kind(channels, channels, 3, padding=1).double()
    found = []
    for do in (layer, lambda picture: few_channels(layer, picture)):
        torch.manual_seed(1)
        picture = torch.randn(2, channels, *sides, dtype=torch.float64, requires_grad=True)
        made = do(picture)
        weights = torch.randn_like(made)
        found.append((made, *torch.autograd.grad((made * weights).sum(), (picture, *layer.parameters()))))
    for mine, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, plain)


def test_attention_of_patches_that_were_not_seen_is_their_neighbours():
    kept = torch.tensor([[0, 15]])
    found = spread_attention(torch.tensor([[0.2, 0.8]]), kept, (4, 4))
    assert found[0, 0, 0].item() == pytest.approx(0.2)
    assert found[0, 2, 2].item() == pytest.approx(0.8)
    assert found[0, 0, 3].item() == 0
    assert select_window(found, 2).tolist() == [[2, 2]]
    deep = spread_attention(torch.tensor([[1.0]]), torch.tensor([[7]]), (2, 2, 2))
    assert (deep == 1).all()


def test_padding_is_not_read_and_pictures_are():
    torch.manual_seed(0)
    fusion = ContextFusion(16, 8, 4, 32).eval()
    words, patches = torch.randn(2, 5, 16), torch.randn(2, 3, 8)
    missing = torch.tensor([[False] * 3 + [True] * 2] * 2)
    found, where = fusion(words, missing, patches)
    torch.testing.assert_close(where.sum(-1), torch.ones(2, 5))
    noisy = words.clone()
    noisy[:, 3:] += 3
    torch.testing.assert_close(fusion(noisy, missing, patches)[0][:, :3], found[:, :3])
    assert not torch.allclose(fusion(words, missing, patches.flip(0))[0], found)
    turned = fusion(words, missing, patches.flip(1))
    torch.testing.assert_close(turned[0], found)
    torch.testing.assert_close(turned[1], where.flip(2))


def test_a_bert_reads_pieces_and_picture():
    torch.manual_seed(0)
    bert = ReportBert(ReportBertSettings(width=16, layers=1, heads=4, hidden=32, dropout=0), 20, 6, 0, 8).eval()
    ids, patches = torch.tensor([[2, 7, 9, 0, 0, 0], [2, 7, 9, 11, 0, 0]]), torch.randn(1, 3, 8).expand(2, -1, -1)
    states, _ = bert(ids, patches)
    assert bert.words(states).shape == (2, 6, 20)
    alone, _ = bert(ids[:1, :3], patches[:1])
    torch.testing.assert_close(states[:1, :3], alone, atol=1e-5, rtol=1e-5)
    blind = ReportBert(
        ReportBertSettings(width=16, layers=1, heads=4, hidden=32, dropout=0, reads=False), 20, 6, 0, 8
    ).eval()
    torch.testing.assert_close(blind(ids, patches)[0], blind(ids, 3 * patches + 1)[0])
    assert not torch.allclose(bert(ids, patches)[0], bert(ids, 3 * patches + 1)[0])
    assert bert.head.predictions.decoder.weight is bert.embeddings.word_embeddings.weight
