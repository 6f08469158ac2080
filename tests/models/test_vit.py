"""The kinds of a vision transformer: patches, positions, tokens, what is dropped; beside timm and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ctglip.errors import ModelError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.tokens import AxialRotation, TokenRotation
from ctglip.models.encoders.vit import ViTSettings

SMALL = {"dim": 24, "depth": 2, "heads": 2}


def vit(**changes):
    torch.manual_seed(0)
    return build_encoder(ViTSettings(**{"spatial_dims": 3, "patch": 4, "image_size": 8, **SMALL, **changes}), 1)


@pytest.mark.parametrize("patch", [(16, 16, 32), (8, 24, 24), (16, 16, 8)])
@pytest.mark.parametrize("positions", ["learned", "sine", "rope"])
def test_patches_may_have_other_sides_along_each_axis(patch, positions):
    size = tuple(2 * side for side in patch)
    more = {"image_size": size} if positions == "learned" else {"image_size": 32}
    encoder = vit(patch=patch, positions=positions, **more)
    found = encoder(torch.randn(2, 1, size[0], size[1], 3 * patch[2]))
    assert found.grid == (2, 2, 3)
    assert found.tokens.shape == (2, 12, 24)
    assert encoder.strides[-1] == patch


def test_a_side_for_each_axis_is_wanted():
    with pytest.raises(ModelError, match="one side for each of 3 axes"):
        vit(patch=(4, 4))


@pytest.mark.parametrize("pooling", ["mean", "cls", "cls_mean"])
def test_an_image_is_the_mean_of_its_patches_its_class_token_or_both(pooling):
    encoder = vit(class_token=True, registers=3, pooling=pooling).eval()
    image = torch.randn(2, 1, 8, 8, 8)
    found = encoder(image)
    assert found.pooled.shape == (2, encoder.pooled_dim)
    mean = found.tokens.mean(1)
    whole = vit(class_token=True, registers=3, pooling="cls").eval()(image).pooled
    expected = {"mean": mean, "cls": whole, "cls_mean": torch.cat([whole, mean], dim=1)}[pooling]
    torch.testing.assert_close(found.pooled, expected)
    with pytest.raises(ModelError, match="class_token"):
        vit(pooling="cls")


def test_turned_queries_and_keys_know_distances_alone():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 12).double(), torch.randn(1, 1, 1, 12).double()
    turn = AxialRotation(12, 50.0)((4, 3, 2))
    cells = torch.cartesian_prod(*map(torch.arange, (4, 3, 2))).tolist()

    def product(one: list[int], other: list[int]) -> float:
        a, b = (cells.index(cell) for cell in (one, other))
        q, k = (TokenRotation(turn.sin[[i]], turn.cos[[i]], "halves")(x) for x, i in ((query, a), (key, b)))
        return float((q * k).sum())

    assert product([0, 0, 0], [1, 1, 0]) == pytest.approx(product([2, 1, 1], [3, 2, 1]))
    assert product([0, 0, 0], [1, 0, 0]) != pytest.approx(product([0, 0, 0], [2, 0, 0]))


def test_turns_are_those_of_the_formula_and_the_class_token_has_none():
    turn = AxialRotation(8, 100.0, axes=2)((2, 1))
    assert turn.cos.shape == (2, 8)
    x = torch.randn(1, 1, 3, 8)
    assert torch.equal(turn(x)[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turn(x)[:, :, 1:], x[:, :, 1:])
    angles = [2 * math.pi * -0.5 / period for period in (1, 10)] + [0.0, 0.0]  # periods 100 ** (2 i / 4)
    assert turn.sin[0].tolist() == pytest.approx([math.sin(a) for a in angles * 2], abs=1e-6)
    with pytest.raises(ModelError, match="heads of width 8 cannot be turned along 3 axes: 6 must divide it"):
        vit(positions="rope", dim=16)


def test_rotary_attention_without_turns_is_monais():
    from monai.networks.blocks.selfattention import SABlock

    encoder = vit(positions="rope")
    mine = encoder.blocks[0].attn.eval()
    theirs = SABlock(24, 2, qkv_bias=True).eval()
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_places_matter_with_every_kind_of_positions():
    image = torch.randn(1, 1, 8, 8, 8)
    for kind in ("learned", "sine", "rope"):
        encoder = vit(positions=kind).eval()
        moved = encoder(image.flip(2)).pooled
        assert not torch.allclose(encoder(image).pooled, moved, atol=1e-5), kind


def test_dropped_patches_are_not_looked_at_and_only_in_training():
    encoder = vit(patch_dropout=0.5, positions="rope", class_token=True)
    image = torch.randn(2, 1, 8, 8, 8)
    found = encoder(image)
    gone = found.tokens.detach().eq(0).all(2).sum(1)
    assert gone.tolist() == [4, 4]
    torch.testing.assert_close(found.pooled, found.tokens.sum(1) / 4)
    assert not encoder.eval()(image).tokens.eq(0).any()


def test_branches_are_skipped_in_training_alone():
    encoder = vit(drop_path=0.9)
    plain = vit()
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    image = torch.randn(8, 1, 8, 8, 8)
    torch.testing.assert_close(encoder.eval()(image).pooled, plain.eval()(image).pooled)
    assert not torch.allclose(encoder.train()(image).pooled, plain(image).pooled, atol=1e-4)


@pytest.mark.parametrize("positions", ["learned", "sine"])
def test_weights_of_timm_give_timms_class_token_and_patches(tmp_path, positions):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, embed_dim=24, depth=2, num_heads=2, num_classes=0
    ).eval()
    if positions == "sine":
        from ctglip.models.encoders.vit import _sines

        theirs.pos_embed.data = torch.cat([torch.zeros(1, 1, 24), _sines((4, 4), 24)], dim=1)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    size = {"image_size": 32} if positions == "learned" else {}
    encoder = vit(spatial_dims=2, patch=8, positions=positions, class_token=True, pooling="cls", eps=1e-6,
                  weights=str(tmp_path / "vit.pth"), **size).eval()  # fmt: skip
    assert encoder.load_pretrained() == 1.0
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        found, features = encoder(image), theirs.forward_features(image)
    torch.testing.assert_close(found.pooled, features[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.tokens, features[:, 1:], atol=1e-5, rtol=1e-5)
