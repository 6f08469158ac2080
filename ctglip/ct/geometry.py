"""Grids in space: orientation, agreement and overlap of affines."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np

from ctglip.errors import ScanError
from ctglip.types import Box, GridRule, spacing_of

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_affine(affine: np.ndarray, where: str) -> None:
    """Raise ScanError (``bad_affine``, ``spacing_implausible``) for an affine that cannot place voxels in a body."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(
            f"{where}: the affine maps voxels nowhere (it is singular or not finite).",
            code="bad_affine",
            fix="Convert the scan again from its source.",
        )
    spacing = spacing_of(affine)
    if min(spacing) < 0.05 or max(spacing) > 30:
        raise ScanError(
            f"{where}: voxels of {_mm(spacing)} mm cannot be CT, expected 0.05 to 30 mm.",
            code="spacing_implausible",
            fix="Check the header's spacing and its unit.",
        )


def _mm(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder and flip the first three axes to the closest RAS+, as ``nibabel.as_closest_canonical`` does.

    Args:
        array: ``[i, j, k, ...]``.
        affine: ``[4, 4]``.

    Returns:
        A view of the array, and its affine.
    """
    orientation = nib.orientations.io_orientation(affine)
    view = nib.orientations.apply_orientation(array, orientation)
    return view, affine @ nib.orientations.inv_ornt_aff(orientation, array.shape[:3])


def slice_axis_after(affine: np.ndarray, axis: int) -> tuple[int, bool]:
    """Where an axis goes when ``canonical`` is applied, and whether it is reversed."""
    target, flip = nib.orientations.io_orientation(affine)[axis]
    return int(target), bool(flip < 0)


def corners(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """World millimetres ``[8, 3]`` of the outer corners of a grid's corner voxels."""
    index = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in shape[:3]))))
    return index @ affine[:3, :3].T + affine[:3, 3]


def same_grid(
    shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray, tolerance: float = 0.1
) -> bool:
    """Whether two grids agree voxel by voxel, within a fraction of the smallest voxel edge at the corners."""
    if tuple(shape[:3]) != tuple(other_shape[:3]):
        return False
    apart = np.abs(corners(shape, affine) - corners(other_shape, other)).max()
    return bool(apart <= tolerance * min(spacing_of(affine)))


def overlap(shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray) -> float:
    """Overlap of two grids' world boxes as a fraction of the smaller one, 0 to 1."""
    first, second = corners(shape, affine), corners(other_shape, other)
    low = np.maximum(first.min(0), second.min(0))
    high = np.minimum(first.max(0), second.max(0))
    shared = np.prod(np.clip(high - low, 0, None))
    smaller = min(np.prod(np.ptp(first, axis=0)), np.prod(np.ptp(second, axis=0)))
    return float(shared / smaller)


def crop_affine(affine: np.ndarray, start: tuple[int, int, int]) -> np.ndarray:
    """Affine of an array that was cut to begin at voxel ``start``."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.asarray(start, float) + affine[:3, 3]
    return moved


def regrid(
    affine: np.ndarray, box: Box, spacing_mm: tuple[float, float, float], rule: GridRule = "smooth"
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of a grid with the given spacing (of ``stretched``: about) that covers a voxel box."""
    old = np.asarray(spacing_of(affine))
    low, high = np.asarray(box[::2], float), np.asarray(box[1::2], float)
    scale = np.asarray(spacing_mm, float) / old
    count = (high - low) / scale
    if rule == "smooth":
        shape = np.rint(count)
    elif rule == "centres":
        shape = np.rint((high - low - 1) / scale) + 1
    else:
        shape = np.floor(count + 1e-9)
    shape = np.maximum(shape, 1)
    if rule == "stretched":
        scale = (high - low) / shape
    first = low if rule == "centres" else low - 0.5 + 0.5 * scale
    if rule == "middle":
        first = (low + high - 1) / 2 - (shape - 1) / 2 * scale
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * scale
    result[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
    x, y, z = (int(n) for n in shape.tolist())
    return (x, y, z), result


def shear_degrees(affine: np.ndarray) -> float:
    """Largest deviation of the angles between the voxel axes from 90 degrees."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((unit.T @ unit)[np.triu_indices(3, 1)])
    return float(np.degrees(np.arcsin(np.clip(cosines, 0, 1))).max())


def upright_grid(shape: tuple[int, int, int], affine: np.ndarray) -> tuple[tuple[int, int, int], np.ndarray]:
    """The smallest grid with perpendicular axes around a sheared one (gantry tilt), keeping its slice planes.

    The two axes closest to perpendicular stay; the third becomes their normal with the distance of the slices.
    """
    spacing = np.asarray(spacing_of(affine))
    unit = affine[:3, :3] / spacing
    cosines = np.abs(unit.T @ unit)
    first, second = min(((0, 1), (0, 2), (1, 2)), key=lambda pair: cosines[pair])
    third = 3 - first - second
    axes = unit.copy()
    axes[:, second] -= (axes[:, first] @ axes[:, second]) * axes[:, first]
    axes[:, second] /= np.linalg.norm(axes[:, second])
    normal = np.cross(axes[:, first], axes[:, second])
    axes[:, third] = normal * np.sign(normal @ unit[:, third])
    spacing[third] *= abs(normal @ unit[:, third])
    result = np.eye(4)
    result[:3, :3] = axes * spacing
    inside = corners(shape, affine) @ np.linalg.inv(result[:3, :3]).T
    low = inside.min(0)
    x, y, z = (max(1, int(np.ceil(n - 1e-6))) for n in np.ptp(inside, axis=0).tolist())
    result[:3, 3] = result[:3, :3] @ (low + 0.5)
    return (x, y, z), result
