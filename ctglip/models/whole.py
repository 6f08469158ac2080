"""Whole images read token by token, so that an answer is the sum of what its tokens add to it.

A head that was trained on the mean token says nothing reliable of a single one. Here every token goes through the head
itself and the image's vector is the direction of their (weighted) mean: then what each token adds to any similarity is
exact, not an approximation. Tokens are not made unit vectors (ASG's inside of regions are): those that say nothing
would have to cancel each other out, and would drown the few that say something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.heads import ProjectionHead

TokenPooling = Literal["mean", "peak", "mean_peak"]
"""``mean``; ``peak``: for each direction of the common space a soft maximum over tokens, so that a small lesion is not
lost among them; ``mean_peak``: the mean of both."""
_WAVES = (1, 2)


def joined_levels(levels: Sequence[Float[Tensor, "b _ *s"]]) -> Float[Tensor, "b c *s"]:
    """Maps of several levels as one, on the finest one's grid (linear interpolation)."""
    if len(levels) == 1:
        return levels[0]
    finest = max((tuple(level.shape[2:]) for level in levels), key=lambda grid: grid[0])
    mode = "trilinear" if len(finest) == 3 else "bilinear"
    laid = [
        level if tuple(level.shape[2:]) == finest else F.interpolate(level, size=list(finest), mode=mode)
        for level in levels
    ]
    return torch.cat(laid, dim=1)


class TokenHead(nn.Module):
    """A projection of single tokens that know where they lie.

    A convolution hardly knows the side it is on, and the reports name it: the token's place (sines and cosines of its
    position in the image) is added to it first.

    Args:
        head: projects each token.
        dims: axes of the images.
        pooling: how tokens become one vector.
    """

    def __init__(self, head: ProjectionHead, dims: int, pooling: TokenPooling) -> None:
        super().__init__()
        self.head, self.pooling = head, pooling
        self.position = nn.Linear(dims * (1 + 2 * len(_WAVES)), head.in_dim)
        if pooling != "mean":
            self.sharpness = nn.Parameter(torch.ones(head.out_dim))

    def forward(self, tokens: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e"]:
        """One vector for each image, not of length one."""
        return self._weighted(tokens).flatten(2).mean(-1)

    def parts(self, tokens: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e *s"]:
        """What each token adds to the image's unit vector, times the number of tokens: the mean is that vector."""
        added = self._weighted(tokens)
        length = added.flatten(2).mean(-1).norm(dim=1).clamp(min=1e-12)
        return added / length.view(-1, *[1] * (added.dim() - 1))

    def _weighted(self, tokens: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e *s"]:
        """Each token in the common space, times its weight (of mean 1 over tokens)."""
        grid = tuple(tokens.shape[2:])
        placed = tokens.flatten(2).transpose(1, 2) + self.position(positions(grid).to(tokens))
        found = self.head.unscaled(placed).transpose(1, 2)
        if self.pooling != "mean":
            weights = (found * self.sharpness[None, :, None]).softmax(-1) * found.shape[-1]
            found = found * (weights if self.pooling == "peak" else (1 + weights) / 2)
        return found.unflatten(2, grid)


def positions(grid: tuple[int, ...]) -> Float[Tensor, "n f"]:
    """The middle of each cell along each axis, -1 to 1, with sines and cosines of it."""
    axes = [(torch.arange(cells) + 0.5) * 2 / cells - 1 for cells in grid]
    position = torch.cartesian_prod(*axes)
    waves = [turn(torch.pi * wave * position) for wave in _WAVES for turn in (torch.sin, torch.cos)]
    return torch.cat([position, *waves], dim=1)
