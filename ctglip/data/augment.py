"""Small changes of a crop that leave every finding true: no flips (they would swap sides), no cut-outs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num
from pydantic import Field

from ctglip.config import Settings


class AugmentSettings(Settings):
    """How much crops are changed in training; all zeros leave them as they are.

    Attributes:
        shift_hu: standard deviation of a shift of all HU of a crop.
        noise_hu: standard deviation of noise on each voxel.
        shift_voxels: largest shift of the crop along each axis, in whole voxels of its grid.
    """

    shift_hu: float = Field(default=5.0, ge=0)
    noise_hu: float = Field(default=0.0, ge=0)
    shift_voxels: int = Field(default=1, ge=0)


def augment_hu(
    hu: Num[np.ndarray, "n x y z"], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n x y z"], Float[np.ndarray, " n"]]:
    """Crops with shifted and noisy HU, and the shift of each."""
    shift = (settings.shift_hu * rng.standard_normal(len(hu))).astype(np.float32)
    out = hu.astype(np.float32) + shift[:, None, None, None]
    if settings.noise_hu > 0:
        out += settings.noise_hu * rng.standard_normal(out.shape, dtype=np.float32)
    return out, shift


def shift_crops(
    arrays: tuple[np.ndarray, ...], settings: AugmentSettings, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """The same random shift for all arrays ``[n, x, y, z]`` of a crop; what comes in at a face repeats that face."""
    reach = settings.shift_voxels
    if reach == 0:
        return arrays
    steps = rng.integers(-reach, reach + 1, size=(len(arrays[0]), 3))
    out = tuple(np.empty_like(array) for array in arrays)
    shape = arrays[0].shape[1:]
    for row, step in enumerate(steps):
        places = [np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(shape, step, strict=True)]
        for source, target in zip(arrays, out, strict=True):
            target[row] = source[row][np.ix_(*places)]
    return out
