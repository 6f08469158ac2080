"""A grid in millimetres to paint tissue on: ellipsoids, tubes and sheets, later paint over earlier paint.

Coordinates are RAS+ millimetres: x to the patient's right from the midline, y to the front, z up from the pelvis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Slices = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Patch:
    """Voxels of one shape: a box of the canvas, which of its voxels belong, how deep (1 at the surface, 0 inside)."""

    slices: Slices
    inside: np.ndarray
    level: np.ndarray


def smooth_noise(shape: tuple[int, ...], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random field, mean 0, deviation about 1, float32: coarse normal values interpolated linearly.

    Args:
        shape: voxels along each axis.
        cell: voxels between two independent values.
        rng: source of the values.
    """
    coarse = [int(np.ceil(n / cell)) + 2 for n in shape]
    field = rng.standard_normal(coarse).astype(np.float32)
    for axis, n in enumerate(shape):
        field = upsample(field, axis, n, cell, float(rng.random()))
    return field * np.float32(1.4)


def periodic_piece(field: np.ndarray, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A piece of a periodic field, from a random voxel on."""
    start = [int(rng.integers(n)) for n in field.shape]
    rows = [(np.arange(n) + first) % full for n, first, full in zip(shape, start, field.shape, strict=True)]
    return field[np.ix_(*rows)]


def distance(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Distance from the origin, ``[x, y, z]``, of every point of a grid with these coordinates along its axes."""
    x, y, z = axes
    return np.sqrt(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2)


def box_around(
    boxes: Sequence[Slices | None],
    wanted: np.ndarray,
    shape: Sequence[int],
    spacing_mm: Spacing,
    margin_mm: float = 0,
) -> Slices | None:
    """The box around labels with a margin, clipped to the grid; None where none of them is there.

    Args:
        boxes: of each label, 1 first.
        wanted: bool ``[256]``, which labels.
        shape: voxels of the grid.
        spacing_mm: edges of a voxel.
        margin_mm: on every side.
    """
    found = [box for label, box in enumerate(boxes, start=1) if wanted[label] and box is not None]
    if not found:
        return None
    margins = [round(margin_mm / mm) for mm in spacing_mm]
    a, b, c = (
        slice(
            max(0, min(box[axis].start for box in found) - margin),
            min(n, max(box[axis].stop for box in found) + margin),
        )
        for axis, (n, margin) in enumerate(zip(shape, margins, strict=True))
    )
    return a, b, c


def upsample(field: np.ndarray, axis: int, n: int, cell: float, offset: float = 0.0) -> np.ndarray:
    """Linear interpolation of ``field`` along one axis to ``n`` samples, ``cell`` of them to a step."""
    at = np.arange(n, dtype=np.float32) / np.float32(cell) + np.float32(offset)
    low = np.minimum(at.astype(np.intp), field.shape[axis] - 2)
    weights = np.zeros((n, field.shape[axis]), np.float32)
    rows = np.arange(n)
    weights[rows, low] = 1 - (at - low)
    weights[rows, low + 1] = at - low
    return np.ascontiguousarray(np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis))


def curve(points: Sequence[Sequence[float]] | np.ndarray, step_mm: float | None = None) -> np.ndarray:
    """Points ``[n, k]`` along a smooth (Catmull-Rom) line through ``points``, evenly about ``step_mm`` apart.

    The fourth column, where there is one, is a radius, and sets the step when none is given.
    """
    knots = np.asarray(points, np.float64)
    if step_mm is None:
        step_mm = max(1.5, 0.22 * float(knots[:, 3].mean()))
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    pieces = []
    for p0, p1, p2, p3 in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        count = max(2, int(np.ceil(np.linalg.norm((p2 - p1)[:3]) / step_mm)))
        t = np.linspace(0, 1, count, endpoint=False)[:, None]
        pieces.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    return np.vstack([*pieces, knots[-1:]])


