"""Image encoders for films and scans: one registry, one kind of output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ctglip.config import Settings


@dataclass
class VisionFeatures:
    """What an encoder makes of a batch of images.

    Attributes:
        levels: feature maps ``[B, C_l, *S_l]``, fine to coarse.
        tokens: the last level as a sequence ``[B, N, C]``, N = product of ``grid``.
        grid: spatial shape of the last level.
        pooled: one vector for each image ``[B, C]``.
    """

    levels: tuple[Tensor, ...]
    tokens: Float[Tensor, "b n c"]
    grid: tuple[int, ...]
    pooled: Float[Tensor, "b c"]


class Encoder(nn.Module):
    """Base of every image encoder: ``forward(image [B, C, *S]) -> VisionFeatures``.

    Attributes:
        level_channels: channels of each level, fine to coarse.
        token_dim: width of the tokens and of the pooled vector.
        strides: voxels of the input for one step on each level's grid.
    """

    level_channels: tuple[int, ...]
    token_dim: int
    strides: tuple[int, ...]


class CNNSettings(Settings):
    """A small residual CNN: a strided stem, then stages of residual blocks, halving between them.

    The default (no block at the first stage) takes 48 crops of 32^3 in about 0.1 s a training step on two cores.
    """

    name: Literal["cnn"] = "cnn"
    spatial_dims: Literal[2, 3] = 3
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (0, 1, 1, 1)
    stem_kernel: int = 3
    stem_stride: int = 2
    groups: int = 8


class ViTSettings(Settings):
    """A vision transformer (MONAI's blocks) over patches; its positions are interpolated to any grid."""

    name: Literal["vit"] = "vit"
    spatial_dims: Literal[2, 3] = 3
    patch: int = 8
    image_size: int = 32
    dim: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0


EncoderSettings = Annotated[CNNSettings | ViTSettings, Field(discriminator="name")]


def build_encoder(settings: CNNSettings | ViTSettings, in_channels: int) -> Encoder:
    """The encoder that the settings name.

    Args:
        settings: one of the registered settings.
        in_channels: channels of the images.
    """
    return ENCODERS[settings.name](settings, in_channels)


def _cnn(settings: CNNSettings, in_channels: int) -> Encoder:
    from ctglip.models.cnn import CNN

    return CNN(settings, in_channels)


def _vit(settings: ViTSettings, in_channels: int) -> Encoder:
    from ctglip.models.vit import ViTEncoder

    return ViTEncoder(settings, in_channels)


ENCODERS: dict[str, Callable[[Any, int], Encoder]] = {"cnn": _cnn, "vit": _vit}
"""Builders by name: a new encoder is a settings class, a builder and an entry here."""


def last_level(levels: tuple[Tensor, ...], pooled: Tensor | None = None) -> VisionFeatures:
    """Features of an encoder whose tokens are its last level; pooled is their mean unless given."""
    tokens = levels[-1].flatten(2).transpose(1, 2)
    mean = tokens.mean(1) if pooled is None else pooled
    return VisionFeatures(levels=levels, tokens=tokens, grid=tuple(levels[-1].shape[2:]), pooled=mean)
