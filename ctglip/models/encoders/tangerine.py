"""TANGERINE: a ViT trained as a masked autoencoder on low-dose chest CT (weights CC-BY-NC-4.0)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.encoders.tokens import PatchTransformer, as_maps, middle_and_last, positions_on, with_first
from ctglip.models.weights.scheme import KeyScheme


class TangerineSettings(ReleasedCtSettings):
    """TANGERINE's ViT-L.

    Attributes:
        patch: sides of a patch.
        image_size: sides of the cube that its fixed positions are of; they are interpolated to other images.
        dim, depth, heads: of the transformer.
    """

    name: Literal["tangerine"] = "tangerine"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 16
    image_size: int = 256
    dim: int = 1024
    depth: int = 24
    heads: int = 16


class TangerineEncoder(ReleasedEncoder):
    """Tokens of all patches, as they leave the last block; pooled: class token and mean of the patches."""

    Settings = TangerineSettings
    scheme = KeyScheme(
        outer=("model", "model_state", "state_dict", "model_state_dict"),
        strip=("module.", "model."),
        drop=(r"decoder_.*", r"mask_token", r"head\..*", r"fc_norm\..*"),
    )
    settings: TangerineSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: TangerineSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        patch = (settings.patch, settings.patch, settings.patch)
        self.network = PatchTransformer(settings.dim, settings.depth, settings.heads, patch, 1e-6)
        cells = settings.image_size // settings.patch
        self.known = (cells,) * 3
        self.network.pos_embed = nn.Parameter(torch.zeros(1, 1 + cells**3, settings.dim))
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
        first, rest = network.pos_embed[:, :1], positions_on(network.pos_embed[:, 1:], self.known, grid)
        x = with_first(patches.flatten(2).transpose(1, 2), network.cls_token) + torch.cat([first, rest], dim=1)
        half, x = middle_and_last(network.blocks, x, self.stage)
        return (as_maps(half, grid), as_maps(x, grid)), torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=1)
