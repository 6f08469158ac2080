"""M3D-CLIP's image encoder: MONAI's ViT-B over patches of 4 slices (arXiv 2404.00578; Apache-2.0)."""

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
from ctglip.models.weights.matching import same_shape
from ctglip.models.weights.scheme import KeyScheme


class M3DClipSettings(PatchTransformerSettings):
    """M3D-CLIP's ViT-B.

    Attributes:
        patch: voxels of a patch: slices, rows, columns.
        image_size: of the image that its positions are of, likewise; they are interpolated to other images.
    """

    name: Literal["m3d_clip"] = "m3d_clip"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: tuple[int, int, int] = (4, 16, 16)
    image_size: tuple[int, int, int] = (32, 256, 256)
    dim: int = 768
    depth: int = 12
    heads: int = 12


class M3DClipEncoder(PatchTransformerEncoder):
    """Tokens of all patches, normalised; pooled: class token and mean of the patches."""

    Settings = M3DClipSettings
    scheme = KeyScheme(
        outer=("state_dict", "model"),
        drop=(r"language_encoder\..*", r"mm_.*_proj\..*", r"logit_scale", r".*cross_attn\..*"),
        root=("vision_encoder.", "vision_tower."),
        rename=(
            (r"^patch_embedding\.patch_embeddings\.1\.", "patch_embed.proj."),
            (r"^patch_embedding\.position_embeddings$", "positions"),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.linear([12])\.", r".mlp.fc\1."),
        ),
    )
    settings: M3DClipSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: M3DClipSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        sizes = (settings.dim, settings.depth, settings.heads)
        self.network = PatchTransformer(*sizes, settings.patch, 1e-5, bias=False)
        self.known = tuple(side // step for side, step in zip(settings.image_size, settings.patch, strict=True))
        cells = self.known[0] * self.known[1] * self.known[2]
        self.network.positions = nn.Parameter(torch.zeros(1, cells, settings.dim))
        self.strides = (self.turned(settings.patch),) * 2

    @staticmethod
    def fit(name: str, new: Tensor, mine: Tensor) -> Tensor | None:
        """The first layer is released as a matrix over a patch's voxels."""
        if name == "patch_embed.proj.weight" and new.shape == (len(mine), mine[0].numel()):
            return new.reshape(mine.shape)
        return same_shape(name, new, mine)

    def before_blocks(self, patches: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Patches have positions, which are interpolated to other grids; the class token has none."""
        network = self.network
        return with_first(patches + positions_on(network.positions, self.known, grid), network.cls_token), ()
