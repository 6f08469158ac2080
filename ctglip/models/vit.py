"""A vision transformer over patches, from MONAI's blocks, for any grid that the patch divides."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders import Encoder, VisionFeatures, ViTSettings, last_level


class ViTEncoder(Encoder):
    """Patches, learned positions (interpolated to other grids than the one of ``image_size``), MONAI blocks.

    Args:
        settings: patch size, width, depth, heads.
        in_channels: channels of the images.
    """

    def __init__(self, settings: ViTSettings, in_channels: int) -> None:
        super().__init__()
        from monai.networks.blocks.transformerblock import TransformerBlock

        dims, width = settings.spatial_dims, settings.dim
        self.patch = settings.patch
        kind = nn.Conv3d if dims == 3 else nn.Conv2d
        self.embed = kind(in_channels, width, settings.patch, settings.patch)
        side = settings.image_size // settings.patch
        self.positions = nn.Parameter(torch.randn(1, width, *[side] * dims) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, 4 * width, settings.heads, settings.dropout) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.level_channels = (width, width)
        self.token_dim = width
        self.strides = (settings.patch, settings.patch)

    def forward(self, image: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """Two levels of the same grid: the tokens after half of the blocks and after all."""
        bad = [size for size in image.shape[2:] if size % self.patch]
        if bad:
            raise ValueError(f"Image sides {tuple(image.shape[2:])} must be multiples of the patch {self.patch}.")
        x = self.embed(image)
        grid = tuple(x.shape[2:])
        x = (x + self._positions(grid)).flatten(2).transpose(1, 2)
        middle = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == len(self.blocks) // 2 - 1:
                middle = x
        return last_level(tuple(t.transpose(1, 2).unflatten(2, grid) for t in (middle, self.norm(x))))

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        if tuple(self.positions.shape[2:]) == grid:
            return self.positions
        mode = "trilinear" if len(grid) == 3 else "bilinear"
        return F.interpolate(self.positions, size=grid, mode=mode, align_corners=False)
