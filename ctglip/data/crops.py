"""One organ of one scan, cut out at its own scale: the only way an organ becomes a model's input.

The box of the organ's ROI masks plus a margin is laid on a fixed grid by one separable, anti-aliased linear
resampling (three small matrix products). The grid erases size, so millimetres per voxel and volume travel beside the
voxels; HU and mask are kept as whole numbers, so a crop that was cut for training, kept in memory or cut for a single
question is the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int16, Num, UInt8
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings
from ctglip.data.details import Detail, detail_maps
from ctglip.types import Box, OrganRow, box_around, spacing_of
from ctglip.vocabulary.organs import Organ, OrganDictionary

AIR_HU = -1024
ORGAN_COVER = 128
"""Coverage (of 255) from which a voxel counts as the organ's."""
Extent = tuple[tuple[int, int], ...]
_LOG_MM = (0.6, 0.6)
_LOG_ML = (4.5, 2.0)


class CropSettings(Settings):
    """How an organ becomes a model's input. Part of the model: inference cuts as training did.

    Attributes:
        grid: voxels of a crop along x, y, z.
        windows_hu: one channel for each (lowest, highest) HU, scaled to -1 .. 1.
        relative_hu: one more channel: HU above or below the organ's own median, inside the organ alone (its border
            holds the fat around it, which would drown a faint lesion). Off, as in every shipped recipe.
        details: one more channel for each: what is brightest or darkest within each voxel of the grid (see
            ``data.details``). None, as in every shipped recipe.
        mask_channel: one more channel: the organ itself.
        truncated: what to do with organs that the field of view cuts off: keep them, or leave them out.
        fill: ``organ_mean`` gives every voxel of the organ the organ's mean HU and everything else that of air, so
            that shape and mean density alone are left (a control).
        masked: False withholds the mask: the organ's box is all that is told of it. The whole crop then counts as the
            organ (for pooling, the mask's channel, the relative HU and its median), and no volume is told.
        field_mm: a common field of view: every crop shows so many mm around the middle of the organ's box, whatever
            the organ's size; None shows the box and the organ's margin.
    """

    grid: tuple[int, int, int] = (32, 32, 32)
    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0), (-160.0, 240.0))
    relative_hu: bool = False
    details: tuple[Detail, ...] = ()
    mask_channel: bool = True
    truncated: Literal["keep", "drop"] = "keep"
    fill: Literal["none", "organ_mean"] = Field(default="none")
    masked: bool = True
    field_mm: tuple[float, float, float] | None = None

    @property
    def channels(self) -> int:
        """Channels of a rendered crop."""
        return len(self.channel_names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel of a rendered crop shows."""
        relative = ("HU relative to the organ's median, within the organ",) if self.relative_hu else ()
        details = tuple(f"detail {name}: HU relative to the organ's median" for name in self.details)
        mask = ("the organ's coverage of each voxel",) if self.mask_channel else ()
        return (*(window_name(window) for window in self.windows_hu), *relative, *details, *mask)


def window_name(window_hu: tuple[float, float]) -> str:
    """What a channel of a window shows, in words."""
    return f"HU {window_hu[0]:g} to {window_hu[1]:g}, scaled to -1 to 1"


@dataclass(frozen=True)
class OrganCrop:
    """An organ on the fixed grid, before windows.

    Attributes:
        organ: name in the organ dictionary.
        hu: int16 ``[x, y, z]``; air where the crop leaves the scan.
        detail: int8 ``[d, x, y, z]``, HU above the organ's median, one map for each of ``CropSettings.details``. Both
            are float32 where augmentation left no whole numbers.
        mask: uint8 ``[x, y, z]``, how much of each voxel the organ covers, 0 to 255.
        size: float32 ``[4]``, standardised log mm per voxel (x, y, z) and log volume in ml.
        median_hu: median HU of the organ's voxels on the grid, before ``shift_hu``.
        shift_voxels, shift_hu: what augmentation leaves to rendering, which copies and scales voxels anyway: voxel i
            shows what was at i + shift (what comes in at a face repeats that face), and all HU are shifted.
    """

    organ: str
    hu: Num[np.ndarray, "x y z"]
    detail: Num[np.ndarray, "d x y z"]
    mask: UInt8[np.ndarray, "x y z"]
    size: Float[np.ndarray, " 4"]
    median_hu: float
    shift_voxels: tuple[int, int, int] = (0, 0, 0)
    shift_hu: float = 0.0

    @cached_property
    def extent(self) -> Extent | None:
        """First and last voxel of the organ along each axis; None where it covers half of no voxel."""
        box = box_around(self.mask >= ORGAN_COVER)
        return None if box is None else tuple((low, high - 1) for low, high in zip(box[::2], box[1::2], strict=True))


def cut_crop(
    image: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    affine: np.ndarray,
    organ: Organ,
    row: OrganRow,
    organs: OrganDictionary,
    settings: CropSettings,
) -> OrganCrop:
    """Cut one organ out of a standardised volume.

    Args:
        image: HU of the whole volume.
        labels: organ labels on the same grid.
        affine: voxel index to mm.
        organ: which organ; its grounding says which masks, what margin, and whether the shell around them is meant.
        row: the organ's row of the volume's organ table (its box is where the crop is laid).
        organs: the dictionary that numbers ``labels``.
        settings: grid.
    """
    x0, x1, y0, y1, z0, z1 = region = crop_region(image.shape, affine, organ, row, settings)
    part = (slice(x0, x1), slice(y0, y1), slice(z0, z1))
    return cut_region(image[part], labels[part], region, affine, organ, row, organs, settings)


def crop_region(shape: tuple[int, ...], affine: np.ndarray, organ: Organ, row: OrganRow, settings: CropSettings) -> Box:
    """The voxels of a volume of some shape that a crop is made of: all that need to be read for it."""
    low, high = _extent(row.box, spacing_of(affine), organ, settings)
    reach = _reach(low, high, settings.grid)
    first = [min(max(int(np.floor(a)) - r, 0), n) for a, n, r in zip(low, shape, reach, strict=True)]
    last = [max(min(int(np.ceil(b)) + r, n), a) for b, n, r, a in zip(high, shape, reach, first, strict=True)]
    return first[0], last[0], first[1], last[1], first[2], last[2]


def cut_region(
    image: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    region: Box,
    affine: np.ndarray,
    organ: Organ,
    row: OrganRow,
    organs: OrganDictionary,
    settings: CropSettings,
) -> OrganCrop:
    """``cut_crop`` of a volume of which only the crop's region was read.

    Args:
        image, labels: the voxels of the region.
        region: what ``crop_region`` gives for the whole volume.
        affine, organ, row, organs, settings: as for ``cut_crop``.
    """
    spacing = spacing_of(affine)
    low, high = _extent(row.box, spacing, organ, settings)
    starts, stops = region[::2], region[1::2]
    weights = [
        axis_weights(a, b, n, start, stop)
        for a, b, n, start, stop in zip(low, high, settings.grid, starts, stops, strict=True)
    ]
    above_air = image.astype(np.float32) - AIR_HU
    hu = np.rint(resampled(above_air, weights)).astype(np.int32) + AIR_HU
    voxel_mm = (high - low) * spacing / settings.grid
    stored = np.clip(hu, -32768, 32767).astype(np.int16)
    size = standardised_size(voxel_mm, row.volume_ml)
    if settings.masked:
        member = _member(labels, organ, organs)
        mask = np.rint(_coverage(member, weights, voxel_mm, organ) * 255).astype(np.uint8)
        organ_hu = stored[mask >= ORGAN_COVER]
        inside = member == (not organ.roi.shell)
    else:
        mask, organ_hu, inside = np.full_like(stored, 255, np.uint8), stored, np.ones(image.shape, bool)
        size = size * np.array([1, 1, 1, 0], np.float32)
    median = float(np.median(organ_hu if organ_hu.size else stored))
    detail = np.zeros((0, *settings.grid), np.int8)
    if settings.details:
        faces = [np.linspace(a, b, n + 1) - s for a, b, n, s in zip(low, high, settings.grid, starts, strict=True)]
        detail = detail_maps(image, inside, median, faces, settings.details)
    return OrganCrop(organ.name, stored, detail, mask, size, median)


def _member(labels: UInt8[np.ndarray, "x y z"], organ: Organ, organs: OrganDictionary) -> Float[np.ndarray, "x y z"]:
    """1 where a voxel is of the masks that ground the organ."""
    member = np.zeros(256, dtype=np.float32)
    member[list(organs.roi_labels(organ.name))] = 1.0
    return member[labels]


def _coverage(
    member: Float[np.ndarray, "x y z"], weights: list[np.ndarray], voxel_mm: np.ndarray, organ: Organ
) -> Float[np.ndarray, "a b c"]:
    """How much of each voxel of the grid the organ's ROI covers, 0 to 1."""
    cover = np.clip(resampled(member, weights), 0.0, 1.0)
    if organ.roi.shell:
        return _shell(cover, voxel_mm, organ.roi.dilate_mm)
    if organ.roi.dilate_mm > 0:
        return np.maximum(cover, _shell(cover, voxel_mm, organ.roi.dilate_mm))
    return cover


def standardised_size(voxel_mm: np.ndarray, volume_ml: float) -> Float[np.ndarray, " 4"]:
    """What a model is told of size: log mm per voxel (x, y, z) and log volume, each about zero and of order one."""
    size = [*((np.log(voxel_mm) - _LOG_MM[0]) / _LOG_MM[1]), (np.log(volume_ml + 1e-3) - _LOG_ML[0]) / _LOG_ML[1]]
    return np.array(size, dtype=np.float32)


def voxel_mm(size: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 3"]:
    """Millimetres per voxel, back from what a model is told of size."""
    return np.exp(size[:3] * _LOG_MM[1] + _LOG_MM[0])


def zoomed_size(size: Float[np.ndarray, " 4"], zoom: float) -> Float[np.ndarray, " 4"]:
    """The size input of a crop on which the organ was enlarged by a factor: fewer mm per voxel, the volume as it is."""
    out = size.copy()
    out[:3] -= np.float32(np.log(zoom) / _LOG_MM[1])
    return out


def _extent(
    box: Box, spacing: tuple[float, float, float], organ: Organ, settings: CropSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper faces of the crop in voxel units of the volume (a voxel i reaches from i to i + 1)."""
    x0, x1, y0, y1, z0, z1 = box
    low, high = np.array([x0, y0, z0]), np.array([x1, y1, z1])
    if settings.field_mm is not None:
        half = np.array(settings.field_mm) / np.asarray(spacing) / 2
        return (low + high) / 2 - half, (low + high) / 2 + half
    margin = (organ.roi.margin_mm + organ.roi.dilate_mm) / np.asarray(spacing)
    return low - margin, high + margin


def _reach(low: np.ndarray, high: np.ndarray, grid: tuple[int, int, int]) -> list[int]:
    """Voxels around the crop that the resampling kernel touches."""
    return [int(np.ceil(max(step, 1.0))) + 1 for step in (high - low) / grid]


def axis_weights(low: float, high: float, count: int, start: int, stop: int) -> Float[np.ndarray, "count n"]:
    """Triangle-kernel weights of the voxels ``start .. stop`` for ``count`` samples between two faces (in voxels).

    The kernel is as wide as a sample where samples are coarser than voxels (no aliasing), else as a voxel (linear
    interpolation). Weights of voxels beyond the volume are missing, so what lies there counts as zero.
    """
    step = (high - low) / count
    width = max(step, 1.0)
    centres = low + (np.arange(count) + 0.5) * step - 0.5
    first = int(np.floor(centres[0] - width))
    last = int(np.ceil(centres[-1] + width)) + 1
    every = np.arange(min(first, start), max(last, stop))
    weights = np.clip(1.0 - np.abs(every[None, :] - centres[:, None]) / width, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(weights[:, start - every[0] : stop - every[0]], dtype=np.float32)


def resampled(volume: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """``out[a, b, c] = sum Wx[a, i] Wy[b, j] Wz[c, k] volume[i, j, k]``."""
    wx, wy, wz = weights
    out = volume.reshape(-1, volume.shape[2]) @ wz.T
    out = wy @ out.reshape(volume.shape[0], volume.shape[1], -1)
    return (wx @ out.reshape(volume.shape[0], -1)).reshape(len(wx), len(wy), len(wz))


def _shell(cover: np.ndarray, voxel_mm: np.ndarray, thickness_mm: float) -> np.ndarray:
    """What lies within a distance of a mask but not in it, with soft edges."""
    if not (cover >= 0.5).any():
        return np.zeros_like(cover)
    distance = ndimage.distance_transform_edt(cover < 0.5, sampling=voxel_mm)
    edge = float(np.mean(voxel_mm))
    near = np.clip((thickness_mm - np.asarray(distance)) / edge + 0.5, 0.0, 1.0).astype(np.float32)
    return near * (1.0 - cover)
