"""Learned queries that read an image's tokens, each a vector to compare with sentences: PLACE's Visual Pathology
Observation Extractor (re-implementation from the abstract, arXiv 2506.10573; number, depth and positions are this
project's own).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.models.decoders import QueryDecoder
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.heads import ProjectionHead

_OCTAVES = 4


class ResamplerSettings(Settings):
    """How queries read images.

    Attributes:
        queries: vectors of each image.
        layers, heads: of the query decoder.
        dim: width of queries and tokens in it.
        levels: levels of the encoder whose tokens are read, all together.
        dropout: in the decoder.
    """

    queries: int = 16
    layers: int = 2
    heads: int = 4
    dim: int = 128
    levels: tuple[int, ...] = (-1,)
    dropout: float = 0.0


@dataclass(frozen=True)
class Resampled:
    """What the queries read.

    Attributes:
        tokens: one vector for each query.
        attention: for each level that was read, the share of each query's attention (last layer) at each of its voxels;
            all levels together sum to one.
    """

    tokens: Float[Tensor, "b q d"]
    attention: tuple[Float[Tensor, "b q *s"], ...]


class Resampler(nn.Module):
    """Queries over the tokens of one level or several, with positions, and the heads into a space with sentences.

    Args:
        settings: queries, decoder, levels.
        encoder: whose tokens these are.
        embedding_dim: width of the common space.
        text_dim: width of the text embeddings that come in.
    """

    def __init__(self, settings: ResamplerSettings, encoder: Encoder, embedding_dim: int, text_dim: int) -> None:
        super().__init__()
        self.settings = settings
        widths = [encoder.level_channels[level] for level in settings.levels]
        dims = encoder.settings.spatial_dims
        self.token_readers = nn.ModuleList(TokenReader(width, settings.dim, dims) for width in widths)
        self.queries = nn.Embedding(settings.queries, settings.dim)
        self.decoder = QueryDecoder(
            settings.dim, settings.layers, settings.heads, 4 * settings.dim, dropout=settings.dropout
        )
        self.visual_head = ProjectionHead(settings.dim, embedding_dim)
        self.textual_head = ProjectionHead(text_dim, embedding_dim)

    def forward(self, vision: VisionFeatures) -> Resampled:
        """What the queries read in images."""
        maps = [vision.levels[level] for level in self.settings.levels]
        tokens = torch.cat([read(each) for read, each in zip(self.token_readers, maps, strict=True)], dim=1)
        found, attention = self.decoder(self.queries.weight.expand(len(tokens), -1, -1), tokens)
        parts = attention.split([math.prod(each.shape[2:]) for each in maps], dim=2)
        return Resampled(found, tuple(p.unflatten(2, each.shape[2:]) for p, each in zip(parts, maps, strict=True)))

    def visual(self, tokens: Float[Tensor, "b q d"]) -> Float[Tensor, "b q e"]:
        """Query tokens as unit vectors that are compared with sentences."""
        return self.visual_head(tokens)

    def textual(self, embeddings: Float[Tensor, "*n t"]) -> Float[Tensor, "*n e"]:
        """Raw text embeddings of sentences as unit vectors that are compared with query tokens."""
        return self.textual_head(embeddings.to(self.queries.weight.dtype))


class TokenReader(nn.Module):
    """A level's voxels as tokens of a width, each with its position.

    Args:
        channels: of the level.
        dim: of the tokens.
        dims: spatial dimensions.
    """

    def __init__(self, channels: int, dim: int, dims: int) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, dim))
        self.position = nn.Linear(2 * _OCTAVES * dims, dim, bias=False)

    def forward(self, level: Float[Tensor, "b c *s"]) -> Float[Tensor, "b n d"]:
        """Tokens, in the order of the flattened grid."""
        tokens = self.content(level.flatten(2).transpose(1, 2))
        return tokens + self.position(waves(tuple(level.shape[2:]), level.device).to(tokens.dtype))


def waves(grid: tuple[int, ...], device: torch.device | None = None) -> Float[Tensor, "n f"]:
    """Sines and cosines of each voxel's position (0 to 1 along each axis), at 1, 2, 4 and 8 half turns."""
    axes = [(torch.arange(side, device=device) + 0.5) / side for side in grid]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    turns = math.pi * 2 ** torch.arange(_OCTAVES, device=device)
    angles = (positions[..., None] * turns).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
