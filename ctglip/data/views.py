"""Parts and views of images at random places: drawn from a generator, so that a seed and a step decide them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ctglip.config import Settings, Share
from ctglip.errors import ConfigError

_STRETCH = math.log(4 / 3)


class ViewSettings(Settings):
    """Views of an image that a student and its teacher compare (DINO's multi-crop, arXiv 2104.14294; its numbers).

    Attributes:
        global_size: sides of the two views that both see.
        global_share: the least and the largest share of the image's area or volume in one.
        local_size, local_share: the same of the views that the student alone sees.
        local_views: how many these are.
        contrast: deviation of the factor and of the shift of a view's values.
        flip: share of views that are mirrored along each axis. It makes left and right one (DINO's 0.5).
    """

    global_size: int | tuple[int, ...] = 224
    global_share: tuple[Share, Share] = (0.4, 1.0)
    local_size: int | tuple[int, ...] = 96
    local_share: tuple[Share, Share] = (0.05, 0.4)
    local_views: int = Field(default=8, ge=0)
    contrast: float = Field(default=0.1, ge=0)
    flip: Share = 0.0

    def sides(self, size: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
        """A size along each of so many axes.

        Raises:
            ConfigError: code ``objective``: it has another number of axes.
        """
        sides = (size,) * dims if isinstance(size, int) else size
        if len(sides) != dims:
            raise ConfigError(
                f"objective.views has a size of {sides}, and images have {dims} axes.", code="objective",
                fix="Name a side for each axis, or one number.",
            )  # fmt: skip
        return sides


def random_part(
    image: Float[np.ndarray, "c ..."], sides: Sequence[int], rng: np.random.Generator
) -> Float[np.ndarray, "c ..."]:
    """A part of an image at a place that is drawn.

    Args:
        image: channels first.
        sides: of the part along each axis.
        rng: draws the place.

    Raises:
        ConfigError: code ``objective``: the part is larger than the image.
    """
    shape = image.shape[1:]
    if len(sides) != len(shape) or any(side > there for side, there in zip(sides, shape, strict=True)):
        raise ConfigError(
            f"objective.part is {tuple(sides)}, and images have {shape}.",
            code="objective",
            fix="Choose sides that fit into data.input.grid (of radiographs data.size).",
        )
    start = [int(rng.integers(0, there - side + 1)) for side, there in zip(sides, shape, strict=True)]
    return image[(slice(None), *(slice(low, low + side) for low, side in zip(start, sides, strict=True)))]


def random_view(
    image: Float[np.ndarray, "c ..."],
    sides: tuple[int, ...],
    share: tuple[float, float],
    settings: ViewSettings,
    rng: np.random.Generator,
) -> Float[Tensor, "c ..."]:
    """A part of an image, of a size and shape that are drawn, on a grid of its own, mirrored and with other values.

    Args:
        image: channels first.
        sides: of the grid.
        share: the least and the largest share of the image in the part.
        settings: how far values are changed, and how often a view is mirrored.
        rng: draws all of it.
    """
    shape = image.shape[1:]
    edge = rng.uniform(*share) ** (1 / len(shape))
    stretch = rng.uniform(-_STRETCH / 2, _STRETCH / 2, len(shape))
    edges = np.exp(stretch - stretch.mean()) * edge * np.array(shape)
    part = random_part(image, [min(max(round(side), 1), n) for side, n in zip(edges.tolist(), shape, strict=True)], rng)
    mirrored = [axis for axis, drawn in enumerate(rng.random(len(shape)), 1) if drawn < settings.flip]
    factor, shift = rng.normal([1.0, 0.0], settings.contrast)
    values = torch.from_numpy(np.flip(part, tuple(mirrored)).astype(np.float32))[None]
    # what is shrunk is smoothed, in two dimensions: torch has no such way in three
    if len(shape) == 2:
        placed = F.interpolate(values, list(sides), mode="bilinear", align_corners=False, antialias=True)
    else:
        placed = F.interpolate(values, list(sides), mode="trilinear", align_corners=False)
    return placed[0] * max(factor, 0.2) + shift
