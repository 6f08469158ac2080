"""COLIPRI's image encoder: Primus-M, from dynamic_network_architectures (MIT)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.encoders.tokens import as_maps
from ctglip.models.weights.scheme import KeyScheme
from ctglip.resources import require


class ColipriSettings(ReleasedCtSettings):
    """COLIPRI's Primus-M.

    Attributes:
        patch: sides of a patch.
        image_size: sides of the cube that it was trained on; rotary positions of other images are scaled to it.
        dim, depth, heads: of the transformer.
        embedding: width of the space that images and texts share.
        drop_path: share of blocks that are left out in training.
    """

    name: Literal["colipri"] = "colipri"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 8
    image_size: int = 192
    dim: int = 864
    depth: int = 16
    heads: int = 12
    embedding: int = 768
    drop_path: float = 0.2


class ColipriEncoder(ReleasedEncoder):
    """Two levels of one grid: the transformer's tokens, and these in the space that texts share.

    Pooled: the mean of the projected tokens looks at all of them.
    """

    Settings = ColipriSettings
    scheme = KeyScheme(
        drop=(r"text_encoder\..*", r"softmax_temperature", r".*up_projection\..*"), root=("image_encoder.",)
    )
    settings: ColipriSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: ColipriSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        primus = require("dynamic_network_architectures.architectures.primus", extra="weights")
        patch = (settings.patch,) * 3
        backbone = primus.Primus(
            1, settings.dim, patch, 1, settings.depth, settings.heads, (settings.image_size,) * 3,
            use_abs_pos_embed=False, drop_path_rate=settings.drop_path, init_values=0.1, scale_attn_inner=True,
        )  # fmt: skip
        backbone.up_projection = nn.Identity()
        self.network = nn.ModuleDict(
            {
                "backbone": backbone,
                "projector": nn.Conv3d(settings.dim, settings.embedding, 1),
                "pooler": AttentionPooler(settings.embedding, settings.heads),
            }
        )
        self.level_channels, self.token_dim = (settings.dim, settings.embedding), settings.embedding
        self.strides = (patch,) * 2

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens of the transformer and of the common space, and the pooled vector (of any length)."""
        backbone = self.network["backbone"]
        patches = backbone.down_projection(image)
        grid = tuple(patches.shape[2:])
        x = patches.flatten(2).transpose(1, 2)
        backbone.eva.rope.update_feat_shape(list(grid))
        rotation = backbone.eva.rope.get_embed()
        for block in backbone.eva.blocks:
            x = self.stage(block, x, rotation)
        level = as_maps(backbone.eva.norm(x), grid)
        projected = self.network["projector"](level).flatten(2).transpose(1, 2)
        pooler = self.network["pooler"]
        return (level, as_maps(pooler.single(projected), grid)), pooler(projected)


class AttentionPooler(nn.Module):
    """Attention pooling whose query is the mean of the tokens.

    Args:
        width: of the tokens.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = JoinedProjections(width)

    def forward(self, x: Tensor) -> Tensor:
        """One vector for each image."""
        query, key, value = (
            self.attn.part(number, tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for number, tokens in enumerate((x.mean(1, keepdim=True), x, x))
        )
        found = F.scaled_dot_product_attention(query, key, value)
        return self.attn.out_proj(found.transpose(1, 2).flatten(1))

    def single(self, x: Tensor) -> Tensor:
        """What each token would give if it were all that is looked at."""
        return self.attn.out_proj(self.attn.part(2, x))


class JoinedProjections(nn.Module):
    """Projections of an attention under the names of PyTorch's, of which each part stays an ordinary layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def part(self, number: int, x: Tensor) -> Tensor:
        """Queries (0), keys (1) or values (2)."""
        return F.linear(x, self.in_proj_weight.chunk(3)[number], self.in_proj_bias.chunk(3)[number])
