"""Whole images read token by token: what each token adds makes up the answer, and tokens know their place."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.image_heads import joined_levels, positions
from tests.models.building import dual_encoder

ENCODER = CNNSettings(spatial_dims=2, widths=(8, 16), blocks=(0, 1))


def made(name: str = "tokens", encoder: CNNSettings = ENCODER, head_norm: str = "layer", **head: object) -> DualEncoder:
    torch.manual_seed(0)
    shape = {"in_channels": 1, "dim": 16, "embedding_dim": 8, "text_dim": 12}
    return dual_encoder(encoder=encoder, head_norm=head_norm, image={"name": name, **head}, **shape).eval()


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("pooling", ["mean", "peak", "mean_peak"])
@pytest.mark.parametrize("levels", [(-1,), (-2,), (-2, -1)])
def test_what_the_tokens_add_is_the_answer(levels: tuple[int, ...], pooling: str, norm: str) -> None:
    model = made(levels=levels, pooling=pooling, head_norm=norm)
    images, axis = torch.randn(3, 1, 32, 24), torch.randn(8)
    whole = model.image_head(model.image_features(images))
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(3))
    parts = model.image_head.contributions(model.encoder(images))
    grid = (8, 6) if levels == (-1,) else (16, 12)
    assert parts.shape == (3, 8, *grid)
    torch.testing.assert_close(parts.flatten(2).mean(-1), whole, atol=1e-5, rtol=1e-5)
    answers = torch.einsum("behw,e->bhw", parts, axis).flatten(1).mean(1)
    torch.testing.assert_close(answers, whole @ axis, atol=1e-5, rtol=1e-5)


def test_a_plain_mean_is_the_mean_of_the_heads_vectors() -> None:
    model = made()
    vision = model.encoder(torch.randn(2, 1, 16, 16))
    placed = vision.tokens + model.image_head.position(positions(vision.grid))
    expected = F.normalize(model.image_head.head.unscaled(placed).mean(1), dim=-1)
    torch.testing.assert_close(model.image_head(model.image_head.features(model.image_head.select(vision))), expected)


def test_a_peak_is_less_diluted_than_a_mean() -> None:
    """One token of 256 differs: a soft maximum moves further."""
    moved = {}
    for pooling in ("mean", "peak"):
        model = made(levels=(-2,), pooling=pooling)
        if pooling == "peak":
            model.image_head.sharpness.data.fill_(20.0)
        tokens = torch.randn(1, 8, 1, 1).expand(1, 8, 16, 16).clone()
        model.image_head.position.weight.data.zero_()
        before = model.image_head(model.image_head.features(tokens))
        tokens[:, :, 5, 7] = -tokens[:, :, 5, 7]
        moved[pooling] = float((model.image_head(model.image_head.features(tokens)) - before).norm().detach())
    assert moved["peak"] > 5 * moved["mean"]


def test_tokens_know_their_side() -> None:
    model = made()
    tokens = torch.randn(1, 16, 4, 1) * torch.tensor([1.0, 0, 0, 0])
    assert (model.image_head.features(tokens) - model.image_head.features(tokens.flip(-1))).norm() > 1e-3
    position = positions((4, 2, 3))
    assert position.shape == (24, 15)
    assert position.abs().max() <= 1
    assert len(position.unique(dim=0)) == 24


def test_levels_are_joined_on_the_finest_grid() -> None:
    fine, coarse = torch.randn(2, 3, 8, 6), torch.ones(2, 4, 4, 3)
    joined = joined_levels([coarse, fine])
    assert joined.shape == (2, 7, 8, 6)
    torch.testing.assert_close(joined[:, 4:], fine)
    torch.testing.assert_close(joined[:, :4], torch.ones(2, 4, 8, 6))
    assert joined_levels([torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 2, 2, 2)]).shape == (1, 4, 4, 4, 4)


def test_the_mean_token_is_read_through_the_head() -> None:
    model = made("pooled")
    vision = model.encoder(images := torch.randn(2, 1, 16, 16))
    torch.testing.assert_close(model.image_features(images), vision.pooled)
    torch.testing.assert_close(model.image_head(vision.pooled), model.image_head.head(vision.pooled))
    assert model.image_head.contributions(vision).shape == (2, 8, *vision.grid)


@pytest.mark.parametrize(("norm", "far"), [("batch", False), ("group", True)])
def test_with_batch_norm_a_token_holds_what_is_near_it(norm: str, far: bool) -> None:
    encoder = CNNSettings(spatial_dims=2, widths=(8, 16), blocks=(0, 1), norm=norm)  # pyright: ignore[reportArgumentType]
    model = made(encoder=encoder)
    image = torch.randn(1, 1, 64, 64)
    changed = image.clone()
    changed[..., 48:, 48:] += 2
    before, after = (model.encoder(one).levels[-1] for one in (image, changed))
    assert not torch.allclose(before[..., -1, -1], after[..., -1, -1], atol=1e-3)
    assert torch.allclose(before[..., 0, 0], after[..., 0, 0], atol=1e-6) is not far
