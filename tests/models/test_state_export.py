"""The encoder's weights in nnU-Net's and timm's own networks: they load, and give the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctglip.errors import ModelError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.nnunet import NNUNetSettings, build_unet
from ctglip.models.encoders.timm2d import TimmSettings
from ctglip.models.state_export import nnunet_state, save_nnunet, timm_state


def nnunet_encoder():
    torch.manual_seed(0)
    return build_encoder(NNUNetSettings(widths=(8, 16, 16), blocks=(1, 1, 1)), 2).eval()


def test_nnunets_network_reads_our_weights_and_sees_the_same(tmp_path: Path) -> None:
    """nnU-Net's own loader, then the same image with z first: the same maps with z first."""
    loading = pytest.importorskip("nnunetv2.run.load_pretrained_weights")
    mine = nnunet_encoder()
    settings = mine.settings
    assert isinstance(settings, NNUNetSettings)
    assert settings.architecture is not None
    torch.manual_seed(1)
    theirs = build_unet(settings.architecture, 2, (0, 1, 2), classes=5).eval()
    loading.load_pretrained_weights(theirs, str(save_nnunet(mine, tmp_path / "pretrained.pth")))
    image = torch.randn(1, 2, 16, 8, 12)
    with torch.no_grad():
        found = theirs.encoder(image.permute(0, 1, 4, 3, 2))
        for level, their in zip(mine(image).levels, found, strict=True):
            torch.testing.assert_close(their.permute(0, 1, 4, 3, 2), level, atol=1e-5, rtol=1e-4)


def test_the_state_alone_fills_the_encoder() -> None:
    mine = nnunet_encoder()
    settings = mine.settings
    assert isinstance(settings, NNUNetSettings)
    assert settings.architecture is not None
    network = build_unet(settings.architecture, 2, (0, 1, 2))
    loaded = network.load_state_dict(nnunet_state(mine), strict=False)
    assert not loaded.unexpected_keys
    assert not [name for name in loaded.missing_keys if name.startswith("encoder.")]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_timms_model_reads_our_weights_and_sees_the_same(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    mine = build_encoder(TimmSettings(model=name), 1).eval()
    theirs = timm.create_model(name, pretrained=False, in_chans=1, num_classes=3).eval()
    loaded = theirs.load_state_dict(timm_state(mine), strict=False)
    assert not loaded.unexpected_keys
    assert all(key.startswith(("fc.", "head.")) for key in loaded.missing_keys)
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_intermediates(image, intermediates_only=True)[-1],
                                   mine(image).levels[-1], atol=1e-4, rtol=1e-4)  # fmt: skip


def test_another_encoder_has_no_place_there() -> None:
    encoder = build_encoder(CNNSettings(widths=(8, 16), blocks=(0, 1)), 1)
    with pytest.raises(ModelError, match="no place in a network of nnU-Net"):
        nnunet_state(encoder)
    with pytest.raises(ModelError, match="no place in a network of timm"):
        timm_state(encoder)
