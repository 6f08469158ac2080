"""The image encoder in the names of SPECTRE, MONAI and timm, where the architectures agree: each file is read back by
the package (of SPECTRE by this project's reader) and must give the same features before it is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctglip.errors import MissingExtraError, ModelError
from ctglip.files import atomic_path, write_json
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.base import Encoder
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.spectre import SpectreEncoder, SpectreSettings
from ctglip.models.encoders.swin import SwinSettings
from ctglip.models.encoders.timm2d import TimmSettings
from ctglip.models.encoders.tokens import as_maps
from ctglip.models.encoders.vit import ViTEncoder, ViTSettings
from ctglip.models.state_export import timm_state
from ctglip.models.weights.reading import State
from ctglip.resources import require

_LEFT = "Leave out --also peers: the folder itself is whole."
TOLERANCE = 1e-5
"""Largest difference of the last level, relative to its largest value."""
_TIMM = ((".attn.out_proj.", ".attn.proj."), (".mlp.linear1.", ".mlp.fc1."), (".mlp.linear2.", ".mlp.fc2."))


class Unlike(Exception):
    """The architectures differ; the message says in what."""


@dataclass(frozen=True)
class PeerNetwork:
    """An encoder in another project's names.

    Attributes:
        state: its weights there.
        network: what they are loaded into, in words: a name that can be imported.
        arguments: of the network, as plain data.
        build: makes it.
        last_level: what it makes of an image, as our encoder's last level.
        lacks: parts of the network that the file has no weights of.
    """

    state: State
    network: str
    arguments: dict[str, Any]
    build: Callable[[], nn.Module]
    last_level: Callable[[Any, Tensor], Tensor]
    lacks: tuple[str, ...] = ()


def write_peers(encoder: Encoder, shape: Sequence[int], folder: Path) -> list[str]:
    """Write ``NAME.safetensors`` for each project whose architecture agrees, and ``peers.json``: how to build it.

    Args:
        encoder: on the CPU.
        shape: of one image: channels, then sides.
        folder: what is there of the same names is replaced.

    Returns:
        A line for each project: how to load it and how far the features differ, or why there is no file.

    Raises:
        ModelError: code ``peers``: what was written gives other features.
    """
    was_training, notes, about = encoder.training, [], {}
    encoder.eval()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, made in PEERS.items():
            try:
                peer = made(encoder, tuple(shape))
            except (Unlike, MissingExtraError) as reason:
                notes.append(f"peers: not for {name}: {str(reason).rstrip('.')}.")
                continue
            difference = _write(peer, encoder, shape, folder / f"{name}.safetensors")
            about[name] = {"network": peer.network, "arguments": peer.arguments, "lacks": list(peer.lacks)}
            without = f" without its {', '.join(peer.lacks)}" if peer.lacks else ""
            notes.append(
                f"peers/{name}.safetensors loads into {peer.network}{without} (arguments in peers.json); its features "
                f"differ by {difference:.0e}."
            )
    finally:
        encoder.train(was_training)
    write_json(folder / "peers.json", about)
    return notes


@torch.no_grad()
def _write(peer: PeerNetwork, encoder: Encoder, shape: Sequence[int], path: Path) -> float:
    """Write a file that gives the same features when it is read back; returns by how much they differ."""
    with atomic_path(path) as temporary:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in peer.state.items()}, temporary)
        network = peer.build().eval()
        loaded = network.load_state_dict(load_file(temporary), strict=False)
        absent = [name for name in loaded.missing_keys if not name.startswith(peer.lacks)]
        if absent or loaded.unexpected_keys:
            raise ModelError(
                f"{peer.network} has no place for {(absent or loaded.unexpected_keys)[0]}.", code="peers", fix=_LEFT
            )
        image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        mine, theirs = encoder(image).levels[-1], peer.last_level(network, image)
        difference = float((mine - theirs).abs().max() / mine.abs().max().clamp(min=1e-12))
        if not difference <= TOLERANCE:
            raise ModelError(f"{peer.network} gives features that differ by {difference:.1e}.", code="peers", fix=_LEFT)
    return difference


def _vit(encoder: Encoder, whose: str, dims: int | None = None) -> tuple[ViTEncoder, ViTSettings]:
    """The encoder, if it is a plain vision transformer (for images of so many axes)."""
    settings = encoder.settings
    if not isinstance(encoder, ViTEncoder) or not isinstance(settings, ViTSettings):
        raise Unlike(f"{settings.name} is no architecture of {whose}")
    if dims is not None and settings.spatial_dims != dims:
        raise Unlike(f"it reads images of {settings.spatial_dims} axes, {whose}'s of {dims}")
    return encoder, settings


def _differing(asked: Mapping[str, tuple[Any, Any]], whose: str) -> None:
    """Settings that must have one value.

    Raises:
        Unlike: names the first that has another.
    """
    for name, (found, wanted) in asked.items():
        if found != wanted:
            raise Unlike(f"{name} is {found}, {whose}'s {wanted}")


def _table(encoder: ViTEncoder, settings: ViTSettings, sides: Sequence[int]) -> Float[Tensor, "1 n d"]:
    """What the encoder adds to the patches of an image, by their place."""
    grid = tuple(side // edge for side, edge in zip(sides, settings.sides("patch"), strict=True))
    found = encoder.position_table(grid)
    assert found is not None
    return found.detach()


# --- SPECTRE


def spectre_peer(encoder: Encoder, shape: tuple[int, ...]) -> PeerNetwork:
    """SPECTRE's backbone: its input is the window from 0 to 1, where ours is from -1 to 1; so the patch embedding takes
    that difference in.

    Raises:
        Unlike: another architecture.
    """
    settings = encoder.settings
    if isinstance(encoder, SpectreEncoder) and isinstance(settings, SpectreSettings):
        state: State = dict(encoder.network.state_dict())
        spectre = settings.model_copy(update={"crop": None, "combine": False, "channel": 0, "weights": None})
        whole = settings.crop is None or all(s <= c for s, c in zip(shape[1:], settings.crop, strict=True))
        spectre = spectre if whole else spectre.model_copy(update={"crop": settings.crop})
    else:
        vit, settings = _vit(encoder, "SPECTRE", 3)
        _differing({
            "the number of channels": (shape[0], 1), "positions": (settings.positions, "rope"),
            "rope_base": (settings.rope_base, 1000.0), "class_token": (settings.class_token, True),
            "registers": (settings.registers, 0), "eps": (settings.eps, 1e-5),
        }, "SPECTRE")  # fmt: skip
        state = _spectre_state(vit)
        spectre = SpectreSettings(
            patch=_three(settings.sides("patch")), dim=settings.dim, depth=settings.depth, heads=settings.heads,
            crop=None,
        )  # fmt: skip
    arguments = {name: getattr(spectre, name) for name in ("patch", "dim", "depth", "heads")}

    def build() -> nn.Module:
        return SpectreEncoder(spectre, 1).network

    def last_level(network: nn.Module, image: Tensor) -> Tensor:
        reader = SpectreEncoder(spectre, 1).eval()
        reader.network = network
        return reader(image).levels[-1]

    return PeerNetwork(
        state, "SPECTRE's vision transformer (model.encoder: {name: spectre})", arguments, build, last_level
    )


def _three(sides: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = sides
    return x, y, z


def _spectre_state(encoder: ViTEncoder) -> State:
    found: State = {}
    for name, value in encoder.state_dict().items():
        new = _renamed(name)
        if name == "embed.weight":
            found["patch_embed.proj.weight"] = 2 * value
        elif name == "embed.bias":
            found["patch_embed.proj.bias"] = value - encoder.get_parameter("embed.weight").flatten(1).sum(1)
        elif ".attn.qkv." in name:
            width = encoder.token_dim
            found[new.replace(".qkv.", ".q.")], found[new.replace(".qkv.", ".kv.")] = value[:width], value[width:]
        else:
            found[new] = value
    for index in range(len(encoder.blocks)):
        found |= {f"blocks.{index}.{part}.gamma": torch.ones(encoder.token_dim) for part in ("ls1", "ls2")}
    assert encoder.rope is not None
    return {**found, "rope.periods": encoder.rope.periods}


def _renamed(name: str) -> str:
    for mine, theirs in _TIMM:
        name = name.replace(mine, theirs)
    return name


# --- MONAI


def monai_peer(encoder: Encoder, shape: tuple[int, ...]) -> PeerNetwork:
    """MONAI's ViT, ResNet or Swin transformer.

    Raises:
        Unlike: another architecture.
    """
    settings = encoder.settings
    if isinstance(settings, SwinSettings):
        from monai.networks.nets.swin_unetr import SwinTransformer

        return _same_network(encoder, SwinTransformer, _swin_arguments(settings, shape[0]), shape[0])
    if isinstance(settings, ResNetSettings):
        from monai.networks.nets.resnet import ResNet

        _differing({"norm": (settings.norm, "batch")}, "MONAI")
        return _same_network(encoder, ResNet, _resnet_arguments(settings, shape[0]), shape[0])
    return _monai_vit(*_vit(encoder, "MONAI"), shape)


def _swin_arguments(settings: SwinSettings, channels: int) -> dict[str, Any]:
    dims = settings.spatial_dims
    return {
        "in_chans": channels, "embed_dim": settings.dim, "window_size": [settings.window] * dims,
        "patch_size": [settings.patch] * dims, "depths": list(settings.depths), "num_heads": list(settings.heads),
        "spatial_dims": dims,
    }  # fmt: skip


def _resnet_arguments(settings: ResNetSettings, channels: int) -> dict[str, Any]:
    return {
        "block": settings.block, "layers": list(settings.layers), "block_inplanes": list(settings.widths),
        "spatial_dims": settings.spatial_dims, "n_input_channels": channels, "conv1_t_size": settings.stem_kernel,
        "conv1_t_stride": 2, "no_max_pool": not settings.max_pool, "bias_downsample": False, "feed_forward": False,
    }  # fmt: skip


def _same_network(encoder: Encoder, network: Any, arguments: dict[str, Any], channels: int) -> PeerNetwork:
    """An encoder around one network of MONAI's."""

    def last_level(net: nn.Module, image: Tensor) -> Tensor:
        other: Any = build_encoder(encoder.settings.model_copy(update={"checkpointing": False}), channels).eval()
        other.net = net
        return other(image).levels[-1]

    named = f"{network.__module__}.{network.__name__}"
    state = dict(encoder.get_submodule("net").state_dict())
    return PeerNetwork(state, named, arguments, functools.partial(network, **arguments), last_level)


