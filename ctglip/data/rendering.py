"""From a crop's whole numbers to the channels that a model sees: windows, HU relative to the organ, details, mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor

from ctglip.data.crops import AIR_HU, CropSettings

_RELATIVE_HU = 60.0
_RELATIVE_CLIP = 2.0
_TOGETHER = 8
"""Crops that are rendered at once: enough for all threads, few enough for the processor's cache."""


class Drawable(Protocol):
    """A crop, as it was cut (``data.crops.OrganCrop``) or changed (``data.augment.Changed``)."""

    @property
    def hu(self) -> Num[np.ndarray, "x y z"]: ...
    @property
    def detail(self) -> Num[np.ndarray, "d x y z"]: ...
    @property
    def mask(self) -> UInt8[np.ndarray, "x y z"]: ...
    @property
    def median_hu(self) -> float | np.floating: ...


def render(crops: Sequence[Drawable], settings: CropSettings) -> Float[Tensor, "n c x y z"]:
    """The channels of some crops of one grid, float32."""
    shape = (len(crops), settings.channels, *settings.grid)
    out = torch.from_numpy(np.empty(shape, np.float32))  # numpy asks for large pages, which come faster
    for start in range(0, len(crops), _TOGETHER):
        some = crops[start : start + _TOGETHER]
        hu, detail, mask = (
            torch.from_numpy(np.stack([getattr(crop, name) for crop in some])) for name in ("hu", "detail", "mask")
        )
        median = torch.tensor([float(crop.median_hu) for crop in some])
        _render(out[start : start + _TOGETHER], hu.float(), detail, mask.float().div_(255.0), median, settings)
    return out


def cover_of(mask: UInt8[np.ndarray, "*n x y z"]) -> Float[np.ndarray, "*n x y z"]:
    """How much of each voxel the organ covers, 0 to 1, of a crop's mask."""
    return mask.astype(np.float32) / 255.0


def _render(
    out: Float[Tensor, "n c x y z"],
    hu: Float[Tensor, "n x y z"],
    detail: Num[Tensor, "n d x y z"],
    cover: Float[Tensor, "n x y z"],
    median: Float[Tensor, " n"],
    settings: CropSettings,
) -> None:
    """Channels into their place."""
    median = median[:, None, None, None]
    if settings.fill == "organ_mean":
        space = (1, 2, 3)
        mean = (hu * cover).sum(space, keepdim=True) / cover.sum(space, keepdim=True).clamp(min=1e-6)
        hu = cover * mean + (1.0 - cover) * AIR_HU
        detail = (mean - median)[:, None].expand(detail.shape)
    channels = iter(out.unbind(1))
    for low, high in settings.windows_hu:
        scale = 2.0 / (high - low)
        torch.clamp((hu * scale).sub_(low * scale + 1.0), -1.0, 1.0, out=next(channels))
    if settings.relative_hu:
        inside = (4.0 * cover).sub_(3.0).clamp_(0.0, 1.0)
        torch.mul(_relative(hu - median), inside.div_(_RELATIVE_HU), out=next(channels))
    inside = (2.0 * cover).clamp_(max=1.0).div_(_RELATIVE_HU)
    for above in detail.unbind(1):
        torch.mul(_relative(above), inside, out=next(channels))
    if settings.mask_channel:
        next(channels).copy_(cover)


def _relative(above: Num[Tensor, "n x y z"]) -> Num[Tensor, "n x y z"]:
    """HU above the median, as far as channels show them."""
    limit = _RELATIVE_CLIP * _RELATIVE_HU
    return above.clamp(-limit, limit)
