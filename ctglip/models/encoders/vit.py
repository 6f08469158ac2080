"""A transformer over patches from MONAI's blocks, for any grid that the patch divides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.base import Encoder, EncoderSettings, VisionFeatures, inflated, read_weights
from ctglip.models.encoders.tokens import AxialRotation, middle_and_last, monai_block, with_first
from ctglip.models.weights.matching import fill

_TIMM_NAMES = (
    ("patch_embed.proj.", "embed."),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.linear1."),
    (".mlp.fc2.", ".mlp.linear2."),
    ("pos_embed", "positions"),
    ("reg_token", "registers"),
)
Sides = int | tuple[int, ...]


class ViTSettings(EncoderSettings):
    """A vision transformer (MONAI's blocks) over patches. ``weights``: a file with the weights of a 2D ViT or MAE
    (timm's names), inflated in 3D, or ``timm:NAME``, which downloads.

    Attributes:
        patch: its edge, or that along each axis (fVLM's 16 x 16 x 32 voxels).
        image_size: edges of the images that the table of learned positions is for.
        dim, depth, heads: of the blocks.
        dropout: of attention and hidden layers.
        drop_path: chance that a sample skips the last block's branches; 0 at the first block (arXiv 1603.09382).
        positions: a ``learned`` table, interpolated to other grids; fixed sines and cosines along each axis (``sine``,
            MAE's); or queries and keys turned by their place along each axis (``rope``, in 3D as SPECTRE has it).
        rope_base: the longest period of ``rope``, in halves of an axis.
        class_token: a token that stands for the image.
        registers: further tokens without a place (arXiv 2309.16588).
        pooling: an image's vector: the mean of its patches, the class token, or both one after the other.
        patch_dropout: share of the patches that are not looked at in training (arXiv 2212.00794).
        eps: of layer norms.
    """

    name: Literal["vit"] = "vit"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: Sides = 8
    image_size: Sides = 32
    dim: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    positions: Literal["learned", "sine", "rope"] = "learned"
    rope_base: float = Field(default=1000.0, gt=1)
    class_token: bool = False
    registers: int = Field(default=0, ge=0)
    pooling: Literal["mean", "cls", "cls_mean"] = "mean"
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    eps: float = Field(default=1e-5, gt=0)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.positions == "rope" else {"rope_base": f"positions are {self.positions}"}
        if self.positions != "learned":
            found["image_size"] = f"positions are {self.positions}"
        return {**super().unread(), **found}

    def sides(self, name: Literal["patch", "image_size"]) -> tuple[int, ...]:
        """A length along each axis.

        Raises:
            ValueError: one for each axis is wanted.
        """
        value = getattr(self, name)
        sides = (value,) * self.spatial_dims if isinstance(value, int) else tuple(value)
        if len(sides) != self.spatial_dims:
            raise ValueError(f"{name} {value} has not one side for each of {self.spatial_dims} axes")
        return sides


class ViTEncoder(Encoder):
    """Patches and, where wanted, a class token and registers before them, through MONAI's blocks.

    Args:
        settings: patch size, width, depth, heads.
        in_channels: channels of the images.

    Raises:
        ValueError: settings that do not fit each other.
    """

    Settings = ViTSettings

    def __init__(self, settings: ViTSettings, in_channels: int) -> None:
        super().__init__()
        if settings.pooling != "mean" and not settings.class_token:
            raise ValueError(f"pooling {settings.pooling} needs class_token: true")
        self.settings = self._vit = settings
        dims, width, patch = settings.spatial_dims, settings.dim, settings.sides("patch")
        kind = nn.Conv3d if dims == 3 else nn.Conv2d
        self.embed = kind(in_channels, width, patch, patch)  # pyright: ignore[reportArgumentType]
        if settings.positions == "learned":
            grid = [side // step for side, step in zip(settings.sides("image_size"), patch, strict=True)]
            self.positions = nn.Parameter(torch.randn(1, width, *grid) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if settings.class_token else None
        self.registers = None
        if settings.registers:
            self.registers = nn.Parameter(torch.randn(1, settings.registers, width) * 0.02)
        self.rope = None
        if settings.positions == "rope":
            self.rope = AxialRotation(width // settings.heads, settings.rope_base, dims, saved=False)
        self.blocks = _blocks(settings)
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = settings.eps
        self.level_channels = (width, width)
        self.token_dim = width
        self.strides = (patch, patch)

    @property
    def pooled_dim(self) -> int:
        """Width of an image's vector."""
        return self.token_dim * (2 if self._vit.pooling == "cls_mean" else 1)

    def forward(self, image: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """Features of a batch of images; see ``Encoder.forward``."""
        self.check_sides(image)
        levels, first, patches = self._levels(image)
        return VisionFeatures.of(levels, self._pooled(first, patches))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Two levels of the same grid: the tokens after half of the blocks and after all."""
        return self._levels(image)[0]

    def visible(self, image: Float[Tensor, "b c *s"], patches: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Tokens of some patches alone, as if the others were not there (masked modelling).

        Args:
            image: whole images.
            patches: which patches of the grid, counted row by row.
        """
        x, grid = self._embedded(image)
        return self._run(_chosen(x, patches), grid, patches)[1][:, self._prefix :]

    def fill_from(self, source: str) -> float:
        """From weights with timm's names. What a table of positions adds to the class token becomes part of it."""
        state = {}
        for name, value in read_weights(source).items():
            for old, new in _TIMM_NAMES:
                name = name.replace(old, new)
            state[name] = value
        table = state.get("positions")
        with_class = table is not None and table.dim() == 3 and math.isqrt(table.shape[1]) ** 2 != table.shape[1]
        if self.cls_token is not None and table is not None and with_class and "cls_token" in state:
            state["cls_token"] = state["cls_token"] + table[:, :1]
        return fill(self, state, source, self._vit.partial, inflated)

    @property
    def _prefix(self) -> int:
        """Tokens before the patches."""
        return int(self._vit.class_token) + self._vit.registers

    def _levels(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The levels, the normalised prefix, and the patches that were looked at."""
        x, grid = self._embedded(image)
        patches = None
        if self.training and self._vit.patch_dropout:
            count = max(1, round(x.shape[1] * (1 - self._vit.patch_dropout)))
            patches = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, :count]
            x = _chosen(x, patches)
        middle, last = self._run(x, grid, patches)
        parts = [tokens[:, self._prefix :] for tokens in (middle, last)]
        levels = parts if patches is None else [_scattered(part, patches, math.prod(grid)) for part in parts]
        maps = tuple(tokens.transpose(1, 2).unflatten(2, grid) for tokens in levels)
        return maps, last[:, : self._prefix], parts[-1]

    def _run(self, x: Tensor, grid: tuple[int, ...], patches: Tensor | None) -> tuple[Tensor, Tensor]:
        """All tokens after half of the blocks, and after all and the norm."""
        x = with_first(x, *(part for part in (self.cls_token, self.registers) if part is not None))
        rotation = None if self.rope is None else self.rope(grid, patches)
        middle, last = middle_and_last(self.blocks, x, self.stage, None, rotation)  # MONAI's blocks: context, mask
        return middle, self.norm(last)

    def _pooled(self, first: Tensor, patches: Tensor) -> Tensor:
        if self._vit.pooling == "mean":
            return patches.mean(1)
        whole = first[:, 0]
        return whole if self._vit.pooling == "cls" else torch.cat([whole, patches.mean(1)], dim=1)

    def _embedded(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Patches with their positions ``[B, N, C]``, and their grid."""
        x = self.embed(image)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        table = self.position_table(grid)
        if table is None:
            return x, grid
        return x + (table.to(x) if self._vit.positions == "sine" else table), grid

    def position_table(self, grid: tuple[int, ...]) -> Float[Tensor, "1 n c"] | None:
        """What is added to the patches of a grid; None where queries and keys are turned instead."""
        if self._vit.positions == "rope":
            return None
        if self._vit.positions == "sine":
            return _sines(grid, self.token_dim)
        table = self.positions
        if tuple(table.shape[2:]) != grid:
            mode = "trilinear" if len(grid) == 3 else "bilinear"
            table = F.interpolate(table, size=grid, mode=mode, align_corners=False)
        return table.flatten(2).transpose(1, 2)


def _blocks(settings: ViTSettings) -> nn.ModuleList:
    """MONAI's blocks; branches are skipped more often the later they are."""
    from torchvision.ops import StochasticDepth

    from ctglip.models.encoders.rotary import RotaryAttention

    width, blocks = settings.dim, nn.ModuleList()
    for index in range(settings.depth):
        block = monai_block(width, settings.heads, settings.dropout)
        if settings.positions == "rope":
            block.attn = RotaryAttention(width, settings.heads, settings.dropout, qkv_bias=True)
        share = settings.drop_path * index / max(settings.depth - 1, 1)
        if share:
            for branch, end in ((block.attn, "drop_output"), (block.mlp, "drop2")):
                setattr(branch, end, nn.Sequential(getattr(branch, end), StochasticDepth(share, "row")))
        blocks.append(block)
    return blocks


def _sines(grid: tuple[int, ...], width: int) -> Float[Tensor, "1 n c"]:
    """Fixed positions, MONAI's (in 2D MAE's)."""
    from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

    return build_sincos_position_embedding(list(grid), width, len(grid)).detach()


def _chosen(x: Float[Tensor, "b n c"], patches: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
    return x.gather(1, patches[..., None].expand(-1, -1, x.shape[2]))


def _scattered(x: Float[Tensor, "b k c"], patches: Int[Tensor, "b k"], count: int) -> Float[Tensor, "b n c"]:
    """Patches at their places; zero where none was looked at."""
    return x.new_zeros(len(x), count, x.shape[2]).scatter(1, patches[..., None].expand_as(x), x)