def _monai_vit(encoder: ViTEncoder, settings: ViTSettings, shape: tuple[int, ...]) -> PeerNetwork:
    if settings.positions == "rope":
        raise Unlike("positions are rope, which MONAI's ViT has not")
    _differing({"registers": (settings.registers, 0), "eps": (settings.eps, 1e-5)}, "MONAI")
    from monai.networks.nets.vit import ViT

    state: State = {name: v for name, v in encoder.state_dict().items() if name.startswith(("blocks.", "norm.", "cls"))}
    state |= {f"patch_embedding.patch_embeddings.{p}": encoder.get_parameter(f"embed.{p}") for p in ("weight", "bias")}
    state["patch_embedding.position_embeddings"] = _table(encoder, settings, shape[1:])
    for index in range(settings.depth):  # a norm that MONAI builds and does not use
        state[f"blocks.{index}.norm_cross_attn.weight"] = torch.ones(settings.dim)
        state[f"blocks.{index}.norm_cross_attn.bias"] = torch.zeros(settings.dim)
    arguments: dict[str, Any] = {
        "in_channels": shape[0], "img_size": list(shape[1:]), "patch_size": list(settings.sides("patch")),
        "hidden_size": settings.dim, "mlp_dim": 4 * settings.dim, "num_layers": settings.depth,
        "num_heads": settings.heads, "proj_type": "conv", "classification": settings.class_token, "qkv_bias": True,
        "spatial_dims": settings.spatial_dims,
    }  # fmt: skip
    grid = tuple(encoder(torch.zeros(1, *shape)).grid)

    def last_level(network: Any, image: Tensor) -> Tensor:
        return as_maps(network.norm(network(image)[1][-1]), grid)

    lacks = ("classification_head",) if settings.class_token else ()
    return PeerNetwork(state, "monai.networks.nets.ViT", arguments, lambda: ViT(**arguments), last_level, lacks)


