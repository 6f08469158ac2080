from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctglip.errors import ModelError
from ctglip.models.encoders import ENCODERS, RELEASED, RELEASED_CXR, build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.swin import SwinSettings
from ctglip.models.encoders.timm2d import TimmSettings
from ctglip.models.encoders.torchvision2d import TorchvisionSettings
from ctglip.models.encoders.vit import ViTSettings

SMALL = {
    "cnn": CNNSettings(widths=(8, 16), blocks=(1, 1)),
    "resnet": ResNetSettings(layers=(1, 1, 1, 1), widths=(8, 8, 16, 16), stem_kernel=3, max_pool=False),
    "nnunet": NNUNetSettings(widths=(4, 8, 8), blocks=(1, 1, 1)),
    "vit": ViTSettings(patch=8, image_size=16, dim=24, depth=2, heads=2),
    "swin": SwinSettings(dim=12, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=2, patch=2),
    "timm": TimmSettings(model="test_resnet"),
    "torchvision": TorchvisionSettings(model="resnet18"),
}
OWN = [name for name in ENCODERS if name not in {*RELEASED, *RELEASED_CXR}]
FLAT = ("timm", "torchvision")
"""For radiographs alone, with batch norm."""
PAIRS = [(name, dims) for name in OWN for dims in (2, 3) if dims == 2 or name not in FLAT]


def small(name: str, dims: int = 3, **changes):
    return SMALL[name].model_copy(update={"spatial_dims": dims, **changes})


def sides(encoder, dims: int, times: tuple[int, ...] = (2, 1, 3)) -> list[int]:
    return [time * step for time, step in zip(times[:dims], encoder.strides[-1], strict=True)]


def test_every_encoder_is_tested():
    assert set(SMALL) == set(OWN), "of released ones see test_released.py"


