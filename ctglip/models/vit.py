"""Transformers over patches, from MONAI's blocks: ViT for any grid that the patch divides, and Swin."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders import Encoder, SwinSettings, ViTSettings, uniform


class ViTEncoder(Encoder):
    """Patches, learned positions (interpolated to other grids than the one of ``image_size``), MONAI blocks.

    Args:
        settings: patch size, width, depth, heads.
        in_channels: channels of the images.
    """

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
        self.strides = (uniform(settings.patch, dims), uniform(settings.patch, dims))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Two levels of the same grid: the tokens after half of the blocks and after all."""
        x, grid = self._embedded(image)
        middle = x
        for index, block in enumerate(self.blocks):
            x = self.stage(block, x)
            if index == len(self.blocks) // 2 - 1:
                middle = x
        return tuple(tokens.transpose(1, 2).unflatten(2, grid) for tokens in (middle, self.norm(x)))

    def visible(self, image: Float[Tensor, "b c *s"], kept: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Tokens of some patches alone, as if the others were not there (masked modelling).

        Args:
            image: whole images.
            kept: which patches of the grid, counted row by row.
        """
        x, _ = self._embedded(image)
        x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = self.stage(block, x)
        return self.norm(x)

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


class SwinEncoder(Encoder):
    """MONAI's Swin transformer: the embedded patches and four stages, normalised.

    Args:
        settings: widths, depths, window.
        in_channels: channels of the images.
    """

    def __init__(self, settings: SwinSettings, in_channels: int) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.settings = settings
        dims = settings.spatial_dims
        self.net = SwinTransformer(
            in_chans=in_channels,
            embed_dim=settings.dim,
            window_size=uniform(settings.window, dims),
            patch_size=uniform(settings.patch, dims),
            depths=settings.depths,
            num_heads=settings.heads,
            spatial_dims=dims,
            use_checkpoint=settings.checkpointing,
        )
        self.level_channels = tuple(settings.dim * 2**level for level in range(5))
        self.token_dim = self.level_channels[-1]
        self.strides = tuple(uniform(settings.patch * 2**level, dims) for level in range(5))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The embedded patches and the four stages."""
        return tuple(self.net(image))
