"""What a file reader hands on: numbers on a grid, before they are HU in canonical order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ctglip.errors import ScanError
from ctglip.types import QualityCheck, Scan, ScanHeader, spacing_of


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


def with_header(raw: RawVolume, header: ScanHeader, where: str) -> RawVolume:
    """The volume with the scaling and the geometry that a table gives it.

    Args:
        raw: as its file has it.
        header: from the table.
        where: how errors name the scan.

    Raises:
        ScanError: ``header_twice``: the file scales or places its voxels itself, so that it is not the file that the
            table was written for: numbers would be rescaled twice.
    """
    scaled = (raw.slope, raw.intercept) != (1.0, 0.0)
    if scaled and (header.slope, header.intercept) != (1.0, 0.0):
        raise _twice(where, f"scales by {raw.slope:g} and {raw.intercept:g} itself")
    if header.affine is None:
        return replace(raw, slope=raw.slope * header.slope, intercept=raw.intercept + header.intercept)
    given, spacing = spacing_of(header.affine), spacing_of(raw.affine)
    unplaced = any(check.code == "no_orientation" for check in raw.checks)
    blank = np.allclose(np.abs(raw.affine[:3, :3]), np.eye(3), atol=1e-4)
    at_origin = unplaced or np.allclose(raw.affine[:3, 3], 0, atol=1e-4)
    if not (blank or np.allclose(sorted(given), sorted(spacing), atol=1e-3)) or not (unplaced or (blank and at_origin)):
        edges = " x ".join(f"{edge:.3g}" for edge in spacing)
        raise _twice(where, f"places voxels of {edges} mm itself")
    checks = tuple(check for check in raw.checks if check.code != "no_orientation")
    slope, intercept = (header.slope, header.intercept) if not scaled else (raw.slope, raw.intercept)
    return replace(raw, affine=header.affine, slope=slope, intercept=intercept, checks=checks)


def _twice(where: str, what: str) -> ScanError:
    return ScanError(
        f"{where} {what}, and the cohort table gives it a header as if it had none: is it a corrected version?",
        code="header_twice",
        fix="Make the cohort table from this version of the data set, or take hu_slope, hu_intercept and affine out.",
    )