def rotation(tilt_deg: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rotation matrix ``[3, 3]`` for turns about x, then y, then z, in degrees."""
    x, y, z = np.deg2rad(np.asarray(tilt_deg, np.float64))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


class Canvas:
    """Tissue on a grid.

    Attributes:
        hu: float32 ``[x, y, z]``.
        labels: uint8 ``[x, y, z]``, TotalSegmentator v2 numbers, 0 where a tissue has none.
        zone: uint8 ``[x, y, z]``, which cavity a voxel lies in; shapes can be kept within zones.
        tissue: uint8 ``[x, y, z]``, number of the tissue whose HU depends on the contrast phase, 0 for all others.
        bumps: float32 ``[x, y, z]``, smooth noise that roughens surfaces.
    """

    def __init__(self, shape: tuple[int, int, int], spacing_mm: float, rng: np.random.Generator) -> None:
        self.shape = shape
        self.spacing = spacing_mm
        self.origin = np.array([-(shape[0] - 1) / 2, -(shape[1] - 1) / 2, 0.0]) * spacing_mm
        self.hu = np.full(shape, -1000, np.float32)
        self.labels = np.zeros(shape, np.uint8)
        self.zone = np.zeros(shape, np.uint8)
        self.tissue = np.zeros(shape, np.uint8)
        self.bumps = smooth_noise(shape, 14 / spacing_mm, rng)
        self.grain = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 1.2, truncate=2.5) * np.float32(5)

    def axes(self, slices: Slices | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Broadcastable x, y, z coordinates in millimetres of the whole grid or a box of it."""
        parts = slices or (slice(None),) * 3
        x, y, z = (
            (np.arange(n, dtype=np.float32)[part] * np.float32(self.spacing) + np.float32(o))
            for n, o, part in zip(self.shape, self.origin, parts, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def box(self, low_mm: np.ndarray, high_mm: np.ndarray) -> Slices:
        """Slices of the voxels between two corners in millimetres, clipped to the grid."""
        low = np.floor((np.asarray(low_mm) - self.origin) / self.spacing).astype(int)
        high = np.ceil((np.asarray(high_mm) - self.origin) / self.spacing).astype(int) + 1
        a, b, c = (slice(max(0, lo), max(0, min(n, hi))) for lo, hi, n in zip(low, high, self.shape, strict=True))
        return a, b, c

    def ellipsoid(
        self,
        centre: Sequence[float] | np.ndarray,
        radii: Sequence[float] | np.ndarray,
        tilt: Sequence[float] | np.ndarray = (0, 0, 0),
        power: float = 2.0,
        rough: float = 0.05,
    ) -> Patch:
        """A (super)ellipsoid, optionally turned, with a surface roughened by ``rough`` of its radius."""
        middle, reach = np.asarray(centre, np.float64), np.asarray(radii, np.float64)
        turn = rotation(tilt)
        extent = np.abs(turn) @ reach * (1.05 + 2 * rough)
        slices = self.box(middle - extent, middle + extent)
        x, y, z = (axis - np.float32(m) for axis, m in zip(self.axes(slices), middle, strict=True))
        matrix = (turn.T / reach[:, None]).astype(np.float32)
        total: np.ndarray | float = 0.0
        for row in matrix:
            total = total + np.abs(row[0] * x + row[1] * y + row[2] * z) ** np.float32(power)
        level = np.asarray(total) ** np.float32(1 / power) + np.float32(rough) * self.bumps[slices]
        return Patch(slices, level < 1, level)

    def fill(
        self,
        patch: Patch,
        label: int | None,
        hu: float | np.ndarray,
        zones: Sequence[int] = (),
        over: Sequence[int] = (),
        tissue: int = 0,
    ) -> None:
        """Paint a patch; ``label`` None keeps the labels, ``zones`` and ``over`` (labels) limit where it goes."""
        where = patch.inside
        if zones:
            where = where & np.isin(self.zone[patch.slices], zones)
        if over:
            where = where & np.isin(self.labels[patch.slices], over)
        self.hu[patch.slices][where] = hu[where] if isinstance(hu, np.ndarray) else hu
        self.tissue[patch.slices][where] = tissue
        if label is not None:
            self.labels[patch.slices][where] = label

    def stamp(
        self,
        points: np.ndarray,
        label: int | None,
        hu: float,
        over: Sequence[int] = (),
        gas_y: float | None = None,
        tissue: int = 0,
    ) -> None:
        """Paint balls ``[n, 4]`` (x, y, z, radius in mm), so close together that they make a tube or a sheet.

        ``over`` limits it to voxels of these labels, ``gas_y`` paints what lies in front of that height as gas.
        """
        reach = int(np.ceil(float(points[:, 3].max()) / self.spacing))
        at = (points[:, :3] - self.origin) / self.spacing
        voxels = np.rint(at).astype(np.int32)[:, :, None] + np.arange(-reach, reach + 1, dtype=np.int32)
        away = ((voxels - at[:, :, None]) * self.spacing).astype(np.float32) ** 2
        away[(voxels < 0) | (voxels >= np.array(self.shape)[None, :, None])] = np.inf
        distance = away[:, 0, :, None, None] + away[:, 1, None, :, None] + away[:, 2, None, None, :]
        ball, i, j, k = np.nonzero(distance <= (points[:, 3] ** 2).astype(np.float32)[:, None, None, None])
        where = (voxels[ball, 0, i], voxels[ball, 1, j], voxels[ball, 2, k])
        if over:
            allowed = np.isin(self.labels[where], over)
            where = (where[0][allowed], where[1][allowed], where[2][allowed])
        self.hu[where] = hu
        self.tissue[where] = tissue
        if gas_y is not None:
            level = (gas_y - self.origin[1]) / self.spacing
            front = where[1] > level
            self.hu[where[0][front], where[1][front], where[2][front]] = -960
        if label is not None:
            self.labels[where] = label
