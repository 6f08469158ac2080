"""What transformers over patches have in common: rotary positions, blocks under timm's names of weights, tokens and
maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Pairs = Literal["halves", "neighbours"]
"""Which numbers of a head are turned together: the first of each half and so on, or each with its neighbour."""


class PatchEmbedding(nn.Module):
    """Patches by a strided convolution ``proj``."""

    def __init__(self, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, patch, patch)

    def forward(self, image: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b d *g"]:
        """One vector for each patch."""
        return self.proj(image)


@dataclass(frozen=True)
class TokenRotation:
    """Sines and cosines of the angles that each token is turned by, ``[n, d]`` or ``[b, 1, n, d]``, and which numbers
    are turned."""

    sin: Tensor
    cos: Tensor
    pairs: Pairs

    def __call__(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        """Queries or keys turned by their positions, in float32 at least; the first ones (classes, registers) are
        not."""
        start = x.shape[2] - self.sin.shape[-2]
        first, rest = x[:, :, :start], x[:, :, start:]
        if self.pairs == "halves":
            low, high = rest.chunk(2, dim=-1)
            other = torch.cat([-high, low], dim=-1)
        else:
            low, high = rest.unflatten(-1, (-1, 2)).unbind(-1)
            other = torch.stack([-high, low], dim=-1).flatten(-2)
        return torch.cat([first, (rest * self.cos + other * self.sin).to(x.dtype)], dim=2)


class AxialRotation(nn.Module):
    """Rotary positions along two or three axes (RoPE, arXiv 2104.09864; DINOv3, arXiv 2508.10104): coordinates from -1
    to 1 along each axis, an equal share of the angles for each.

    Args:
        head_dim: width of an attention head.
        base: period i of an axis is ``base ** (2 i / (head_dim / axes))``.
        axes: of the grid.
        pairs: which numbers are turned together.
        saved: the periods are among the weights, as released.

    Raises:
        ValueError: the axes cannot share the head's numbers in pairs.
    """

    periods: Tensor

    def __init__(self, head_dim: int, base: float, axes: int = 3, pairs: Pairs = "halves", saved: bool = True) -> None:
        super().__init__()
        self.pairs: Pairs = pairs
        if head_dim % (2 * axes):
            raise ValueError(f"heads of width {head_dim} cannot be turned along {axes} axes: {2 * axes} must divide it")
        powers = 2 * torch.arange(head_dim // (2 * axes), dtype=torch.float32) / (head_dim // axes)
        self.register_buffer("periods", base**powers, persistent=saved)

    def forward(self, grid: tuple[int, ...], patches: Int[Tensor, "b k"] | None = None) -> TokenRotation:
        """The angles of a grid's cells, or of some of them for each image."""
        axes = [(torch.arange(n, device=self.periods.device) + 0.5) * 2 / n - 1 for n in grid]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        angles = (2 * math.pi * position[:, :, None] / self.periods.float()).flatten(1)
        angles = angles.tile(2) if self.pairs == "halves" else angles.repeat_interleave(2, dim=1)
        if patches is not None:
            angles = angles[patches][:, None]
        return TokenRotation(angles.sin(), angles.cos(), self.pairs)


class TokenAttention(nn.Module):
    """Self-attention; ``q`` and ``kv``, or ``qkv``, then ``proj``.

    Args:
        width: of the tokens.
        heads: number of heads.
        bias: the first projection has one.
        split: queries have a projection of their own.
    """

    def __init__(self, width: int, heads: int, bias: bool = True, split: bool = False) -> None:
        super().__init__()
        self.heads, self.split = heads, split
        if split:
            self.q, self.kv = nn.Linear(width, width, bias), nn.Linear(width, 2 * width, bias)
        else:
            self.qkv = nn.Linear(width, 3 * width, bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], rotation: TokenRotation | None = None) -> Float[Tensor, "b n d"]:
        """Tokens that looked at each other."""
        joined = torch.cat([self.q(x), self.kv(x)], dim=-1) if self.split else self.qkv(x)
        query, key, value = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        found = F.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor ``gamma`` for each channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the factors."""
        return x * self.gamma


class TokenMLP(nn.Module):
    """``fc1``, GELU, ``fc2``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Same width in and out."""
        return self.fc2(F.gelu(self.fc1(x)))


class TokenBlock(nn.Module):
    """A block of pre-norm attention and MLP.

    Args:
        width: of the tokens.
        heads: of the attention.
        scale: start of the layer scale; None: none.
        eps: of the layer norms.
        bias, split: of ``TokenAttention``.
    """

    def __init__(
        self, width: int, heads: int, scale: float | None, eps: float, bias: bool = True, split: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = TokenAttention(width, heads, bias, split)
        self.mlp = TokenMLP(width, 4 * width)
        self.ls1 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.ls2 = nn.Identity() if scale is None else LayerScale(width, scale)

    def forward(self, x: Float[Tensor, "b n d"], rotation: TokenRotation | None = None) -> Float[Tensor, "b n d"]:
        """Tokens in, tokens out."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


def monai_block(width: int, heads: int, dropout: float = 0.0) -> Any:
    """MONAI's block, without the norm that it builds also where there is no cross-attention."""
    from monai.networks.blocks.transformerblock import TransformerBlock

    block = TransformerBlock(width, 4 * width, heads, dropout, qkv_bias=True)
    block.add_module("norm_cross_attn", nn.Identity())
    return block


def middle_and_last(
    blocks: nn.ModuleList, x: Float[Tensor, "b n d"], run: Callable[..., Tensor], *inputs: Any
) -> tuple[Tensor, Tensor]:
    """Tokens after half of some blocks, and after all.

    Args:
        blocks: called with the tokens and ``inputs``.
        x: the tokens.
        run: runs a block (``Encoder.stage``).
        inputs: what each block sees beside the tokens.
    """
    half = x
    for number, block in enumerate(blocks, 1):
        x = run(block, x, *inputs)
        if number == len(blocks) // 2:
            half = x
    return half, x


def with_first(tokens: Float[Tensor, "b n d"], *first: Float[Tensor, "1 k d"]) -> Float[Tensor, "b m d"]:
    """Tokens of no patch (classes, registers), then those of the patches."""
    return torch.cat([one.expand(len(tokens), -1, -1) for one in first] + [tokens], dim=1)


def as_maps(tokens: Float[Tensor, "b n d"], grid: tuple[int, ...]) -> Float[Tensor, "b d *g"]:
    """The last tokens, one for each cell of a grid, as a map."""
    return tokens[:, tokens.shape[1] - math.prod(grid) :].transpose(1, 2).unflatten(2, grid)


def positions_on(table: Float[Tensor, "1 n d"], known: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Learned or fixed positions of a grid, interpolated to another one ``[1, N, d]``."""
    if known == grid:
        return table
    cells = table.transpose(1, 2).unflatten(2, known)
    return F.interpolate(cells, size=list(grid), mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)
