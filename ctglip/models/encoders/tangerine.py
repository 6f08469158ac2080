"""TANGERINE: a ViT trained as a masked autoencoder on low-dose chest CT (weights CC-BY-NC-4.0)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.patch_transformer import (
    PatchTransformer,
    PatchTransformerEncoder,
    PatchTransformerSettings,
)
from ctglip.models.encoders.tokens import positions_on, with_first
from ctglip.models.weights.scheme import KeyScheme


class TangerineSettings(PatchTransformerSettings):
    """TANGERINE's ViT-L.

    Attributes:
        patch: sides of a patch.
        image_size: sides of the cube that its fixed positions are of; they are interpolated to other images.
    """

    name: Literal["tangerine"] = "tangerine"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 16
    image_size: int = 256
    dim: int = 1024
    depth: int = 24
    heads: int = 16


class TangerineEncoder(PatchTransformerEncoder):
    """Tokens of all patches, as they leave the last block; pooled: class token and mean of the patches."""

    Settings = TangerineSettings
    scheme = KeyScheme(
        outer=("model", "model_state", "state_dict", "model_state_dict"),
        strip=("module.", "model."),
        drop=(r"decoder_.*", r"mask_token", r"head\..*", r"fc_norm\..*"),
    )
    normalised = False
    settings: TangerineSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: TangerineSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        patch = (settings.patch, settings.patch, settings.patch)
        self.network = PatchTransformer(settings.dim, settings.depth, settings.heads, patch, 1e-6)
        cells = settings.image_size // settings.patch
        self.known = (cells,) * 3
        self.network.pos_embed = nn.Parameter(torch.zeros(1, 1 + cells**3, settings.dim))
        self.strides = (patch,) * 2

    def before_blocks(self, patches: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Positions of each axis are interpolated to other grids; the class token has one too."""
        network = self.network
        first, rest = network.pos_embed[:, :1], positions_on(network.pos_embed[:, 1:], self.known, grid)
        return with_first(patches, network.cls_token) + torch.cat([first, rest], dim=1), ()
