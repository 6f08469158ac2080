"""Losses of masked modelling: words, pixels, and a sharper window of the picture. Radiographs and scans alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import exact
from ctglip.losses.gather import ranked_mean


def weighted_mlm(
    logits: Float[Tensor, "b t v"],
    labels: Int[Tensor, "b t"],
    weights: Float[Tensor, "b t"] | None = None,
    masked: Bool[Tensor, "b t"] | None = None,
    denominator: Literal["all", "masked"] = "all",
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy of words, each with its weight.

    Args:
        logits: scores of the vocabulary at each token.
        labels: the true token everywhere.
        weights: of the tokens, 1 where None.
        masked: the tokens whose loss counts, all where None (ECAMP counts all, padding too).
        denominator: divide by all B x T tokens (ECAMP), or by the counted ones.
        gather: denominators count all ranks.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = exact(logits)
        terms = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        weight = torch.ones_like(terms) if weights is None else weights.to(terms.dtype)
        keep = torch.ones_like(labels, dtype=torch.bool) if masked is None else masked
        weight = weight.where(keep, 0)
        count = labels.numel() if denominator == "all" else keep.sum()
        return ranked_mean((weight * terms).sum(), count, gather)


def patchify(image: Float[Tensor, "b c *s"], patch: int | Sequence[int]) -> Float[Tensor, "b n f"]:
    """Non-overlapping patches, flattened with the channel last (as MAE has them): F = patch^d x C.

    Args:
        image: sides that the patch divides.
        patch: its edge, or that along each axis.
    """
    edges = (patch,) * (image.dim() - 2) if isinstance(patch, int) else patch
    if image.dim() == 4:
        p, q = edges
        return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=q)
    p, q, r = edges
    return rearrange(image, "b c (x p) (y q) (z r) -> b (x y z) (p q r c)", p=p, q=q, r=r)


def normalized_patches(patches: Float[Tensor, "b n f"]) -> Float[Tensor, "b n f"]:
    """Each patch with mean 0 and deviation 1 over its pixels and channels (MAE's targets, arXiv 2111.06377)."""
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def unpatchify(patches: Float[Tensor, "b n f"], patch: int, grid: tuple[int, ...]) -> Float[Tensor, "b c *s"]:
    """The inverse of ``patchify`` for a grid of patches."""
    if len(grid) == 2:
        h, w = grid
        return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=h, w=w, p=patch, q=patch)
    x, y, z = grid
    return rearrange(patches, "b (x y z) (p q r c) -> b c (x p) (y q) (z r)", x=x, y=y, z=z, p=patch, q=patch, r=patch)


def masked_pixel(
    prediction: Float[Tensor, "b n f"],
    target: Float[Tensor, "b n f"],
    mask: Float[Tensor, "b n"],
    denominator: Literal["masked", "all"] = "masked",
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Squared error of the patches that were masked.

    Args:
        prediction, target: flattened patches (``patchify``).
        mask: 1 where a patch was hidden from the encoder.
        denominator: mean over hidden pixels, or divide by all pixels (ECAMP).
        gather: denominators count all ranks.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = exact(prediction), exact(target)
        hidden = mask.to(prediction.dtype)[..., None]
        total = ((prediction - target) * hidden).square().sum()
        pixels = hidden.sum() * prediction.shape[-1] if denominator == "masked" else prediction.numel()
        return ranked_mean(total, pixels, gather)


def window_mask(grid: tuple[int, ...], corner: Int[Tensor, "b d"], size: int, scale: int) -> Float[Tensor, "b 1 *s"]:
    """1 inside a window of a patch grid, drawn at ``scale`` pixels a patch.

    Args:
        grid: patches along each axis.
        corner: first patch of each image's window.
        size: patches along each side of the window.
        scale: pixels along each side of a patch.
    """
    sides = []
    for axis, length in enumerate(grid):
        position = torch.arange(length * scale, device=corner.device).div(scale, rounding_mode="floor")
        start = corner[:, axis, None]
        sides.append(((position >= start) & (position < start + size)).float())
    mask = sides[0][:, None]
    for side in sides[1:]:
        mask = mask[..., None] * side.view(len(side), 1, *[1] * (mask.dim() - 2), -1)
    return mask


def window_error(
    prediction: Float[Tensor, "b c *s"],
    target: Float[Tensor, "b c *s"],
    window: Float[Tensor, "b 1 *s"],
    denominator: Literal["window", "all"] = "window",
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Squared error inside a window of a sharpened picture (ECAMP's super-resolution loss divides by ``all``)."""
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = exact(prediction), exact(target)
        inside = window.to(prediction.dtype)
        total = ((prediction - target) * inside).square().sum()
        pixels = inside.sum() * prediction.shape[1] if denominator == "window" else prediction.numel()
        return ranked_mean(total, pixels, gather)


def select_window(attention: Float[Tensor, "b ..."], size: int) -> Int[Tensor, "b d"]:
    """The corner of the window of ``size`` patches a side that holds the most attention (by an integral image).

    Args:
        attention: non-negative, on the patch grid, 2D or 3D.
        size: patches along each side of the window.
    """
    sums = attention
    for axis in range(1, attention.dim()):
        sums = F.pad(sums.transpose(axis, -1), (1, 0)).cumsum(-1)
        sums = (sums[..., size:] - sums[..., :-size]).transpose(axis, -1)
    flat = sums.flatten(1).argmax(1)
    shape = sums.shape[1:]
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return torch.stack([flat // step % length for step, length in zip(steps, shape, strict=True)], dim=1)
