"""A small residual CNN; with group normalisation no batch statistics, so it fits small batches and GradCache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.base import Encoder, EncoderSettings

Norm = Callable[[int], nn.Module]
_REGISTER = 16
"""Numbers in a vector register of AVX-512, the widest."""


class CNNSettings(EncoderSettings):
    """A small residual CNN: a strided stem, then stages of residual blocks, halving between them.

    The default (no block at the first stage) takes 48 crops of 32^3 in about 0.1 s a training step on two cores.

    Attributes:
        norm: ``group`` sees each image alone, so what is at one place changes what all other tokens hold. ``batch``
            leaves a token what is near it, which maps of answers want; its statistics are those of a batch (of a
            micro-batch, where there are such).
    """

    name: Literal["cnn"] = "cnn"  # pyright: ignore[reportIncompatibleVariableOverride]
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (0, 1, 1, 1)
    stem_kernel: int = 3
    stem_stride: int = 2
    groups: int = 8
    norm: Literal["group", "batch"] = "group"

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), **({} if self.norm == "group" else {"groups": "norm is batch"})}


class CNN(Encoder):
    """Strided stem, then one stage for each width; every stage after the first halves the grid.

    Args:
        settings: widths, blocks, strides.
        in_channels: channels of the images.
    """

    Settings = CNNSettings
    anchor = "first"

    def __init__(self, settings: CNNSettings, in_channels: int) -> None:
        super().__init__()
        if len(settings.widths) != len(settings.blocks):
            raise ValueError(f"widths {settings.widths} and blocks {settings.blocks} must be of equal length.")
        self.settings = settings
        dims, norm = settings.spatial_dims, _norm_of(settings)
        self.memory_format = torch.channels_last_3d if dims == 3 else torch.channels_last
        first = settings.widths[0]
        self.stem = nn.Sequential(
            _conv(dims, in_channels, first, settings.stem_kernel, settings.stem_stride),
            norm(first),
            nn.ReLU(inplace=True),
        )
        stages, before = [], first
        for index, (width, blocks) in enumerate(zip(settings.widths, settings.blocks, strict=True)):
            steps = [2 if index else 1] + [1] * (blocks - 1)
            layers = [
                ResidualBlock(dims, before if i == 0 else width, width, step, norm)
                for i, step in enumerate(steps[:blocks])
            ]
            if index and not blocks:
                raise ValueError("Only the first stage may have no block.")
            stages.append(nn.Sequential(*layers))
            before = width
        self.stages = nn.ModuleList(stages)
        self.level_channels = settings.widths
        self.token_dim = before
        self.strides = tuple((settings.stem_stride * 2**i,) * dims for i in range(len(settings.widths)))
        self.to(memory_format=self.memory_format)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """All stages' maps."""
        x = self.stem(image.contiguous(memory_format=self.memory_format))
        return self.after_each(self.stages, x)


class ResidualBlock(nn.Module):
    """Two 3-wide convolutions with normalisation beside a (projected) shortcut.

    A shortcut of a few channels in 2D takes every ``stride``-th pixel before it projects, which is what a strided
    convolution of one pixel does. There oneDNN (issue 6035, open with 3.12) computes that one's gradient past the end
    of its workspace: with channels last, fewer of them than a vector register holds, and several threads the process
    crashes, hangs, or learns from wrong gradients.
    """

    def __init__(self, dims: int, before: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.first = _conv(dims, before, width, 3, stride)
        self.first_norm = norm(width)
        self.second = _conv(dims, width, width, 3, 1)
        self.second_norm = norm(width)
        self.shortcut: nn.Module = nn.Identity()
        self.thinned: tuple[Any, ...] = (...,)
        if stride > 1 or before != width:
            thin = stride if dims == 2 and before < _REGISTER else 1
            self.thinned = (..., *[slice(None, None, thin)] * dims)
            self.shortcut = nn.Sequential(_conv(dims, before, width, 1, stride // thin), norm(width))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Same channels-last layout in and out."""
        y = self.act(self.first_norm(self.first(x)))
        return self.act(self.second_norm(self.second(y)) + self.shortcut(x[self.thinned]))


def _norm_of(settings: CNNSettings) -> Norm:
    if settings.norm == "group":
        return lambda width: nn.GroupNorm(settings.groups, width)
    return nn.BatchNorm3d if settings.spatial_dims == 3 else nn.BatchNorm2d


def _conv(dims: int, before: int, width: int, kernel: int, stride: int) -> nn.Module:
    kind = nn.Conv3d if dims == 3 else nn.Conv2d
    conv = kind(before, width, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