@pytest.mark.parametrize(("name", "dims"), PAIRS)
def test_levels_tokens_and_pooled_belong_together(name, dims):
    torch.manual_seed(0)
    encoder = build_encoder(small(name, dims), in_channels=3).eval()
    shape = sides(encoder, dims)
    out = encoder(torch.randn(2, 3, *shape))
    assert tuple(level.shape[1] for level in out.levels) == encoder.level_channels
    for level, strides in zip(out.levels, encoder.strides, strict=True):
        assert tuple(level.shape[2:]) == tuple(side // step for side, step in zip(shape, strides, strict=True))
    assert out.tokens.shape == (2, torch.Size(out.grid).numel(), encoder.token_dim)
    torch.testing.assert_close(out.tokens.transpose(1, 2).unflatten(2, out.grid), out.levels[-1])
    torch.testing.assert_close(out.pooled, out.tokens.mean(1))
    with pytest.raises(ValueError, match="must be multiples of"):
        encoder(torch.zeros(1, 3, *[side + 1 for side in shape]))


@pytest.mark.parametrize("name", [name for name in OWN if name not in FLAT])
def test_no_image_sees_another(name):
    encoder = build_encoder(small(name, 2), in_channels=1)
    images = torch.randn(3, 1, *sides(encoder, 2))
    together = encoder(images).pooled
    alone = torch.cat([encoder(image[None]).pooled for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in OWN if name not in FLAT])
def test_checkpointing_changes_neither_value_nor_gradient(name):
    encoders = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoders.append(build_encoder(small(name, 2, checkpointing=checkpointing), in_channels=1))
    image = torch.randn(2, 1, *sides(encoders[0], 2))
    values = []
    for encoder in encoders:
        out = encoder(image)
        sum(level.square().mean() for level in out.levels).backward()
        values.append([out.pooled.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for plain, frugal in zip(*values, strict=True):
        torch.testing.assert_close(frugal, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_settings_alone_build_the_same_encoder_again(name):
    encoder = build_encoder(small(name, 2), in_channels=2).eval()
    again = type(SMALL[name]).model_validate(json.loads(encoder.settings.model_dump_json()))
    copy = build_encoder(again, in_channels=2).eval()
    copy.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 2, *sides(encoder, 2))
    torch.testing.assert_close(copy(image).pooled, encoder(image).pooled)


def test_transformer_keeps_its_positions_on_its_own_grid():
    encoder = build_encoder(SMALL["vit"], in_channels=1)
    same, larger = encoder(torch.zeros(1, 1, 16, 16, 16)), encoder(torch.zeros(1, 1, 32, 32, 32))
    assert (same.grid, larger.grid) == ((2, 2, 2), (4, 4, 4))
    assert not torch.allclose(same.tokens[0, 0], same.tokens[0, 1])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (CNNSettings(widths=(8,), blocks=(1, 1)), "cnn .* equal length"),
        (CNNSettings(widths=(8, 8), blocks=(1, 0)), "cnn .* first stage"),
        (CNNSettings(widths=(4, 8), blocks=(1, 1)), "cnn .* divisible by num_groups"),
        (ViTSettings(dim=50, heads=4), "vit .* divisible by num_heads"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_a_users_error(settings, named):
    with pytest.raises(ModelError, match=named):
        build_encoder(settings, 1)


def test_timm_is_for_cxr_and_names_near_models():
    with pytest.raises(ModelError, match="radiographs"):
        build_encoder(TimmSettings(spatial_dims=3), 1)
    with pytest.raises(ModelError, match="resnet18"):
        build_encoder(TimmSettings(model="resnet18x"), 1)


def test_torchvisions_networks_are_read_from_their_own_weights_or_say_why_not(tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, densenet121, resnet18

    torch.manual_seed(0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    image = torch.randn(1, 3, 64, 32)
    for name, model in (("resnet18", resnet18(weights=None)), ("densenet121", densenet121(weights=None))):
        torch.save(model.eval().state_dict(), tmp_path / f"{name}.pth")
        settings = TorchvisionSettings(model=name, weights=str(tmp_path / f"{name}.pth"))
        encoder = build_encoder(settings, 3).eval()
        assert encoder.load_pretrained() == 1
        found, last = encoder(image), "fc" if name == "resnet18" else "classifier"
        setattr(model, last, nn.Identity())
        torch.testing.assert_close(found.pooled, model(image), atol=1e-5, rtol=1e-5)
    settings = TorchvisionSettings(model="resnet18", weights="torchvision:IMAGENET1K_V1")
    with pytest.raises(ModelError, match=r"no copy of torchvision's IMAGENET1K_V1 of resnet18 .* https://\S+resnet18"):
        build_encoder(settings, 3).load_pretrained()
    copy = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    copy.parent.mkdir(parents=True)
    copy.write_bytes((tmp_path / "resnet18.pth").read_bytes())
    assert build_encoder(settings, 1).load_pretrained() == 1
    with pytest.raises(ModelError, match=r"no weights 'V9' of resnet18.*IMAGENET1K_V1"):
        build_encoder(settings.model_copy(update={"weights": "torchvision:V9"}), 3).load_pretrained()


def test_weights_of_timm_and_torchvision_that_cannot_be_had_end_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cases = (
        (
            TimmSettings(model="resnet18", weights="timm"),
            "timm's weights of 'resnet18' cannot be had: .*Fetch them once",
        ),
        (ResNetSettings(spatial_dims=2, weights="timm:nothing"), "timm's weights of 'nothing' cannot be had"),
        (
            ResNetSettings(spatial_dims=2, weights="torchvision:resnet50"),
            "no copy of torchvision's IMAGENET1K_V2 of resnet50",
        ),
        (ResNetSettings(spatial_dims=2, weights="torchvision:resnet9"), "torchvision has no model 'resnet9'"),
        (ResNetSettings(spatial_dims=2, weights="torchvision:resnet50.V7"), "no weights 'V7' of resnet50"),
    )
    for settings, message in cases:
        with pytest.raises(ModelError, match=message) as caught:
            build_encoder(settings, 3).load_pretrained()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [("resnet", "no model 'resnet'.*resnet18"), ("vit_b_16", "has no feature maps"), ("swin_t", "has no feature maps")],
)
def test_torchvision_is_for_cxr_and_maps(model, message):
    with pytest.raises(ModelError, match=message):
        build_encoder(TorchvisionSettings(model=model), 1)
    with pytest.raises(ModelError, match="radiographs"):
        build_encoder(TorchvisionSettings(spatial_dims=3), 1)


def flat(image: torch.Tensor, depth: int) -> torch.Tensor:
    """A volume that is the same radiograph in every slice."""
    return image[..., None].expand(*image.shape, depth).contiguous()


def test_inflated_resnet_gives_the_cxr_answer_where_the_volume_does_not_change(tmp_path):
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    radiograph = ResNet(BasicBlock, [1, 1, 1, 1]).eval()
    for module in radiograph.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(radiograph.state_dict(), tmp_path / "resnet.pth")
    settings = ResNetSettings(layers=(1, 1, 1, 1), norm="batch", weights=str(tmp_path / "resnet.pth"))
    encoder = build_encoder(settings, in_channels=3).eval()
    assert encoder.load_pretrained() == 1
    image = torch.randn(1, 3, 32, 32)
    expected = radiograph.maxpool(radiograph.relu(radiograph.bn1(radiograph.conv1(image))))
    middle = encoder.net.maxpool(encoder.net.act(encoder.net.bn1(encoder.net.conv1(flat(image, 32)))))
    torch.testing.assert_close(middle[..., 4], expected, atol=1e-4, rtol=1e-4)
    deep = encoder.net.layer1(flat(expected, 16))[..., 8]
    torch.testing.assert_close(deep, radiograph.layer1(expected), atol=1e-4, rtol=1e-4)
    grey = build_encoder(settings, in_channels=1).eval()
    grey.load_pretrained()
    torch.testing.assert_close(grey.net.conv1.weight.sum(1), encoder.net.conv1.weight.sum(1))


def test_inflated_transformer_gives_the_cxr_answer_where_the_volume_does_not_change(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    radiograph = VisionTransformer(16, 4, 2, num_classes=0, global_pool="", embed_dim=24, depth=2, num_heads=3).eval()
    radiograph.cls_token.data.zero_()
    save_file(radiograph.state_dict(), tmp_path / "vit.safetensors")
    settings = ViTSettings(patch=4, image_size=16, dim=24, depth=2, heads=3, weights=str(tmp_path / "vit.safetensors"))
    encoder = build_encoder(settings, in_channels=2).eval()
    assert encoder.load_pretrained() == 1
    image = torch.randn(1, 2, 16, 16)
    tokens = radiograph.patch_embed(image) + radiograph.pos_embed[:, 1:]
    expected = radiograph.norm(radiograph.blocks(tokens))
    out = encoder(flat(image, 16))
    for depth in range(4):
        found = out.levels[-1][..., depth].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
