"""Contours of radiotherapy (RTSTRUCT) as label maps on the scan's slices.

Contours are gathered by plane; within a plane a contour inside another is a hole. A slice of the scan takes the nearest
plane within half of the contours' spacing, so that coarser contours leave no gap and finer ones do not cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from ctglip.ct.dicom_tags import integer
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.errors import MaskError
from ctglip.types import QualityCheck, Scan
from ctglip.vocabulary.organs import Organ

_SAME_PLANE_MM = 0.1
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")


def draw_contours(
    dataset: Dataset, known: Sequence[tuple[int, Organ]], scan: Scan, checks: list[QualityCheck]
) -> np.ndarray:
    """Dictionary labels ``[x, y, z]`` on the scan's grid.

    Args:
        known: number of a structure and its organ, wholes before their parts.
        checks: receives a warning for structures outside of the scan.

    Raises:
        MaskError: ``dicom_geometry`` for contours that lie in no plane of the scan, ``mask_elsewhere``.
    """
    sequence = dataset.get("ROIContourSequence") or []
    outlines = {
        integer(outline.get("ReferencedROINumber")): outline.get("ContourSequence") or [] for outline in sequence
    }
    inverse = np.linalg.inv(LPS_TO_RAS @ scan.affine)
    contours = {key: [c for item in outlines.get(key, []) if len(c := _points(item, inverse)) >= 3] for key, _ in known}
    every = [contour for found in contours.values() for contour in found]
    if not every:
        raise MaskError("The structures of the DICOM masks have no closed contours.", code="masks_empty")
    axis = int(np.argmin([max(np.ptp(contour[:, k]) for contour in every) for k in range(3)]))
    spacing = scan.spacing_mm[axis]
    tilted = max(float(np.ptp(contour[:, axis])) * spacing for contour in every)
    if tilted > max(0.5 * spacing, 2 * _SAME_PLANE_MM):
        raise MaskError(
            f"The contours of the DICOM masks do not lie in slices of the scan: points of one are {tilted:.2g} mm "
            f"apart across slices of {spacing:.2g} mm.",
            code="dicom_geometry",
            fix="Export them on the slices of this scan, or as a DICOM segmentation.",
        )
    count = scan.hu.shape[axis]
    outside = sum(not -0.5 - 1e-3 <= contour[:, axis].mean() <= count - 0.5 + 1e-3 for contour in every)
    if outside > len(every) / 2:
        raise MaskError(
            f"{outside} of the {len(every)} contours of the DICOM masks lie outside of the scan's {count} slices.",
            code="mask_elsewhere",
            fix="Give the contours that were drawn on this scan.",
        )
    if outside:
        message = f"{outside} of {len(every)} contours of the DICOM masks lie outside of the scan."
        checks.append(QualityCheck("contours_outside", "warning", message, outside))
    labels = np.zeros(scan.hu.shape, np.uint8)
    for key, organ in known:
        _draw(np.moveaxis(labels, axis, 2), contours[key], axis, spacing, organ.label or 0)
    return labels


def _points(item: Dataset, inverse: np.ndarray) -> np.ndarray:
    """A contour's points in voxels of the scan ``[n, 3]``; none for what is no closed contour."""
    if str(item.get("ContourGeometricType") or "").upper() not in _CLOSED:
        return np.zeros((0, 3))
    points = np.asarray(item.get("ContourData") or [], np.float64).reshape(-1, 3)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def _draw(labels: np.ndarray, contours: Sequence[np.ndarray], axis: int, spacing: float, label: int) -> None:
    """Fill one structure into ``labels [a, b, slices]``."""
    planes = _planes(contours, axis, spacing)
    if not planes:
        return
    heights = np.array([height for height, _ in planes])
    gaps = np.diff(heights)
    usual = float(np.quantile(gaps, 0.75, method="lower")) if len(gaps) else spacing
    reach = max(usual, spacing) / 2 * (1 + 1e-3)
    filled: dict[int, np.ndarray] = {}
    for index in range(labels.shape[2]):
        apart = np.abs(heights - index * spacing)
        nearest = int(apart.argmin())
        if apart[nearest] > reach:
            continue
        if nearest not in filled:
            inside = np.zeros(labels.shape[:2], bool)
            for contour in planes[nearest][1]:
                inside ^= fill_polygon(contour, (labels.shape[0], labels.shape[1]))
            filled = {nearest: inside}
        labels[:, :, index][filled[nearest]] = label


def _planes(contours: Sequence[np.ndarray], axis: int, spacing: float) -> list[tuple[float, list[np.ndarray]]]:
    """Height in mm (from the first slice) and in-plane contours of each plane, from below; none twice."""
    others = [k for k in range(3) if k != axis]
    placed = sorted(((float(c[:, axis].mean()) * spacing, c[:, others]) for c in contours), key=lambda pair: pair[0])
    planes: list[tuple[float, list[np.ndarray]]] = []
    for height, contour in placed:
        if not planes or height - planes[-1][0] > _SAME_PLANE_MM:
            planes.append((height, []))
        plane = planes[-1][1]
        if not any(c.shape == contour.shape and np.abs(c - contour).max() < 1e-3 for c in plane):
            plane.append(contour)
    return planes


def fill_polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Voxels ``[x, y]`` whose centres lie inside a polygon, by counting the edges that a line along x crosses.

    Args:
        points: corners in voxels ``[n, 2]``; a channel that is gone there and back (a keyhole) bounds nothing.
    """
    result = np.zeros(shape, bool)
    start, end = points, np.roll(points, -1, axis=0)
    for y in range(max(0, int(points[:, 1].min())), min(shape[1], int(points[:, 1].max()) + 2)):
        crossing = (start[:, 1] <= y) != (end[:, 1] <= y)
        a, b = start[crossing], end[crossing]
        positions = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        result[:, y] = np.searchsorted(np.sort(positions), np.arange(shape[0]), side="right") % 2 == 1
    return result
