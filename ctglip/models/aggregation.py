"""One vector from several levels of an encoder, with channels as tokens (IMITATE, arXiv 2310.07355), in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings


class AggregationSettings(Settings):
    """The defaults are IMITATE's for the four stages of a ResNet and radiographs of 224 pixels.

    Attributes:
        keep: share of the channels of each level that are drawn, fine to coarse (of its mask ratios the rest to 1).
        grid: every channel is averaged to this grid; its cells are the token. For scans e.g. (8, 8, 4).
        heads: of the attention over tokens.
        tokens: length of the sequence; channels beyond it are left out, missing ones are zero tokens.
        draw: ``with`` or ``without`` replacement, anew for each step. The released code draws with replacement, so that
            a channel may be there twice; a mask has none twice.
        mode: ``channel`` draws from every level; ``scale`` takes the first channels of one level that is drawn.
        padding: zero tokens are attended to as in the released code, or are ``hidden``.
    """

    keep: tuple[float, ...] = (0.25, 0.15, 0.10, 0.10)
    grid: tuple[int, ...] = (16, 16)
    heads: int = Field(default=4, ge=1)
    tokens: int = Field(default=512, ge=1)
    draw: Literal["with", "without"] = "with"
    mode: Literal["channel", "scale"] = "channel"
    padding: Literal["attended", "hidden"] = "attended"


class MultiLevelAggregator(nn.Module):
    """Attention of a learned token over channels of all levels.

    Args:
        settings: which channels, how large a token.
        channels: of each level, fine to coarse.

    Raises:
        ValueError: a share for each level is wanted, in (0, 1].

    Attributes:
        dim: width of tokens and result: cells of the grid.
    """

    def __init__(self, settings: AggregationSettings, channels: Sequence[int]) -> None:
        super().__init__()
        if len(settings.keep) != len(channels) or not all(0 < share <= 1 for share in settings.keep):
            raise ValueError(f"keep {settings.keep} must be a share of 1 for each of {len(channels)} levels.")
        self.settings, self.channels = settings, tuple(channels)
        self.dim = math.prod(settings.grid)
        self.positions = nn.Parameter(torch.zeros(1, settings.tokens + 1, self.dim))
        self.cls = nn.Parameter(torch.zeros(1, 1, self.dim))
        nn.init.normal_(self.cls, std=0.02)
        self.attention = nn.MultiheadAttention(self.dim, settings.heads, batch_first=True)

    def draw(self, rng: np.random.Generator) -> Int[Tensor, " k"]:
        """Which channels are read, counted through all levels; -1 fills up to ``tokens``.

        The same for all images of a batch: what is drawn is part of the batch, so that micro-batches see the same.
        """
        settings = self.settings
        starts = np.cumsum([0, *self.channels])
        if settings.mode == "scale":
            level = int(rng.integers(len(self.channels)))
            chosen = np.arange(starts[level], starts[level + 1])
        else:
            counts = [max(1, int(share * count)) for share, count in zip(settings.keep, self.channels, strict=True)]
            each = zip(starts, self.channels, counts, strict=False)
            chosen = np.concatenate([start + self._some(count, size, rng) for start, count, size in each])
        chosen = chosen[: settings.tokens]
        return torch.from_numpy(np.pad(chosen, (0, settings.tokens - len(chosen)), constant_values=-1))

    def _some(self, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
        if self.settings.draw == "with":
            return rng.integers(0, count, size)
        return rng.choice(count, size, replace=False)

    def forward(self, levels: Sequence[Float[Tensor, "b c ..."]], chosen: Int[Tensor, " k"]) -> Float[Tensor, "b d"]:
        """What the learned token reads.

        Args:
            levels: feature maps, fine to coarse.
            chosen: channels as ``draw`` gives them: level by level.
        """
        tokens, start = [], 0
        for level, count in zip(levels, self.channels, strict=True):
            selected = chosen[(chosen >= start) & (chosen < start + count)] - start
            if len(selected):
                tokens.append(self._on_grid(level[:, selected]).flatten(2))
            start += count
        found = torch.cat(tokens, dim=1)
        found = F.pad(found, (0, 0, 0, len(chosen) - found.shape[1])) + self.positions[:, 1:]
        last = (self.cls + self.positions[:, :1]).expand(len(found), -1, -1)
        sequence = torch.cat([found, last], dim=1)
        hidden = None
        if self.settings.padding == "hidden":
            hidden = F.pad(chosen < 0, (0, 1)).expand(len(found), -1)
        read, _ = self.attention(last, sequence, sequence, key_padding_mask=hidden, need_weights=False)
        return (last + read)[:, 0]

    def _on_grid(self, maps: Float[Tensor, "b k ..."]) -> Tensor:
        pool = F.adaptive_avg_pool2d if len(self.settings.grid) == 2 else F.adaptive_avg_pool3d
        return pool(maps, self.settings.grid)  # pyright: ignore[reportArgumentType]
