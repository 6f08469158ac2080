"""Image encoders for radiographs and scans: one registry, one kind of output.

A settings class says what an encoder is; a builder (one file for each kind) builds it without reading any weights;
``initial.load_initial_weights`` reads them where ``weights`` names some. So a saved model is built from its settings
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctglip.config import Settings
from ctglip.errors import CTGLIPError, ModelError


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


class ImageEncoderSettings(Settings):
    """What all encoders have.

    Attributes:
        spatial_dims: 2 for radiographs, 3 for scans.
        checkpointing: forget activations inside of stages and compute them again in the backward pass.
        weights: where the first weights come from: a run or model folder with an encoder of the same kind, or what each
            encoder says of itself; none: random. A saved model does not name them.
        partial: go on where keys of the encoder are missing in them or do not fit, as long as nine tenths of its
            parameters are filled; the share is printed.
    """

    spatial_dims: Literal[2, 3] = 3
    checkpointing: bool = False
    weights: str | None = None
    partial: bool = False


class CNNSettings(ImageEncoderSettings):
    """A small residual CNN: a strided stem, then stages of residual blocks, halving between them.

    The default (no block at the first stage) takes 48 crops of 32^3 in about 0.1 s a training step on two cores.

    Attributes:
        norm: ``group`` sees each image alone, so what is at one place changes what all other tokens hold. ``batch``
            leaves a token what is near it, which maps of answers want; its statistics are those of a batch (of a
            micro-batch, where there are such).
    """

    name: Literal["cnn"] = "cnn"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (0, 1, 1, 1)
    stem_kernel: int = 3
    stem_stride: int = 2
    groups: int = 8
    norm: Literal["group", "batch"] = "group"


class ResNetSettings(ImageEncoderSettings):
    """MONAI's ResNet. ``weights``: a file with the weights of a 2D ResNet (torchvision's names), inflated in 3D, or
    ``timm:NAME``, which downloads.

    Attributes:
        layers, widths: blocks and planes of the four stages (34 layers; 50 layers: the same with ``bottleneck``).
        norm: ``group`` sees each image alone; ``batch`` is what ImageNet weights were trained with.
    """

    name: Literal["resnet"] = "resnet"
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    block: Literal["basic", "bottleneck"] = "basic"
    norm: Literal["group", "batch"] = "group"
    stem_kernel: int = 7
    max_pool: bool = True


class NNUNetSettings(ImageEncoderSettings):
    """The encoder of an nnU-Net. ``weights``: the folder of a trained one (``plans.json``, ``fold_X``), also one of
    TotalSegmentator's; its architecture is then the plans'.

    Attributes:
        widths, blocks: of the residual encoder that is built where no folder gives another.
        configuration: which one of the folder's plans.
        fold: which fold's weights.
        architecture: as the plans write it (network_class_name, arch_kwargs, _kw_requires_import); filled in from
            the folder, so that a saved model needs the folder no more.
        axes: the order of the image's axes in the network; filled in from the folder (nnU-Net has z first).
    """

    name: Literal["nnunet"] = "nnunet"
    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)
    configuration: str = "3d_fullres"
    fold: str = "0"
    architecture: dict[str, Any] | None = None
    axes: tuple[int, ...] | None = None


class ViTSettings(ImageEncoderSettings):
    """A vision transformer (MONAI's blocks) over patches; its positions are interpolated to any grid. ``weights``: a
    file with the weights of a 2D ViT or MAE (timm's names), inflated in 3D, or ``timm:NAME``, which downloads."""

    name: Literal["vit"] = "vit"
    patch: int = 8
    image_size: int = 32
    dim: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0


class SwinSettings(ImageEncoderSettings):
    """MONAI's Swin transformer: attention in shifted windows, five levels."""

    name: Literal["swin"] = "swin"
    patch: int = 2
    dim: int = 24
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = 7


class TimmSettings(ImageEncoderSettings):
    """Any timm model with feature maps, for radiographs. ``weights``: ``timm`` (downloads those of ``model``) or a
    file."""

    name: Literal["timm"] = "timm"
    spatial_dims: Literal[2, 3] = 2
    model: str = "resnet50"


EncoderSettings = Annotated[
    CNNSettings | ResNetSettings | NNUNetSettings | ViTSettings | SwinSettings | TimmSettings,
    Field(discriminator="name"),
]


Anchor = Literal["middle", "first"]
"""Where the middle of what a cell sees lies in its stride."""


class Encoder(nn.Module):
    """Base of every image encoder: ``forward(image [B, C, *S]) -> VisionFeatures``.

    Attributes:
        settings: what it was built from, complete: building from them again needs no other file.
        level_channels: channels of each level, fine to coarse.
        token_dim: width of the tokens and of the pooled vector.
        strides: voxels of the input for one step on each level's grid, along each axis.
        anchor: where the middle of what a cell i sees lies: in the ``middle`` of its stride (patches), or at the
            ``first`` voxel of it, which is where odd kernels with padding on both sides are centred.
    """

    anchor: Anchor = "middle"
    settings: ImageEncoderSettings
    level_channels: tuple[int, ...]
    token_dim: int
    strides: tuple[tuple[int, ...], ...]

    def forward(self, image: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """Features of a batch of images.

        Raises:
            ValueError: sides that the encoder's stride does not divide.
        """
        steps = self.strides[-1]
        if any(side % step for side, step in zip(image.shape[2:], steps, strict=True)):
            raise ValueError(f"Image sides {tuple(image.shape[2:])} must be multiples of {steps}.")
        levels = self.maps(image)
        tokens = levels[-1].flatten(2).transpose(1, 2)
        return VisionFeatures(levels, tokens, tuple(levels[-1].shape[2:]), tokens.mean(1))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The levels, fine to coarse."""
        raise NotImplementedError

    def stage(self, module: nn.Module, x: Tensor) -> Tensor:
        """Run a part of the encoder, without keeping what is inside where the settings say so."""
        if self.settings.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, x, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return module(x)


def model_folder(folder: Path) -> Path | None:
    """The ``model/`` folder that is meant by a run or by itself; None where it is neither."""
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    return None


def build_encoder(settings: EncoderSettings, in_channels: int) -> Encoder:
    """The encoder that the settings name, with random weights.

    Args:
        settings: one of the registered settings.
        in_channels: channels of the images.

    Raises:
        ModelError: code ``model_settings``: they do not fit each other.
    """
    try:
        return ENCODERS[settings.name](settings, in_channels)
    except CTGLIPError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"model.encoder: no {settings.name} can be built from these settings: {error}", code="model_settings"
        ) from error


def _cnn(settings: CNNSettings, in_channels: int) -> Encoder:
    from ctglip.models.cnn import CNN

    return CNN(settings, in_channels)


def _resnet(settings: ResNetSettings, in_channels: int) -> Encoder:
    from ctglip.models.resnet import ResNetEncoder

    return ResNetEncoder(settings, in_channels)


def _nnunet(settings: NNUNetSettings, in_channels: int) -> Encoder:
    from ctglip.models.nnunet import NNUNetEncoder

    return NNUNetEncoder(settings, in_channels)


def _vit(settings: ViTSettings, in_channels: int) -> Encoder:
    from ctglip.models.vit import ViTEncoder

    return ViTEncoder(settings, in_channels)


def _swin(settings: SwinSettings, in_channels: int) -> Encoder:
    from ctglip.models.vit import SwinEncoder

    return SwinEncoder(settings, in_channels)


def _timm(settings: TimmSettings, in_channels: int) -> Encoder:
    from ctglip.models.timm2d import TimmEncoder

    return TimmEncoder(settings, in_channels)


ENCODERS: dict[str, Callable[[Any, int], Encoder]] = {
    "cnn": _cnn,
    "resnet": _resnet,
    "nnunet": _nnunet,
    "vit": _vit,
    "swin": _swin,
    "timm": _timm,
}
"""Builders by name: a new encoder is a settings class, a builder and an entry here."""


def uniform(stride: int, dims: int) -> tuple[int, ...]:
    """The same stride along each axis."""
    return (stride,) * dims
