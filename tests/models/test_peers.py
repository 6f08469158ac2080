"""The encoder in the names of SPECTRE, MONAI and timm: each package reads the file and gives the same features."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.vit import ViT
from safetensors.torch import load_file, save_file
from torch import nn

from ctglip.errors import MissingExtraError, ModelError
from ctglip.models import peers
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.base import Encoder, EncoderSettings
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.spectre import SpectreEncoder, SpectreSettings
from ctglip.models.encoders.swin import SwinSettings
from ctglip.models.encoders.timm2d import TimmSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.peers import Unlike, monai_peer, spectre_peer, timm_peer, write_peers

SIZE: dict[str, Any] = {"patch": 4, "image_size": 16, "dim": 24, "depth": 2, "heads": 2}
SPECTRE: dict[str, Any] = {**SIZE, "positions": "rope", "class_token": True, "pooling": "cls_mean"}
STAGES: dict[str, Any] = {"layers": (1, 1, 1, 1), "widths": (8, 16, 16, 16)}
RELEASED = SpectreSettings(patch=(4, 4, 4), dim=24, depth=2, heads=2, crop=(8, 8, 8))


def trained(settings: EncoderSettings, channels: int = 1) -> Encoder:
    """No weight is as it was drawn: norms, biases, tokens and factors too."""
    torch.manual_seed(0)
    encoder = build_encoder(settings, channels)
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return encoder.eval()


def image(*shape: int) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


def test_spectres_reader_gives_the_features_of_a_vit_level_by_level(tmp_path: Path) -> None:
    mine = trained(ViTSettings(**SPECTRE))
    notes = write_peers(mine, (1, 16, 8, 12), tmp_path)
    assert [note.split()[0] for note in notes] == ["peers/spectre.safetensors", "peers:", "peers:"]
    about = json.loads((tmp_path / "peers.json").read_text())["spectre"]
    state = load_file(tmp_path / "spectre.safetensors")
    assert state["patch_embed.proj.weight"].shape == (24, 1, 4, 4, 4)
    assert {"cls_token", "rope.periods", "blocks.1.attn.q.weight", "blocks.1.attn.kv.bias", "blocks.0.ls1.gamma",
            "blocks.0.mlp.fc2.weight", "norm.weight"} <= state.keys()  # fmt: skip
    source = str(tmp_path / "spectre.safetensors")
    settings = SpectreSettings(**about["arguments"], crop=None, weights=source)
    theirs = build_encoder(settings, 1).eval()
    assert theirs.load_pretrained() == 1.0
    with torch.no_grad():
        own, found = mine(image(1, 16, 8, 12)), theirs(image(1, 16, 8, 12))
    for level, other in zip(own.levels, found.levels, strict=True):
        torch.testing.assert_close(other, level, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, own.pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize(("dims", "positions"), [(2, "learned"), (3, "learned"), (3, "sine")])
def test_monais_vit_reads_ours(tmp_path: Path, dims: int, positions: str, class_token: bool) -> None:
    settings = ViTSettings(spatial_dims=dims, positions=positions, class_token=class_token, **SIZE)  # pyright: ignore[reportArgumentType]
    shape = (2, *[16, 8, 12][:dims])
    mine = trained(settings, 2)
    write_peers(mine, shape, tmp_path)
    theirs = ViT(**json.loads((tmp_path / "peers.json").read_text())["monai"]["arguments"]).eval()
    loaded = theirs.load_state_dict(load_file(tmp_path / "monai.safetensors"), strict=False)
    assert not loaded.unexpected_keys
    assert all(name.startswith("classification_head") for name in loaded.missing_keys) == class_token or not class_token
    with torch.no_grad():
        tokens = theirs.norm(theirs(image(*shape))[1][-1])[:, int(class_token) :]
        torch.testing.assert_close(tokens, mine(image(*shape)).tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [SwinSettings(dim=12), ResNetSettings(norm="batch", **STAGES)], ids=lambda one: one.name
)
def test_monais_other_networks_read_ours(tmp_path: Path, settings: EncoderSettings) -> None:
    mine = trained(settings)
    side = 64 if settings.name == "swin" else 32
    notes = write_peers(mine, (1, *[side] * 3), tmp_path)
    assert notes[1].startswith("peers/monai.safetensors loads into monai.networks.nets")
    peer = monai_peer(mine, (1, *[side] * 3))
    theirs = peer.build()
    theirs.load_state_dict(load_file(tmp_path / "monai.safetensors"))
    assert type(theirs).__module__.startswith("monai.")


def vision_transformer(about: dict[str, Any], eps: float) -> Any:
    module = pytest.importorskip("timm.models.vision_transformer")
    return module.VisionTransformer(**about["arguments"], norm_layer=functools.partial(nn.LayerNorm, eps=eps)).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_token": True, "positions": "sine", "eps": 1e-6},
        {"class_token": True, "registers": 2},
    ],
    ids=["plain", "class token", "registers"],
)
def test_timms_vision_transformer_reads_ours(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = ViTSettings(spatial_dims=2, **{**SIZE, **changes})
    mine = trained(settings, 3)
    write_peers(mine, (3, 16, 24), tmp_path)
    theirs = vision_transformer(json.loads((tmp_path / "peers.json").read_text())["timm"], settings.eps)
    theirs.load_state_dict(load_file(tmp_path / "timm.safetensors"))
    with torch.no_grad():
        tokens = theirs.forward_features(image(3, 16, 24))[:, theirs.num_prefix_tokens :]
        torch.testing.assert_close(tokens, mine(image(3, 16, 24)).tokens, atol=1e-5, rtol=1e-5)


def test_timms_own_model_gets_its_names_back(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    mine = trained(TimmSettings(model="resnet18"))
    assert "timm.create_model" in write_peers(mine, (1, 64, 64), tmp_path)[2]


def test_a_released_spectre_keeps_its_names(tmp_path: Path) -> None:
    mine = trained(RELEASED)
    assert write_peers(mine, (1, 16, 16, 16), tmp_path)[0].startswith("peers/spectre.safetensors loads")
    assert isinstance(mine, SpectreEncoder)
    assert load_file(tmp_path / "spectre.safetensors").keys() == mine.network.state_dict().keys()


@pytest.mark.parametrize(("settings", "shape", "reasons"), [
    (CNNSettings(widths=(8, 16), blocks=(0, 1)), (1, 16, 16, 16),
     ["cnn is no architecture of SPECTRE", "MONAI", "cnn"]),
    (ViTSettings(**SPECTRE), (2, 16, 16, 16),
     ["channels is 2, SPECTRE's 1", "positions are rope", "3 axes, timm's of 2"]),
    (ViTSettings(**{**SPECTRE, "rope_base": 100.0}), (1, 16, 16, 16), ["rope_base is 100.0", "rope", "axes"]),
    (ViTSettings(**SPECTRE, registers=1), (1, 16, 16, 16), ["registers is 1, SPECTRE's 0", "rope", "axes"]),
    (ViTSettings(**SIZE, registers=1), (1, 16, 16, 16), ["learned, SPECTRE's rope", "registers is 1", "axes"]),
    (ViTSettings(**SIZE, eps=1e-6), (1, 16, 16, 16), ["SPECTRE", "eps is 1e-06, MONAI's 1e-05", "axes"]),
    (ResNetSettings(**STAGES), (1, 32, 32, 32), ["resnet", "norm is group, MONAI's batch", "resnet"]),
])  # fmt: skip
def test_where_architectures_differ_a_line_says_in_what(
    tmp_path: Path, settings: EncoderSettings, shape: tuple[int, ...], reasons: list[str]
) -> None:
    notes = write_peers(trained(settings, shape[0]), shape, tmp_path)
    assert len(notes) == 3
    for note, name, reason in zip(notes, ("spectre", "monai", "timm"), reasons, strict=True):
        assert note.startswith(f"peers: not for {name}: ")
        assert reason in note
        assert "\n" not in note
    assert [file.name for file in tmp_path.iterdir()] == ["peers.json"]
    assert json.loads((tmp_path / "peers.json").read_text()) == {}


def test_a_file_that_gives_other_features_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, save = trained(ViTSettings(**SIZE)), save_file
    off = {"norm.bias": 0.01}

    def changed(state: dict[str, torch.Tensor], path: Path) -> None:
        save({name: value + off.get(name, 0) for name, value in state.items()}, path)

    monkeypatch.setattr(peers, "save_file", changed)
    with pytest.raises(ModelError, match="features that differ"):
        write_peers(mine, (1, 16, 16, 16), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_without_timm_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, extra: str) -> None:
        raise MissingExtraError(f"{name} is not installed.", fix=f"pip install ctglip[{extra}]")

    monkeypatch.setattr(peers, "require", missing)
    notes = write_peers(trained(ViTSettings(spatial_dims=2, **SIZE)), (1, 16, 16), tmp_path)
    assert notes[2].startswith("peers: not for timm: timm is not installed")


def test_each_refuses_by_itself() -> None:
    encoder = trained(CNNSettings(widths=(8, 16), blocks=(0, 1)))
    for made in (spectre_peer, monai_peer, timm_peer):
        with pytest.raises(Unlike, match="cnn is no architecture"):
            made(encoder, (1, 16, 16, 16))