# --- timm


def timm_peer(encoder: Encoder, shape: tuple[int, ...]) -> PeerNetwork:
    """timm's vision transformer, or the timm model that the encoder is.

    Raises:
        Unlike: another architecture.
        MissingExtraError: timm is not installed.
    """
    timm = require("timm", extra="cxr")
    if isinstance(encoder.settings, TimmSettings):
        return _timm_model(encoder, encoder.settings, shape[0], timm)
    vit, settings = _vit(encoder, "timm", 2)
    if settings.positions == "rope":
        raise Unlike("positions are rope, which timm's VisionTransformer has not")
    from timm.models.vision_transformer import VisionTransformer

    state: State = {_renamed(n): v for n, v in vit.state_dict().items() if n.startswith(("blocks.", "norm.", "cls"))}
    state |= {f"patch_embed.proj.{part}": vit.get_parameter(f"embed.{part}") for part in ("weight", "bias")}
    table = _table(vit, settings, shape[1:])
    with_class = settings.class_token and not settings.registers  # timm's own layout of ViT-B/16 and its like
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, settings.dim), table], dim=1) if with_class else table
    if vit.registers is not None:
        state["reg_token"] = vit.registers
    patch = settings.sides("patch")
    arguments: dict[str, Any] = {
        "img_size": list(shape[1:]), "patch_size": list(patch), "in_chans": shape[0], "num_classes": 0,
        "embed_dim": settings.dim, "depth": settings.depth, "num_heads": settings.heads,
        "class_token": settings.class_token, "no_embed_class": not with_class, "reg_tokens": settings.registers,
        "global_pool": "token" if settings.class_token else "avg", "fc_norm": False,
    }  # fmt: skip
    grid = tuple(side // edge for side, edge in zip(shape[1:], patch, strict=True))

    def build() -> nn.Module:
        norm = functools.partial(nn.LayerNorm, eps=settings.eps)
        return VisionTransformer(**{**arguments, "img_size": shape[1:], "patch_size": patch, "norm_layer": norm})

    return PeerNetwork(
        state, f"timm.models.VisionTransformer (norm_layer: LayerNorm of eps {settings.eps:g})", arguments, build,
        lambda network, image: as_maps(network.forward_features(image), grid),
    )  # fmt: skip


def _timm_model(encoder: Encoder, settings: TimmSettings, channels: int, timm: Any) -> PeerNetwork:
    arguments = {"model_name": settings.model, "in_chans": channels, "num_classes": 0}

    def last_level(network: Any, image: Tensor) -> Tensor:
        return network.forward_intermediates(image, intermediates_only=True)[-1]

    build = functools.partial(timm.create_model, pretrained=False, **arguments)
    return PeerNetwork(
        timm_state(encoder), "timm.create_model", arguments, build, last_level, ("norm", "head", "fc_norm")
    )


PEERS: dict[str, Callable[[Encoder, tuple[int, ...]], PeerNetwork]] = {
    "spectre": spectre_peer,
    "monai": monai_peer,
    "timm": timm_peer,
}
"""Projects whose names the encoder can be written in."""
