"""The transformer over patches of a scan that several released encoders share, under timm's names of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Pairs = Literal["halves", "neighbours"]
"""Which numbers of a head are turned together: the first of each half and so on, or each with its neighbour."""
RunStage = Callable[[nn.Module, Tensor], Tensor]


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
    """Sines and cosines of the angles that each token is turned by, ``[n, d]``, and which numbers are turned."""

    sin: Tensor
    cos: Tensor
    pairs: Pairs

    def __call__(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        """Queries or keys turned by their positions, in float32; the first ones (classes, registers) are not."""
        start = x.shape[2] - len(self.sin)
        first, rest = x[:, :, :start], x[:, :, start:].float()
        if self.pairs == "halves":
            low, high = rest.chunk(2, dim=-1)
            other = torch.cat([-high, low], dim=-1)
        else:
            low, high = rest.unflatten(-1, (-1, 2)).unbind(-1)
            other = torch.stack([-high, low], dim=-1).flatten(-2)
        return torch.cat([first, (rest * self.cos + other * self.sin).to(x.dtype)], dim=2)


class AxialRotation(nn.Module):
    """Rotary positions along three axes (DINOv3, arXiv 2508.10104, in 3D): coordinates from -1 to 1, one third of the
    angles for each axis.

    Args:
        head_dim: width of an attention head, a multiple of 6.
        base: of the geometric row of periods.
        pairs: which numbers are turned together.
    """

    periods: Tensor

    def __init__(self, head_dim: int, base: float, pairs: Pairs = "halves") -> None:
        super().__init__()
        self.pairs: Pairs = pairs
        if head_dim % 6:
            raise ValueError(f"heads of width {head_dim} cannot be turned along three axes (6 divides it not)")
        powers = 2 * torch.arange(head_dim // 6, dtype=torch.float32) / (head_dim // 3)
        self.register_buffer("periods", base**powers)

    def forward(self, grid: tuple[int, ...]) -> TokenRotation:
        """The angles of a grid's cells."""
        axes = [(torch.arange(n, device=self.periods.device) + 0.5) * 2 / n - 1 for n in grid]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
        angles = (2 * math.pi * position[:, :, None] / self.periods.float()).flatten(1)
        angles = angles.tile(2) if self.pairs == "halves" else angles.repeat_interleave(2, dim=1)
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


def middle_and_last(
    blocks: nn.ModuleList, x: Tensor, rotation: TokenRotation | None, run: RunStage, middle: int | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens after half of some blocks (or so many), and after all; a block may be run with checkpointing."""
    half = x
    for number, block in enumerate(blocks, 1):
        x = run(block, x) if rotation is None else run(_Turned(block, rotation), x)
        if number == (len(blocks) // 2 if middle is None else middle):
            half = x
    return half, x


class _Turned(nn.Module):
    """A block with its rotation, as a function of the tokens alone."""

    def __init__(self, block: nn.Module, rotation: TokenRotation) -> None:
        super().__init__()
        self.block, self.rotation = block, rotation

    def forward(self, x: Tensor) -> Tensor:
        """As the block."""
        return self.block(x, self.rotation)


def as_maps(tokens: Float[Tensor, "b n d"], grid: tuple[int, ...]) -> Float[Tensor, "b d *g"]:
    """The last tokens, one for each cell of a grid, as a map."""
    return tokens[:, tokens.shape[1] - math.prod(grid) :].transpose(1, 2).unflatten(2, grid)


class PatchTransformer(nn.Module):
    """A class token, registers where there are some, and patches through blocks, under timm's names.

    Args:
        width, depth, heads: of the transformer.
        patch: voxels of a patch.
        eps: of the layer norms.
        scale: start of the layer scale; None: none.
        bias: queries, keys and values have one.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: tuple[int, int, int],
        eps: float,
        scale: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(TokenBlock(width, heads, scale, eps, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)

    def with_first(self, tokens: Float[Tensor, "b n d"], *more: Tensor) -> Float[Tensor, "b m d"]:
        """The class token, and others, before the patches."""
        return torch.cat([one.expand(len(tokens), -1, -1) for one in (self.cls_token, *more)] + [tokens], dim=1)


def positions_on(table: Float[Tensor, "1 n d"], known: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Learned or fixed positions of a grid, interpolated to another one ``[1, N, d]``."""
    if known == grid:
        return table
    cells = table.transpose(1, 2).unflatten(2, known)
    return F.interpolate(cells, size=list(grid), mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)
