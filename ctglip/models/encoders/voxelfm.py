"""VoxelFM: DINOv2 in three dimensions with rotary positions, trained on CT (Apache-2.0)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.encoders.tokens import AxialRotation, PatchTransformer, as_maps, middle_and_last, with_first
from ctglip.models.weights.scheme import KeyScheme


class VoxelFMSettings(ReleasedCtSettings):
    """VoxelFM's ViT-B; ``config.yaml`` beside the released weights says the sizes.

    Attributes:
        patch: sides of a patch.
        dim, depth, heads: of the transformer.
        registers: tokens of no patch.
    """

    name: Literal["voxelfm"] = "voxelfm"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 14
    dim: int = 864
    depth: int = 12
    heads: int = 12
    registers: int = 4


class VoxelFMEncoder(ReleasedEncoder):
    """Tokens of all patches, normalised; pooled: class token and mean of the patches."""

    Settings = VoxelFMSettings
    scheme = KeyScheme(
        outer=("teacher", "model"),
        strip=("module.", "backbone."),
        drop=(r"(?:dino_head|ibot_head|head)\..*",),
    )
    settings: VoxelFMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: VoxelFMSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        patch = (settings.patch, settings.patch, settings.patch)
        network = PatchTransformer(settings.dim, settings.depth, settings.heads, patch, 1e-5, 1e-5)
        network.register_tokens = nn.Parameter(torch.zeros(1, settings.registers, settings.dim))
        network.mask_token = nn.Parameter(torch.zeros(1, settings.dim), requires_grad=False)
        network.rope_embed = AxialRotation(settings.dim // settings.heads, 100.0, pairs="neighbours")
        self.network = network
        self.level_channels, self.token_dim = (settings.dim,) * 2, settings.dim
        self.strides = (patch,) * 2

    @property
    def pooled_dim(self) -> int:
        """The class token and the mean."""
        return 2 * self.settings.dim

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Two levels of one grid, after half of the blocks and after all."""
        network = self.network
        patches = network.patch_embed(image)
        grid = tuple(patches.shape[2:])
        x = with_first(patches.flatten(2).transpose(1, 2), network.cls_token, network.register_tokens)
        half, x = middle_and_last(network.blocks, x, self.stage, network.rope_embed(grid))
        x = network.norm(x)
        level = as_maps(x, grid)
        return (as_maps(half, grid), level), torch.cat([x[:, 0], level.flatten(2).mean(-1)], dim=1)
