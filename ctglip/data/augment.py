"""Small changes of a crop that leave every finding true: the organ stays whole, HU stay HU, and a left organ is turned
into a right one only together with its name and its texts (``data.mirror``).

Augmentation parameters are drawn for a whole batch from the step's generator, and travel with each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Num
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.crops import Extent, OrganCrop, axis_weights, resampled, zoomed_size
from ctglip.data.rendering import shifted

_VACUUM_HU = -1000.0


class AugmentSettings(Settings):
    """How much crops are changed in training; all zeros leave them as they are.

    Attributes:
        shift_hu: standard deviation of a shift of all HU of a crop.
        gain: standard deviation of a relative change of attenuation (air stays air; 0.01 is 10 HU in water). Details
            stay as they are: they are small differences of HU, or none.
        noise_hu: standard deviation of noise on each voxel.
        shift_voxels: largest shift of the crop along each axis, in whole voxels of its grid.
        zoom: largest change of scale (0.1: from 1 / 1.1 to 1.1); the size that the model is told changes with it.
        mirror: how often an organ that has a counterpart on the other side is turned into it: image and mask are
            flipped, organ and texts exchange sides. Rows whose texts name a side that cannot be exchanged stay as they
            are. What lies around the organ becomes that of the wrong side.
    """

    shift_hu: float = Field(default=5.0, ge=0)
    gain: float = Field(default=0.0, ge=0, le=0.2)
    noise_hu: float = Field(default=0.0, ge=0)
    shift_voxels: int = Field(default=1, ge=0)
    zoom: float = Field(default=0.0, ge=0, le=0.5)
    mirror: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True)
class AugmentationParameters:
    """How one crop is changed at one step.

    Attributes:
        shift_voxels: along x, y, z: voxel i shows what was at i + shift.
        shift_hu, gain: HU become ``(HU + 1000) (1 + gain) - 1000 + shift_hu``.
        zoom: factor on the organ's size on the grid.
        mirrored: flipped along x.
        noise_seed: of the noise.
    """

    shift_voxels: tuple[int, int, int] = (0, 0, 0)
    shift_hu: float = 0.0
    gain: float = 0.0
    zoom: float = 1.0
    mirrored: bool = False
    noise_seed: int = 0


def draw_augmentations(count: int, settings: AugmentSettings, rng: np.random.Generator) -> list[AugmentationParameters]:
    """How each crop of a batch is to be changed."""
    reach = settings.shift_voxels
    steps = rng.integers(-reach, reach + 1, size=(count, 3)) if reach else np.zeros((count, 3), dtype=int)
    shift_hu = (settings.shift_hu * rng.standard_normal(count)).astype(np.float32)
    gain = settings.gain * rng.standard_normal(count) if settings.gain else np.zeros(count)
    limit = np.log1p(settings.zoom)
    zoom = np.exp(rng.uniform(-limit, limit, count)) if settings.zoom else np.ones(count)
    mirrored = rng.random(count) < settings.mirror if settings.mirror else np.zeros(count, dtype=bool)
    noise = rng.integers(2**62, size=count) if settings.noise_hu else np.zeros(count, dtype=int)
    columns = zip(*(column.tolist() for column in (steps, shift_hu, gain, zoom, mirrored, noise)), strict=True)
    return [AugmentationParameters((x, y, z), *rest) for (x, y, z), *rest in columns]


def augment_crop(
    crop: OrganCrop, parameters: AugmentationParameters, noise_hu: float = 0.0
) -> tuple[OrganCrop, AugmentationParameters]:
    """A crop after augmentation, and with which parameters: shift and zoom stop where the organ would be cut.

    What comes in at a face repeats that face.
    """
    hu, detail, mask, size, extent = crop.hu, crop.detail, crop.mask, crop.size, crop.extent
    if parameters.mirrored:
        hu, detail, mask = hu[::-1], detail[:, ::-1], mask[::-1]
        extent = extent and ((len(hu) - 1 - extent[0][1], len(hu) - 1 - extent[0][0]), *extent[1:])
    steps = remaining = _limited_shift(extent, hu.shape, parameters.shift_voxels)
    if parameters.zoom != 1.0 or noise_hu > 0:  # which look at voxels in their place
        hu, detail, mask = (shifted(volume, steps) for volume in (hu, detail, mask))
        remaining = (0, 0, 0)
    zoom = parameters.zoom
    if zoom > 1.0:
        moved = extent and tuple((a - step, b - step) for (a, b), step in zip(extent, steps, strict=True))
        zoom = min(zoom, _largest_zoom(moved, hu.shape))
    if zoom != 1.0:
        weights = [_zoom_weights(n, zoom) for n in hu.shape]
        hu = resampled(hu.astype(np.float32), weights)
        if len(detail):
            detail = np.stack([resampled(one.astype(np.float32), weights) for one in detail])
        mask = np.rint(np.clip(resampled(mask.astype(np.float32), weights), 0, 255)).astype(np.uint8)
        size = zoomed_size(size, zoom)
    median = np.float32(crop.median_hu)
    if parameters.gain:
        gain, vacuum = np.float32(parameters.gain), np.float32(_VACUUM_HU)
        hu = hu + (hu - vacuum) * gain
        median += (median - vacuum) * gain
    if noise_hu > 0:
        rng = np.random.default_rng(parameters.noise_seed)
        hu = hu + np.float32(noise_hu) * rng.standard_normal(hu.shape, dtype=np.float32)
    augmented = OrganCrop(crop.organ, hu, detail, mask, size, float(median), remaining, parameters.shift_hu)
    return augmented, replace(parameters, shift_voxels=steps, zoom=zoom)


def augment_hu(
    hu: Num[np.ndarray, "n x y z"], shift_hu: float, noise_hu: float, rng: np.random.Generator
) -> Float[np.ndarray, "n x y z"]:
    """Images with shifted and noisy HU (whole scans; crops have ``augment_crop``).

    Args:
        shift_hu: standard deviation of the shift of an image.
        noise_hu: standard deviation of the noise on each voxel.
    """
    shift = (shift_hu * rng.standard_normal(len(hu))).astype(np.float32)
    out = hu.astype(np.float32) + shift[:, None, None, None]
    if noise_hu > 0:
        out += noise_hu * rng.standard_normal(out.shape, dtype=np.float32)
    return out


def _limited_shift(extent: Extent | None, shape: tuple[int, ...], steps: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shift as far as the organ stays on the grid."""
    limited = []
    for axis, (count, step) in enumerate(zip(shape, steps, strict=True)):
        first, last = extent[axis] if extent else (count - 1, 0)
        limited.append(max(min(step, first), last + 1 - count))
    return limited[0], limited[1], limited[2]


def _largest_zoom(extent: Extent | None, shape: tuple[int, ...]) -> float:
    """The largest factor, at least 1, at which the organ stays on the grid."""
    if extent is None:
        return np.inf
    far = [max(n / 2 - first, last + 1 - n / 2) for (first, last), n in zip(extent, shape, strict=True)]
    return max(1.0, min(n / 2 / reach for n, reach in zip(shape, far, strict=True)))


def _zoom_weights(count: int, zoom: float) -> Float[np.ndarray, "n n"]:
    """Weights that scale an axis about its middle; what lies beyond a face is that face's voxel."""
    half = count / 2 / zoom
    pad = int(np.ceil(max(half - count / 2, 0))) + 2
    weights = axis_weights(count / 2 - half, count / 2 + half, count, -pad, count + pad)
    inner = weights[:, pad:-pad].copy()
    inner[:, 0] += weights[:, :pad].sum(axis=1)
    inner[:, -1] += weights[:, -pad:].sum(axis=1)
    return np.ascontiguousarray(inner)
