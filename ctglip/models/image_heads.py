"""Heads for whole images: of the mean token, or token by token, so that an answer is the sum of what tokens add to it.

A head that was trained on the mean token says nothing reliable of a single one. Here every token goes through the head
itself and the image's vector is the direction of their (weighted) mean: then what each token adds to any similarity is
exact, not an approximation. Tokens are not made unit vectors (ASG's inside of regions are): those that say nothing
would have to cancel each other out, and would drown the few that say something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import OneOf, Settings
from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.heads import ProjectionHead

_WAVES = (1, 2)


def joined_levels(levels: Sequence[Float[Tensor, "b _ *s"]]) -> Float[Tensor, "b c *s"]:
    """Maps of several levels as one, on the finest one's grid (linear interpolation)."""
    if len(levels) == 1:
        return levels[0]
    finest = max((tuple(level.shape[2:]) for level in levels), key=lambda grid: grid[0])
    mode = "trilinear" if len(finest) == 3 else "bilinear"
    resampled = [
        level if tuple(level.shape[2:]) == finest else F.interpolate(level, size=list(finest), mode=mode)
        for level in levels
    ]
    return torch.cat(resampled, dim=1)


class ImageHeadSettings(Settings):
    """What all heads for whole images have: a ``name``."""

    name: str


class PooledHeadSettings(ImageHeadSettings):
    """The head reads the mean of the tokens."""

    name: Literal["pooled"] = "pooled"  # pyright: ignore[reportIncompatibleVariableOverride]


class TokenHeadSettings(ImageHeadSettings):
    """The head reads each token.

    Attributes:
        levels: levels of the encoder whose maps are the tokens, on the grid of the finest.
        pooling: how tokens become one vector: ``mean``; ``peak``: for each direction of the common space a soft maximum
            over tokens, so that a small lesion is not lost among them; ``mean_peak``: the mean of both.
    """

    name: Literal["tokens"] = "tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
    levels: tuple[int, ...] = (-1,)
    pooling: Literal["mean", "peak", "mean_peak"] = "mean"


class PooledHead(nn.Module):
    """Projects the mean of an image's tokens.

    Args:
        settings: none but its name.
        encoder: whose tokens these are.
        head: builds a projection of vectors of a width.

    Attributes:
        dim: width of an image's feature.
    """

    Settings = PooledHeadSettings

    def __init__(self, settings: PooledHeadSettings, encoder: Encoder, head: Callable[[int], ProjectionHead]) -> None:  # noqa: ARG002
        super().__init__()
        self.dim = encoder.pooled_dim
        self.head = head(self.dim)

    def select(self, vision: VisionFeatures) -> Float[Tensor, "b c"]:
        """The part of the encoder's features that the head reads."""
        return vision.pooled

    def features(self, selected: Float[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        """One raw feature for each image."""
        return selected

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Unit vectors of features."""
        return self.head(features)

    def contributions(self, vision: VisionFeatures) -> Float[Tensor, "b e *s"]:
        """Each token as if it were a whole image: what it adds to the image's vector is not known.

        Where the pooled vector is wider than a token, it ends with the mean of the tokens, and the token stands there.

        Raises:
            ModelError: code ``maps``: the encoder pools its tokens into something narrower.
        """
        rest = vision.pooled.shape[1] - vision.tokens.shape[2]
        if rest < 0:
            raise ModelError(
                "This encoder's pooled vector holds no mean of its tokens, so there is no map.", code="maps"
            )
        first = vision.pooled[:, None, :rest].expand(-1, vision.tokens.shape[1], -1)
        return self.head(torch.cat([first, vision.tokens], dim=2)).transpose(1, 2).unflatten(2, vision.grid)


class TokenHead(nn.Module):
    """A projection of single tokens that know where they lie.

    A convolution hardly knows the side it is on, and the reports name it: the token's position in the image (sines and
    cosines) is added to it first.

    Args:
        settings: which tokens, and how they become one vector.
        encoder: whose tokens these are.
        head: builds a projection of vectors of a width.

    Attributes:
        dim: width of an image's feature.
    """

    Settings = TokenHeadSettings

    def __init__(self, settings: TokenHeadSettings, encoder: Encoder, head: Callable[[int], ProjectionHead]) -> None:
        super().__init__()
        self.settings = settings
        self.head = head(sum(encoder.level_channels[level] for level in settings.levels))
        self.dim = self.head.out_dim
        dims = encoder.settings.spatial_dims
        self.position = nn.Linear(dims * (1 + 2 * len(_WAVES)), self.head.in_dim)
        if settings.pooling != "mean":
            self.sharpness = nn.Parameter(torch.ones(self.dim))

    def select(self, vision: VisionFeatures) -> Float[Tensor, "b c *s"]:
        """The map of the tokens that the head reads."""
        return joined_levels([vision.levels[level] for level in self.settings.levels])

    def features(self, selected: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e"]:
        """One vector for each image, not of length one: the mean of its tokens in the common space."""
        return self._weighted(selected).flatten(2).mean(-1)

    def forward(self, features: Float[Tensor, "b e"]) -> Float[Tensor, "b e"]:
        """Unit vectors of features."""
        return F.normalize(features, dim=-1)

    def contributions(self, vision: VisionFeatures) -> Float[Tensor, "b e *s"]:
        """What each token adds to the image's unit vector, times the number of tokens: the mean is that vector."""
        added = self._weighted(self.select(vision))
        length = added.flatten(2).mean(-1).norm(dim=1).clamp(min=1e-12)
        return added / length.view(-1, *[1] * (added.dim() - 1))

    def _weighted(self, tokens: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e *s"]:
        """Each token in the common space, times its weight (of mean 1 over tokens)."""
        grid = tuple(tokens.shape[2:])
        located = tokens.flatten(2).transpose(1, 2) + self.position(positions(grid).to(tokens))
        found = self.head.unscaled(located).transpose(1, 2)
        if self.settings.pooling != "mean":
            weights = (found * self.sharpness[None, :, None]).softmax(-1) * found.shape[-1]
            found = found * (weights if self.settings.pooling == "peak" else (1 + weights) / 2)
        return found.unflatten(2, grid)


IMAGE_HEADS: dict[str, type[Any]] = {"pooled": PooledHead, "tokens": TokenHead}
"""Heads for whole images by the ``name`` of their settings."""

AnyImageHeadSettings = Annotated[ImageHeadSettings | None, OneOf(IMAGE_HEADS, optional=True)]


def positions(grid: tuple[int, ...]) -> Float[Tensor, "n f"]:
    """The middle of each cell along each axis, -1 to 1, with sines and cosines of it."""
    axes = [(torch.arange(cells) + 0.5) * 2 / cells - 1 for cells in grid]
    position = torch.cartesian_prod(*axes)
    waves = [turn(torch.pi * wave * position) for wave in _WAVES for turn in (torch.sin, torch.cos)]
    return torch.cat([position, *waves], dim=1)
