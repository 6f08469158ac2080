"""A transformer over patches from MONAI's blocks, for any grid that the patch divides."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.base import Encoder, EncoderSettings, inflated, read_weights
from ctglip.models.weights.matching import fill

_TIMM_NAMES = (
    ("patch_embed.proj.", "embed."),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.linear1."),
    (".mlp.fc2.", ".mlp.linear2."),
    ("pos_embed", "positions"),
)


class ViTSettings(EncoderSettings):
    """A vision transformer (MONAI's blocks) over patches; its positions are interpolated to any grid. ``weights``: a
    file with the weights of a 2D ViT or MAE (timm's names), inflated in 3D, or ``timm:NAME``, which downloads."""

    name: Literal["vit"] = "vit"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 8
    image_size: int = 32
    dim: int = 192
    depth: int = 6
    heads: int = 6
    dropout: float = 0.0


class ViTEncoder(Encoder):
    """Patches, learned positions (interpolated to other grids than the one of ``image_size``), MONAI blocks.

    Args:
        settings: patch size, width, depth, heads.
        in_channels: channels of the images.
    """

    Settings = ViTSettings

    def __init__(self, settings: ViTSettings, in_channels: int) -> None:
        super().__init__()
        from monai.networks.blocks.transformerblock import TransformerBlock

        self.settings = settings
        dims, width = settings.spatial_dims, settings.dim
        kind = nn.Conv3d if dims == 3 else nn.Conv2d
        self.embed = kind(in_channels, width, settings.patch, settings.patch)
        side = settings.image_size // settings.patch
        self.positions = nn.Parameter(torch.randn(1, width, *[side] * dims) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, 4 * width, settings.heads, settings.dropout, qkv_bias=True)
            for _ in range(settings.depth)
        )
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI builds it also where there is no cross-attention
        self.norm = nn.LayerNorm(width)
        self.level_channels = (width, width)
        self.token_dim = width
        self.strides = ((settings.patch,) * dims, (settings.patch,) * dims)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Two levels of the same grid: the tokens after half of the blocks and after all."""
        x, grid = self._embedded(image)
        middle = x
        for index, block in enumerate(self.blocks):
            x = self.stage(block, x)
            if index == len(self.blocks) // 2 - 1:
                middle = x
        return tuple(tokens.transpose(1, 2).unflatten(2, grid) for tokens in (middle, self.norm(x)))

    def visible(self, image: Float[Tensor, "b c *s"], patches: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Tokens of some patches alone, as if the others were not there (masked modelling).

        Args:
            image: whole images.
            patches: which patches of the grid, counted row by row.
        """
        x, _ = self._embedded(image)
        x = x.gather(1, patches[..., None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = self.stage(block, x)
        return self.norm(x)

    def fill_from(self, source: str) -> float:
        """From weights with timm's names."""
        state = {}
        for name, value in read_weights(source).items():
            for old, new in _TIMM_NAMES:
                name = name.replace(old, new)
            state[name] = value
        return fill(self, state, source, self.settings.partial, inflated)

    def _embedded(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Patches with their positions ``[B, N, C]``, and their grid."""
        x = self.embed(image)
        grid = tuple(x.shape[2:])
        return (x + self._positions(grid)).flatten(2).transpose(1, 2), grid

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        if tuple(self.positions.shape[2:]) == grid:
            return self.positions
        mode = "trilinear" if len(grid) == 3 else "bilinear"
        return F.interpolate(self.positions, size=grid, mode=mode, align_corners=False)
