"""Positions as turns of queries and keys (RoPE, arXiv 2104.09864) along two or three axes, as SPECTRE has them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from monai.networks.blocks.selfattention import SABlock
from torch import Tensor
from torch.nn import functional as F

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines ``[1 or B, 1, N, D]`` of the turns of each token's features."""


class RotaryAttention(SABlock):
    """MONAI's self-attention whose queries and keys are turned by their place; it has the same weights."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], attn_mask: Rotation | None = None
    ) -> Float[Tensor, "b n c"]:
        """Self-attention.

        Args:
            x: tokens.
            attn_mask: how they are turned (``rotation``), where MONAI's block hands over a mask.
        """
        query, key, value = self.input_rearrange(self.qkv(x)).unbind(0)
        if attn_mask is not None:
            query, key = turned(query, attn_mask), turned(key, attn_mask)
        dropout = self.dropout_rate if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.drop_output(self.out_proj(self.out_rearrange(read)))


def turned(x: Float[Tensor, "b h n d"], by: Rotation) -> Float[Tensor, "b h n d"]:
    """Features turned in pairs: feature i and feature i + D / 2."""
    one, other = x.chunk(2, dim=-1)
    return x * by[0] + torch.cat([-other, one], dim=-1) * by[1]


def rotation(
    grid: tuple[int, ...],
    width: int,
    base: float,
    prefix: int,
    like: Tensor,
    patches: Int[Tensor, "b k"] | None = None,
) -> Rotation:
    """The turns of the tokens of a grid; tokens before them are not turned.

    Coordinates reach from -1 to 1 along each axis; period i of an axis is ``base ** (2 i / (width / axes))``.

    Args:
        grid: patches along each axis.
        width: features of a head.
        base: the longest period is nearly this.
        prefix: tokens without a place.
        like: a tensor of the wanted type and device.
        patches: which patches there are, of each image; all where None.

    Raises:
        ValueError: the features cannot be shared by the axes in pairs.
    """
    axes = len(grid)
    if width % (2 * axes):
        raise ValueError(f"heads of {width} features cannot be turned along {axes} axes: {2 * axes} must divide them")
    share = width // axes
    periods = base ** (2 * torch.arange(share // 2) / share)
    places = torch.cartesian_prod(*((torch.arange(n) + 0.5) * 2 / n - 1 for n in grid)).view(-1, axes)
    angles = (2 * math.pi * places[..., None] / periods).flatten(1).tile(2).to(like.device)[None]
    if patches is not None:
        angles = angles.expand(len(patches), -1, -1).gather(1, patches[..., None].expand(-1, -1, width))
    angles = F.pad(angles, (0, 0, prefix, 0))[:, None]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)
