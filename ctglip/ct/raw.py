"""What a file reader hands on: numbers on a grid, before they are HU in canonical order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctglip.types import QualityCheck, Scan


@dataclass(frozen=True)
class RawVolume:
    """Numbers as stored, with their scaling.

    Attributes:
        values: ``[i, j, k]``, any real type, any order in memory.
        affine: ``[4, 4]``, RAS+ millimetres.
        slices: where the source's slices were unevenly spaced, the index of each along the third axis.
    """

    values: np.ndarray
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    slices: np.ndarray | None = None
    checks: tuple[QualityCheck, ...] = ()


@dataclass(frozen=True)
class UnevenScan(Scan):
    """A scan that was interpolated from unevenly spaced slices.

    Attributes:
        slice_axis: the array axis along which the slices lie.
        slices: float ``[n]``, index on that axis of each slice of the source, in the axis's direction.
    """

    slice_axis: int = 2
    slices: np.ndarray | None = None
