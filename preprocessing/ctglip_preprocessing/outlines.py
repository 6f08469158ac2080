"""Nodules that several readers outlined slice by slice (LIDC-IDRI), as voxels of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctglip.ct.masks_contours import fill_polygon

_HAIR = 1e-4
_CORNERS = ((-_HAIR, -_HAIR), (-_HAIR, _HAIR), (_HAIR, -_HAIR), (_HAIR, _HAIR))
"""A place on an edge is outside when the contour is moved by a hair in one of these ways."""


def draw_outline(
    outline: dict[str, Any], shape: tuple[int, ...], affine: np.ndarray
) -> tuple[np.ndarray, list[int]] | None:
    """The voxels that enough readers enclosed.

    A slice takes the nearest of a reader's planes within half of their distance. A contour with ``inclusion`` false is
    a hole: what it encloses is taken away, its own edge stays.

    Args:
        outline: ``readers``: for each a list of ``{points: [[x, y, z], ...] in RAS mm, inclusion}``; ``least``: how
            many of them must have enclosed a voxel.
        shape, affine: of the grid, whose slices are axial.

    Returns:
        Bool ``[x, y, z]`` and the voxel that it begins at; None where nothing lies on the grid.
    """
    inverse = np.linalg.inv(affine)
    readers = [
        [
            (np.asarray(one["points"], float) @ inverse[:3, :3].T + inverse[:3, 3], bool(one["inclusion"]))
            for one in contours
        ]
        for contours in outline["readers"]
    ]
    points = np.concatenate([contour for reader in readers for contour, _ in reader])
    low = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, shape)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 2, 0, shape)
    if (high <= low).any():
        return None
    votes = np.zeros(high - low, np.uint8)
    for reader in readers:
        votes += _enclosed(reader, low, high)
    inside = votes >= int(outline["least"])
    return (inside, low.tolist()) if inside.any() else None


def _enclosed(contours: list[tuple[np.ndarray, bool]], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What one reader enclosed, from voxel ``low`` to ``high``."""
    heights = np.array([contour[:, 2].mean() for contour, _ in contours])
    planes = np.unique(np.round(heights, 3))
    gap = float(np.diff(planes).min()) if len(planes) > 1 else 1.0
    reach = max(gap, 1.0) / 2 + 1e-3
    inside = np.zeros(high - low, bool)
    size = int(high[0] - low[0]), int(high[1] - low[1])
    for index in range(int(low[2]), int(high[2])):
        apart = np.abs(planes - index)
        if apart.min() > reach:
            continue
        plane = planes[int(apart.argmin())]
        here = [
            (points[:, :2] - low[:2], kept)
            for (points, kept), height in zip(contours, heights, strict=True)
            if abs(height - plane) < 2e-3
        ]
        kept, holes = (
            np.logical_or.reduce([np.zeros(size, bool), *(_filled(c, size) for c, held in here if held is which)])
            for which in (True, False)
        )
        inside[..., index - low[2]] = kept & ~holes
    return inside


def _filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What lies strictly inside a contour, whose own pixels are outside; one of a single pixel, or too thin for the
    grid, is the pixel of its middle."""
    filled = np.full(size, len(points) > 2)
    for x, y in _CORNERS:
        filled &= fill_polygon(points + np.array([x, y]), size) if len(points) > 2 else False
    if not filled.any():
        mark_nearest(filled, points.mean(0))
    return filled


def mark_nearest(inside: np.ndarray, place: np.ndarray) -> None:
    """Mark the voxel nearest to a place, where it is one of the array."""
    nearest = np.rint(place).astype(int)
    if ((nearest >= 0) & (nearest < inside.shape)).all():
        inside[tuple(nearest)] = True
