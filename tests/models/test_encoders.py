from __future__ import annotations

import pytest
import torch

from ctglip.models.encoders import ENCODERS, CNNSettings, ViTSettings, build_encoder

SMALL = {
    "cnn": CNNSettings(widths=(8, 16), blocks=(1, 1)),
    "vit": ViTSettings(patch=8, image_size=16, dim=24, depth=2, heads=2),
}


def with_dims(name: str, dims: int):
    return SMALL[name].model_copy(update={"spatial_dims": dims})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", list(ENCODERS))
def test_levels_tokens_and_pooled_belong_together(name, dims):
    torch.manual_seed(0)
    encoder = build_encoder(with_dims(name, dims), in_channels=3)
    out = encoder(torch.randn(2, 3, *[24, 16, 32][:dims]))
    assert tuple(level.shape[1] for level in out.levels) == encoder.level_channels
    for level, stride in zip(out.levels, encoder.strides, strict=True):
        assert tuple(level.shape[2:]) == tuple(s // stride for s in [24, 16, 32][:dims])
    assert out.tokens.shape == (2, torch.Size(out.grid).numel(), encoder.token_dim)
    back = out.tokens.transpose(1, 2).unflatten(2, out.grid)
    torch.testing.assert_close(back, out.levels[-1])
    torch.testing.assert_close(out.pooled, out.tokens.mean(1))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_no_image_sees_another(name):
    encoder = build_encoder(SMALL[name], in_channels=1)
    images = torch.randn(3, 1, 16, 16, 16)
    together = encoder(images).pooled
    alone = torch.cat([encoder(image[None]).pooled for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_transformer_keeps_its_positions_on_its_own_grid_and_names_a_bad_size():
    encoder = build_encoder(SMALL["vit"], in_channels=1)
    same, larger = encoder(torch.zeros(1, 1, 16, 16, 16)), encoder(torch.zeros(1, 1, 32, 32, 32))
    assert (same.grid, larger.grid) == ((2, 2, 2), (4, 4, 4))
    assert not torch.allclose(same.tokens[0, 0], same.tokens[0, 1])
    with pytest.raises(ValueError, match="multiples of the patch 8"):
        encoder(torch.zeros(1, 1, 12, 16, 16))


def test_cnn_names_contradicting_widths_and_blocks():
    with pytest.raises(ValueError, match="equal length"):
        build_encoder(CNNSettings(widths=(8,), blocks=(1, 1)), 1)
    with pytest.raises(ValueError, match="first stage"):
        build_encoder(CNNSettings(widths=(8, 8), blocks=(1, 0)), 1)
