"""VoxelFM: DINOv2 in three dimensions with rotary positions, trained on CT (Apache-2.0)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.patch_transformer import (
    PatchTransformer,
    PatchTransformerEncoder,
    PatchTransformerSettings,
)
from ctglip.models.encoders.tokens import AxialRotation, with_first
from ctglip.models.weights.scheme import KeyScheme


class VoxelFMSettings(PatchTransformerSettings):
    """VoxelFM's ViT-B; ``config.yaml`` beside the released weights says the sizes.

    Attributes:
        patch: sides of a patch.
        registers: tokens of no patch.
    """

    name: Literal["voxelfm"] = "voxelfm"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 14
    dim: int = 864
    depth: int = 12
    heads: int = 12
    registers: int = 4


class VoxelFMEncoder(PatchTransformerEncoder):
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
        self.strides = (patch,) * 2

    def before_blocks(self, patches: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Each block turns queries and keys by their positions."""
        network = self.network
        return with_first(patches, network.cls_token, network.register_tokens), (network.rope_embed(grid),)
