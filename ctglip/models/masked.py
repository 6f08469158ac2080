"""Masked modelling of images, 2D and 3D: which patches are seen, what decodes the others (MAE), and what sharpens the
result (ECAMP)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings
from ctglip.models.encoders.tokens import monai_block


class MaskedPatchSettings(Settings):
    """How patches are hidden and decoded; MAE's numbers.

    Attributes:
        ratio: share of the patches that are hidden.
        width, depth, heads: of the decoder.
    """

    ratio: float = Field(default=0.75, gt=0, lt=1)
    width: int = 512
    depth: int = Field(default=8, ge=1)
    heads: int = 16


class MaskedImageSettings(MaskedPatchSettings):
    """How images are masked, decoded and sharpened; ECAMP's numbers.

    Attributes:
        window: side of the window that is sharpened, in sides of the patch grid's shortest (12 of 14 patches).
        final_relu: the sharpened image passes a ReLU (as released; negative greys are then out of reach).
    """

    depth: int = Field(default=4, ge=1)
    window: float = Field(default=12 / 14, gt=0, le=1)
    final_relu: bool = False


def draw_patches(patches: int, ratio: float, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """The patches that are seen, ascending; one at least.

    Args:
        patches: of a image.
        ratio: share that is hidden.
        rng: draws them.
    """
    return np.sort(rng.permutation(patches)[: max(int(patches * (1 - ratio)), 1)])


def hidden_patches(visible: Int[Tensor, "b n"], patches: int) -> Float[Tensor, "b p"]:
    """1 where a patch is not seen.

    Args:
        visible: the patches that are.
        patches: of a image.
    """
    return torch.ones(len(visible), patches, device=visible.device).scatter_(1, visible, 0.0)


def halved(image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *h"]:
    """A image at half its resolution: bicubic (ECAMP), means of eight voxels in 3D."""
    if image.dim() == 4:
        return F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)
    return F.avg_pool3d(image, 2)


def wave_positions(grid: tuple[int, ...], width: int, device: torch.device | str = "cpu") -> Float[Tensor, "1 n d"]:
    """Fixed positions: sines and cosines of each axis one after the other (MAE's, for any number of axes).

    Args:
        grid: patches along each axis.
        width: of the tokens; what the axes cannot share evenly stays zero.
    """
    each = width // (2 * len(grid))
    rates = 10_000 ** -(torch.arange(each, device=device) / each)
    sides = []
    for axis, length in enumerate(grid):
        angles = torch.arange(length, device=device)[:, None] * rates
        wave = torch.cat([angles.sin(), angles.cos()], dim=1)
        shape = [1] * len(grid)
        shape[axis] = length
        sides.append(wave.view(*shape, -1).expand(*grid, -1))
    found = torch.cat(sides, dim=-1).flatten(0, -2)
    return F.pad(found, (0, width - found.shape[1]))[None]


class MaskedDecoder(nn.Module):
    """From the tokens of the patches that were seen to the pixels of all (MAE's decoder).

    Args:
        settings: width, depth, heads.
        dim: width of the encoder's tokens.
        patch: edges of a patch along each axis.
        channels: of the image.
    """

    def __init__(self, settings: MaskedPatchSettings, dim: int, patch: Sequence[int], channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, settings.width)
        self.mask_token = nn.Parameter(torch.randn(settings.width) * 0.02)
        self.blocks = nn.ModuleList(monai_block(settings.width, settings.heads) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)
        self.proj_out = nn.Linear(settings.width, math.prod(patch) * channels)

    def forward(
        self, tokens: Float[Tensor, "b n d"], visible: Int[Tensor, "b n"], grid: tuple[int, ...]
    ) -> Float[Tensor, "b p f"]:
        """Flattened patches (``losses.masked.patchify``) of the whole grid.

        Args:
            tokens: of the patches that were seen.
            visible: which these are.
            grid: patches along each axis.
        """
        encoded = self.proj_in(tokens)
        positions = wave_positions(grid, encoded.shape[2], encoded.device).to(encoded.dtype)
        x = self.mask_token.to(encoded.dtype).expand(len(encoded), positions.shape[1], -1)
        x = x.scatter(1, visible[..., None].expand_as(encoded), encoded) + positions
        for block in self.blocks:
            x = block(x)
        return self.proj_out(self.norm(x))


class SuperResolutionHead(nn.Module):
    """A image at twice its resolution: linear interpolation and what two convolutions add (ECAMP).

    Args:
        channels: of the image.
        dims: its number of axes.
        final_relu: a ReLU at the end, as released.
    """

    def __init__(self, channels: int, dims: int, final_relu: bool = False) -> None:
        super().__init__()
        kind = nn.Conv3d if dims == 3 else nn.Conv2d
        self.first, self.second = (kind(channels, channels, 3, padding=1) for _ in range(2))
        self.final_relu = final_relu

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        """The sharpened image."""
        mode = "trilinear" if image.dim() == 5 else "bilinear"
        large = F.interpolate(image, scale_factor=2, mode=mode)
        found = few_channels(self.second, few_channels(self.first, large).relu()) + large
        return found.relu() if self.final_relu else found


_FEW = 8


def few_channels(layer: nn.Conv2d | nn.Conv3d, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *s"]:
    """What a convolution of 3 pixels a side, padded by one, makes of a image.

    With a few channels it is slow on CPUs: there it is a product of matrices in 2D (4 times faster with one channel),
    and channels come last in 3D (3 times, with four). Value and gradient are those of the layer.
    """
    if image.device.type != "cpu" or image.shape[1] >= _FEW:
        return layer(image)
    if image.dim() == 5:
        return layer(image.contiguous(memory_format=torch.channels_last_3d)).contiguous()
    assert layer.bias is not None
    around = F.unfold(image, 3, padding=1)
    return (layer.weight.flatten(1) @ around + layer.bias[:, None]).unflatten(2, image.shape[2:])


def spread_attention(
    attention: Float[Tensor, "b n"], visible: Int[Tensor, "b n"], grid: tuple[int, ...]
) -> Float[Tensor, "b ..."]:
    """What a text looks at, on the whole grid: a patch that was not seen has the mean of its neighbours that were.

    ECAMP's windows come from a first model whose attention was not published. Ours come from the model in training:
    its fusion layer's attention to the patches that it sees.

    Args:
        attention: to each patch that was seen.
        visible: which these are.
        grid: patches along each axis.
    """
    patches = int(np.prod(grid))
    pool = F.avg_pool3d if len(grid) == 3 else F.avg_pool2d
    mass, there = (
        torch.zeros(len(visible), patches, device=visible.device, dtype=torch.float32)
        .scatter_(1, visible, values.float())
        .view(-1, 1, *grid)
        for values in (attention, torch.ones_like(attention))
    )
    around = [1, 1] * len(grid)
    near = pool(F.pad(mass, around), 3, 1) / pool(F.pad(there, around), 3, 1).clamp(min=1e-9)
    return torch.where(there > 0, mass, near)[:, 0]
