"""From a crop's whole numbers to the channels that a model sees: windows, HU relative to the organ, details, mask.

Channels take six times the memory of the numbers that they are rendered from, so a batch holds the numbers
(``CropStack``) until it is where the model is: less is copied between processes and to a GPU, and the GPU renders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor

from ctglip.data.crops import AIR_HU, CropSettings, OrganCrop

_RELATIVE_HU = 60.0
_RELATIVE_CLIP = 2.0
_VOXELS_AT_ONCE = 2**20
"""Voxels that are rendered at once: enough for all threads, few enough for the processor's cache."""


@dataclass(frozen=True)
class RenderedCrops:
    """Crops as a model sees them.

    Attributes:
        image: float32 ``[n, C, *S]``.
        mask: how much of each voxel the organ covers, 0 to 1, ``[n, 1, *S]``.
    """

    image: Float[Tensor, "n c *s"]
    mask: Float[Tensor, "n 1 *s"]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: slice) -> RenderedCrops:
        """Some of them."""
        return RenderedCrops(self.image[rows], self.mask[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RenderedCrops:
        """The crops on a device."""
        return RenderedCrops(*(t.to(device, non_blocking=non_blocking) for t in (self.image, self.mask)))


@dataclass(frozen=True)
class CropStack:
    """Crops of one grid side by side, as whole numbers, of which a model's input can be rendered.

    Attributes:
        hu, detail, covered: int16 ``[n, x, y, z]``, int8 ``[n, d, x, y, z]`` (both float32 after changes that make no
            whole numbers) and the crops' masks, uint8 ``[n, x, y, z]``; shifted.
        median_hu, shift_hu: ``[n]``.
    """

    hu: Num[Tensor, "n x y z"]
    detail: Num[Tensor, "n d x y z"]
    covered: UInt8[Tensor, "n x y z"]
    median_hu: Float[Tensor, " n"]
    shift_hu: Float[Tensor, " n"]
    settings: CropSettings

    @staticmethod
    def of(crops: Sequence[OrganCrop], settings: CropSettings) -> CropStack:
        """Crops next to each other, each shifted on its way."""
        grid, steps = settings.grid, [crop.shift_voxels for crop in crops]
        return CropStack(
            _placed([crop.hu for crop in crops], steps, np.dtype(np.int16), grid),
            _placed([crop.detail for crop in crops], steps, np.dtype(np.int8), (len(settings.details), *grid)),
            _placed([crop.mask for crop in crops], steps, np.dtype(np.uint8), grid),
            torch.tensor([float(crop.median_hu) for crop in crops], dtype=torch.float32),
            torch.tensor([crop.shift_hu for crop in crops], dtype=torch.float32),
            settings,
        )

    def __len__(self) -> int:
        return len(self.hu)

    def __getitem__(self, rows: slice) -> CropStack:
        """Some of them."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RenderedCrops:
        """The crops, rendered on a device."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        image = moved.image
        return RenderedCrops(image, image[:, -1:] if self.settings.mask_channel else moved.mask)

    @cached_property
    def image(self) -> Float[Tensor, "n c x y z"]:
        """What a model sees of the crops, float32."""
        shape = (len(self), self.settings.channels, *self.settings.grid)
        # numpy asks the system for large pages, which come faster
        on_cpu = self.hu.device.type == "cpu"
        out = torch.from_numpy(np.empty(shape, np.float32)) if on_cpu else self.hu.new_empty(shape, dtype=torch.float32)
        some = max(1, _VOXELS_AT_ONCE // prod(self.settings.grid))
        for start in range(0, len(self), some):
            self[start : start + some]._render_into(out[start : start + some])
        return out

    @cached_property
    def mask(self) -> Float[Tensor, "n 1 x y z"]:
        """How much of each voxel the organ covers, 0 to 1."""
        return self.covered[:, None].float().div_(255.0)

    def _each(self, change: Callable[[Tensor], Tensor]) -> CropStack:
        hu, detail, covered = change(self.hu), change(self.detail), change(self.covered)
        return CropStack(hu, detail, covered, change(self.median_hu), change(self.shift_hu), self.settings)

    def _render_into(self, out: Float[Tensor, "n c x y z"]) -> None:
        """All channels into their place, in as few passes over memory as there can be."""
        settings, hu, detail = self.settings, self.hu.float(), self.detail
        median, shift = (column[:, None, None, None] for column in (self.median_hu, self.shift_hu))
        cover = out[:, -1].copy_(self.covered).div_(255.0) if settings.mask_channel else self.mask[:, 0]
        if settings.fill == "organ_mean":
            space = (1, 2, 3)
            mean = (hu * cover).sum(space, keepdim=True) / cover.sum(space, keepdim=True).clamp(min=1e-6)
            hu = cover * mean + (1.0 - cover) * (AIR_HU - shift)
            detail = (mean - median)[:, None].expand(detail.shape)
        channels = iter(out.unbind(1))
        for low, high in settings.windows_hu:
            scale = 2.0 / (high - low)
            torch.add((shift - low) * scale - 1.0, hu, alpha=scale, out=next(channels)).clamp_(-1.0, 1.0)
        inside = torch.empty_like(hu)
        if settings.relative_hu:
            above = torch.add(median / -_RELATIVE_HU, hu, alpha=1 / _RELATIVE_HU, out=next(channels))
            torch.mul(cover, 4.0, out=inside).sub_(3.0).clamp_(0.0, 1.0)
            above.clamp_(-_RELATIVE_CLIP, _RELATIVE_CLIP).mul_(inside)
        if settings.details:
            limit = _RELATIVE_CLIP * _RELATIVE_HU
            torch.mul(cover, 2.0 / _RELATIVE_HU, out=inside).clamp_(max=1.0 / _RELATIVE_HU)
            for above in detail.clamp(-limit, limit).unbind(1):
                next(channels).copy_(above).mul_(inside)


def render(crops: Sequence[OrganCrop], settings: CropSettings) -> Float[Tensor, "n c x y z"]:
    """The channels of some crops of one grid, float32."""
    return CropStack.of(crops, settings).image


def shifted(volume: Num[np.ndarray, "*d x y z"], steps: tuple[int, int, int]) -> Num[np.ndarray, "*d x y z"]:
    """Voxel i shows what was at i + step; what comes in at a face repeats that face."""
    out = np.empty(volume.shape, volume.dtype)
    _shift_into(out, volume, steps)
    return out


def _placed(
    volumes: Sequence[np.ndarray], steps: Sequence[tuple[int, int, int]], integer: np.dtype, shape: tuple[int, ...]
) -> Tensor:
    """Volumes side by side, shifted; whole numbers stay what they are unless one of the volumes has others."""
    kinds = {volume.dtype for volume in volumes} or {integer}
    out = np.empty((len(volumes), *shape), np.result_type(*kinds))
    for position, volume, step in zip(out, volumes, steps, strict=True):
        _shift_into(position, volume, step)
    return torch.from_numpy(out)


def _shift_into(out: np.ndarray, volume: np.ndarray, steps: tuple[int, int, int]) -> None:
    """``shifted`` into a contiguous array."""
    if steps == (0, 0, 0):
        out[...] = volume
        return
    x, y, z = volume.shape[-3:]
    far = (steps[0] * y + steps[1]) * z + steps[2]
    flat, into = np.ascontiguousarray(volume).reshape(-1), out.reshape(-1)
    # all at once, so that what is wrong lies at the faces
    if far > 0:
        into[:-far] = flat[far:]
    else:
        into[-far:] = flat[: len(flat) + far]
    for step, sides in zip(steps, ((-1, x, y * z), (-1, y, z), (-1, z, 1)), strict=True):
        planes = out.reshape(sides)  # a view: the axis is in the middle
        if step > 0:
            planes[:, -step:] = planes[:, -step - 1 : -step]
        elif step < 0:
            planes[:, :-step] = planes[:, -step : 1 - step]
