"""fVLM's image encoder: a ViT-B over anisotropic patches of a chest CT, without a class token.

Shui et al., "Large-scale and fine-grained vision-language pre-training for enhanced CT image understanding" (ICLR
2025). The organ attention that reads its tokens is ``models.organ_attention``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.encoders.tokens import as_maps, monai_block, positions_on
from ctglip.models.weights.scheme import KeyScheme


class FVLMSettings(ReleasedCtSettings):
    """fVLM's ViT-B.

    Attributes:
        image_size: sides of the scan that its positions belong to, along slices, rows and columns; positions are
            interpolated to other sizes.
        patch: sides of a patch along the same axes.
        dim, depth, heads: width, blocks, attention heads.
        read: blocks after which tokens are read, counted from 0, beside the last.
        dropout: as released.
    """

    name: Literal["fvlm"] = "fvlm"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_size: tuple[int, int, int] = (112, 256, 352)
    patch: tuple[int, int, int] = (16, 16, 32)
    dim: int = 768
    depth: int = 12
    heads: int = 12
    read: tuple[int, ...] = (3, 6, 9)
    dropout: float = 0.1


class FVLMEncoder(ReleasedEncoder):
    """MONAI's blocks over patches of 16 x 16 x 32 voxels; levels are the tokens after some blocks and after all."""

    Settings = FVLMSettings
    network: FVLMTransformer
    settings: FVLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme = KeyScheme(
        outer=("model", "state_dict"),
        drop=(r"text_encoder\..*", r"text_proj\..*", r"vision_projs\..*", r"attention\..*", "query_tokens", "temp"),
        root=("visual_encoder.",),
    )

    def __init__(self, settings: FVLMSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        self.network = FVLMTransformer(settings)
        levels = len(settings.read) + 1
        self.level_channels, self.token_dim = (settings.dim,) * levels, settings.dim
        self.strides = (self.turned(settings.patch),) * levels

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens after the blocks that are read, and after the last with its norm."""
        net = self.network
        x, grid = net.embedded(image)
        found = []
        for index, block in enumerate(net.blocks):
            x = self.stage(block, x)
            if index in self.settings.read:
                found.append(x)
        found.append(net.norm(x))
        return tuple(as_maps(tokens, grid) for tokens in found), None


class FVLMTransformer(nn.Module):
    """The parts of fVLM's ViT under the released names.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: FVLMSettings) -> None:
        super().__init__()
        width = settings.dim
        self.patch_embedding = PatchesWithPositions(settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(monai_block(width, settings.heads, settings.dropout) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width)

    def embedded(self, image: Float[Tensor, "b 1 *s"]) -> tuple[Float[Tensor, "b n c"], tuple[int, ...]]:
        """Patches with their positions, and their grid."""
        x, grid = self.patch_embedding(image)
        return self.dropout(x), grid


class PatchesWithPositions(nn.Module):
    """Patches, and a learned position for each.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: FVLMSettings) -> None:
        super().__init__()
        self.grid = tuple(side // step for side, step in zip(settings.image_size, settings.patch, strict=True))
        self.patch_embeddings = nn.Conv3d(1, settings.dim, settings.patch, settings.patch)
        self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(self.grid), settings.dim))
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, image: Float[Tensor, "b 1 *s"]) -> tuple[Float[Tensor, "b n c"], tuple[int, ...]]:
        """Patches with their positions, interpolated to other grids, and their grid."""
        x = self.patch_embeddings(image)
        grid = tuple(x.shape[2:])
        return x.flatten(2).transpose(1, 2) + positions_on(self.position_embeddings, self.grid, grid), grid
