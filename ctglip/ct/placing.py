"""Laying label maps on a scan: voxel by voxel, by their affines, or slice by slice."""

from __future__ import annotations

import numpy as np

from ctglip.ct.geometry import overlap, same_grid
from ctglip.ct.raw import UnevenScan
from ctglip.ct.resample import to_grid
from ctglip.errors import MaskError
from ctglip.types import QualityCheck, Scan, spacing_of

MIN_OVERLAP = 0.5
"""Masks are resampled when at least this share of the smaller field of view lies in the other."""


def on_scan(
    labels: np.ndarray, affine: np.ndarray, scan: Scan, *, by_index: bool
) -> tuple[np.ndarray, list[QualityCheck]]:
    """Labels on the scan's grid.

    Args:
        labels: uint8 ``[x, y, z]`` in RAS+ order.
        affine: ``[4, 4]`` of the labels.
        scan: the scan.
        by_index: where only the slice spacing disagrees, lay slice on slice.

    Raises:
        MaskError: ``mask_slice_spacing``, ``mask_geometry`` or ``mask_elsewhere``.
    """
    if same_grid(labels.shape, affine, scan.hu.shape, scan.affine):
        return labels, []
    axis = _slice_mismatch(labels.shape, affine, scan)
    if axis is not None:
        return _slice_by_slice(labels, affine, scan, axis, by_index=by_index)
    _check_geometry(labels.shape, affine, scan)
    shared = overlap(labels.shape, affine, scan.hu.shape, scan.affine)
    if shared < MIN_OVERLAP:
        raise MaskError(
            f"The masks lie elsewhere: their grid {_described(labels.shape, affine)} shares {shared:.0%} with the "
            f"scan's {_described(scan.hu.shape, scan.affine)}.",
            code="mask_elsewhere",
            fix="Give the masks that were drawn on this scan, or correct the header of one of them.",
        )
    x, y, z = scan.hu.shape
    moved = to_grid(labels, affine, (x, y, z), scan.affine, labels=True)
    mapping = np.linalg.solve(affine, scan.affine)
    if np.abs(mapping - np.rint(mapping)).max() < 0.01 and np.allclose(np.rint(mapping[:3, :3]), np.eye(3)):
        return moved, []  # the scan's own voxels, of a part of it or of more
    message = f"The masks were resampled onto the scan's grid (overlap {shared:.0%})."
    return moved, [QualityCheck("masks_resampled", "info", message, shared)]


def _check_geometry(shape: tuple[int, ...], affine: np.ndarray, scan: Scan) -> None:
    """Refuse masks whose header lost its geometry, or that have the scan's voxels in other places."""
    copy = "Give the masks the scan's header (in nibabel: Nifti1Image(labels, scan.affine)), or segment the scan again."
    if is_trivial(shape, affine) and not is_trivial(scan.hu.shape, scan.affine):
        raise MaskError(
            f"The masks' header has lost its geometry (voxels of 1 mm from the origin on), so that their "
            f"{_size(shape)} voxels cannot be laid on the scan's {_size(scan.hu.shape)}.",
            code="mask_geometry",
            fix=copy,
        )
    if tuple(shape) != scan.hu.shape:
        return
    apart = np.linalg.norm(affine[:3, :3] - scan.affine[:3, :3], axis=0) / scan.spacing_mm
    if apart.max() > 0.05:
        raise MaskError(
            f"The masks have the scan's {_size(shape)} voxels, but theirs are {_edges(affine)} mm and the scan's "
            f"{_edges(scan.affine)} mm, or turned: one of the headers is wrong.",
            code="mask_geometry",
            fix=copy,
        )
    shift = np.linalg.solve(scan.affine[:3, :3], affine[:3, 3] - scan.affine[:3, 3])
    if np.abs(shift).max() > 1:
        by = ", ".join(f"{value:.1f}" for value in affine[:3, 3] - scan.affine[:3, 3])
        raise MaskError(
            f"The masks have the scan's {_size(shape)} voxels, but lie ({by}) mm beside them: one of the headers is "
            "wrong.",
            code="mask_elsewhere",
            fix=copy,
        )


def is_trivial(shape: tuple[int, ...], affine: np.ndarray) -> bool:
    """Whether an affine says nothing: voxels of 1 mm along the axes, the first or last one at the origin."""
    if np.abs(np.abs(affine[:3, :3]) - np.eye(3)).max() > 1e-6:
        return False
    return all(
        min(abs(position), abs(position + n - 1)) < 1e-3 for position, n in zip(affine[:3, 3], shape, strict=True)
    )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _edges(affine: np.ndarray) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing_of(affine))


def _described(shape: tuple[int, ...], affine: np.ndarray) -> str:
    size = "x".join(map(str, shape))
    position = ", ".join(f"{value:.0f}" for value in affine[:3, 3])
    return f"{size} at ({position}) mm"


def _slice_mismatch(shape: tuple[int, ...], affine: np.ndarray, scan: Scan) -> int | None:
    """The slice axis, when the two grids agree in plane and in the number of slices but not in where these lie."""
    uneven = isinstance(scan, UnevenScan) and scan.slices is not None
    edges, scan_edges = affine[:3, :3], scan.affine[:3, :3]
    for axis in [scan.slice_axis] if isinstance(scan, UnevenScan) else [2, 1, 0]:
        plane = [k for k in range(3) if k != axis]
        count = len(scan.slices) if isinstance(scan, UnevenScan) and scan.slices is not None else scan.hu.shape[axis]
        if shape[axis] != count or any(shape[k] != scan.hu.shape[k] for k in plane):
            continue
        smallest = min(spacing_of(scan.affine))
        extent = max(scan.hu.shape[k] for k in plane)
        if np.abs(edges - scan_edges)[:, plane].max() * extent > 0.5 * smallest:
            continue
        unit, other = (
            scan_edges[:, axis] / np.linalg.norm(scan_edges[:, axis]),
            edges[:, axis] / np.linalg.norm(edges[:, axis]),
        )
        apart = abs(np.linalg.norm(edges[:, axis]) / np.linalg.norm(scan_edges[:, axis]) - 1)
        off = scan.affine[:3, 3] - affine[:3, 3]
        if unit @ other < 0.999 or np.linalg.norm(off - (off @ unit) * unit) > 0.5 * smallest:
            continue
        if uneven or apart * count > 0.5:
            return axis
    return None


def _slice_by_slice(
    labels: np.ndarray, affine: np.ndarray, scan: Scan, axis: int, *, by_index: bool
) -> tuple[np.ndarray, list[QualityCheck]]:
    theirs, ours = spacing_of(affine)[axis], spacing_of(scan.affine)[axis]
    found = (
        f"The masks have the scan's {labels.shape[axis]} slices, but lie {theirs:.4g} mm apart where the scan's grid "
        f"has {ours:.4g} mm"
    )
    if not by_index:
        raise MaskError(
            f"{found}.",
            code="mask_slice_spacing",
            fix="If each mask slice belongs to the slice of the same number, set align_masks_by_index: true.",
        )
    if isinstance(scan, UnevenScan) and scan.slices is not None:
        index = np.abs(np.arange(scan.hu.shape[axis])[:, None] - scan.slices).argmin(1)
        labels = labels.take(index, axis=axis)
    check = QualityCheck("mask_slice_spacing", "warning", f"{found}; they were laid on slice by slice.", theirs)
    return labels, [check]
