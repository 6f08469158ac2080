"""Smooth deformation of an anatomy: pose, build and breathing on a coarse grid, local changes of size on top.

A warp maps points of the study back to points of the anatomy (both in mm); the anatomy is then read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.canvas import Spacing, rotation, smooth_noise, upsample

COARSE, COARSE_MM = 3, 9.0
"""Study voxels between two points of the coarse grid: this many, or as many as make up so many millimetres."""


def coarse_steps(spacing_mm: Spacing) -> tuple[int, int, int]:
    """Voxels between two points of the coarse grid, by axis."""
    x, y, z = (max(COARSE, round(COARSE_MM / mm)) for mm in spacing_mm)
    return x, y, z


class Warp(Protocol):
    """A local change of shape.

    Attributes:
        centre: point of the anatomy in mm around which it acts.
        reach_mm: half-widths of the box outside which it changes nothing.
        fine: needs the full grid, not the coarse one.
    """

    @property
    def centre(self) -> np.ndarray: ...
    @property
    def reach_mm(self) -> np.ndarray: ...
    @property
    def fine(self) -> bool: ...
    def apply(self, points: np.ndarray) -> np.ndarray:
        """Source points for ``points``, both ``[3, ...]`` in mm of the anatomy."""
        ...


@dataclass(frozen=True)
class Swelling:
    """What lies inside an ellipsoid grows (or shrinks) ``factor`` times in every direction; its surroundings give way.

    Attributes:
        radii_mm: the ellipsoid before it grows.
        reach: the surroundings that give way, in radii.
    """

    centre: np.ndarray
    radii_mm: np.ndarray
    factor: float
    reach: float = 2.4
    fine: bool = False

    @property
    def reach_mm(self) -> np.ndarray:
        """Half-widths of the box that the surroundings fill."""
        return self.radii_mm * self.reach

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Source points: inside, distances divide by the factor; from there out to ``reach`` they catch up linearly."""
        shift = points - _column(self.centre, points)
        distance = np.sqrt(((shift / _column(self.radii_mm, points)) ** 2).sum(0)) + np.float32(1e-6)
        outside = 1 + (distance - self.factor) * (self.reach - 1) / (self.reach - self.factor)
        source = np.where(distance < self.factor, distance / self.factor, outside)
        ratio = np.where(distance < self.reach, source / distance, 1).astype(np.float32)
        return _column(self.centre, points) + shift * ratio


@dataclass(frozen=True)
class Wedge:
    """A vertebral body that lost height, more in front than behind; its neighbours' end plates follow.

    Attributes:
        half_mm: half-width, half-depth and half-height of the body.
        loss: share of the height lost at the front edge.
    """

    centre: np.ndarray
    half_mm: np.ndarray
    loss: float
    fine: bool = True

    @property
    def reach_mm(self) -> np.ndarray:
        """Half-widths of the box around the body and halfway into its neighbours."""
        return self.half_mm * np.array([1.7, 1.7, 2.0])

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Source points: heights inside the body stretch back to what they were."""
        x, y, z = points - _column(self.centre, points)
        half = self.half_mm
        front = np.clip(0.5 + 0.5 * y / half[1], 0, 1)
        window = np.clip((1.65 - np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2)) / 0.5, 0, 1)
        remaining = half[2] * (1 - self.loss * window * (0.3 + 0.7 * front))
        limit = 1.95 * half[2]
        height = np.abs(z)
        outside = half[2] + (height - remaining) * (limit - half[2]) / (limit - remaining)
        source = np.where(height < remaining, height * half[2] / remaining, np.where(height < limit, outside, height))
        moved = points.copy()
        moved[2] = self.centre[2] + np.sign(z) * source
        return moved


@dataclass(frozen=True)
class Bulge:
    """A vessel along z that widens like a spindle, its back wall held in place.

    Attributes:
        line: ``[n, 4]`` heights, centre x, centre y and radius of the vessel, in mm, heights ascending.
        factor: how many times wider at ``centre``.
        length_mm: half-length of the spindle.
    """

    centre: np.ndarray
    line: np.ndarray
    factor: float
    length_mm: float
    fine: bool = True

    @property
    def reach_mm(self) -> np.ndarray:
        """Half-widths of the box that is changed."""
        wide = 2.4 * float(self.line[:, 3].max()) * self.factor
        return np.array([wide, wide, 2.2 * self.length_mm])

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Source points: the widened circle of each height shrinks back to the vessel's own."""
        x, y, z = points
        middle_x, middle_y, radius = (np.interp(z, self.line[:, 0], self.line[:, n]) for n in (1, 2, 3))
        grown = 1 + (self.factor - 1) * np.exp(-(((z - self.centre[2]) / self.length_mm) ** 2))
        wide, back = radius * grown, middle_y - radius
        away_x, away_y = x - middle_x, y - (back + wide)
        distance = np.sqrt(away_x**2 + away_y**2) / wide
        weight = np.clip((2.3 - distance) / 1.3, 0, 1) * np.clip((y - back + 3) / 4, 0, 1)
        moved = points.copy()
        moved[0] = x + weight * (middle_x + away_x / grown - x)
        moved[1] = y + weight * (middle_y + away_y / grown - y)
        return moved


def _column(vector: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(vector, np.float32).reshape(3, *(1,) * (points.ndim - 1))


@dataclass(frozen=True)
class Pose:
    """How one patient's body differs from its anatomy.

    Attributes:
        scale: growth along x, y, z.
        tilt_deg: turn about x, y, z.
        fat: growth of the outer layers of the body.
        swellings: organs a little larger or smaller than in the anatomy.
        seed: of the smooth random displacement.
        wave_mm: its deviation.
    """

    scale: np.ndarray
    tilt_deg: np.ndarray
    fat: float
    swellings: tuple[Swelling, ...]
    seed: int
    wave_mm: float


def draw_pose(anatomy: Anatomy, rng: np.random.Generator, habitus: float = 1.0) -> Pose:
    """A pose for one patient: size, build, tilt, and organs of 90 to 110 % of their diameter.

    Args:
        habitus: how much more than usual patients differ in size and fat.
    """
    size = rng.normal(1, 0.035 * habitus)
    scale = np.clip(size + rng.normal(0, 0.025, 3), 1 - 0.1 * habitus, 1 + 0.1 * habitus)
    organs = []
    for organ, spread in (
        ("spleen", 0.06), ("heart", 0.035), ("liver", 0.03), ("kidney_left", 0.05), ("kidney_right", 0.05),
        ("gallbladder", 0.08), ("urinary_bladder", 0.10), ("stomach", 0.06), ("colon", 0.02),
    ):  # fmt: skip
        factor = float(np.clip(rng.normal(1, spread), 1 - 2 * spread, 1 + 2 * spread))
        position = anatomy.position(organ)
        if position is not None:
            organs.append(Swelling(position[0], position[1], factor))
    tilt, fat = rng.normal(0, 1.6, 3), float(rng.uniform(0.75, 1.35)) ** habitus
    return Pose(scale, tilt, fat, tuple(organs), int(rng.integers(2**31)), 3.0)


def sample(
    anatomy: Anatomy, pose: Pose, warps: Sequence[Warp], spacing_mm: Spacing, breath: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The anatomy in a pose on a new grid.

    Returns:
        float32 HU and uint8 labels, ``[x, y, z]`` at ``spacing_mm``, RAS+.
    """
    extent = np.array(anatomy.hu.shape) * anatomy.spacing_mm
    x, y, z = (int(n) for n in np.round((extent * pose.scale + [12, 8, 0]) / spacing_mm))
    shape = (x, y, z)
    points = _coarse_points(anatomy, pose, shape, spacing_mm, breath)
    for warp in (*pose.swellings, *warps):
        if not warp.fine:
            points = warp.apply(points)
    steps = coarse_steps(spacing_mm)
    full = np.stack([_fine(component, shape, steps) for component in points])
    for warp in warps:
        if warp.fine:
            box = _box_around(points, warp, shape, steps)
            full[:, *box] = warp.apply(full[:, *box])
    return read_anatomy(anatomy, full)


def _coarse_points(
    anatomy: Anatomy, pose: Pose, shape: tuple[int, int, int], spacing_mm: Spacing, breath: np.random.Generator
) -> np.ndarray:
    """Anatomy points in mm for the coarse grid of a study, ``[3, ...]``."""
    steps = coarse_steps(spacing_mm)
    sizes = [n // step + 2 for n, step in zip(shape, steps, strict=True)]
    extent = np.array(anatomy.hu.shape) * anatomy.spacing_mm
    axes = [
        ((np.arange(n) * step - (full - 1) / 2) * mm / s)
        for n, full, s, step, mm in zip(sizes, shape, pose.scale, steps, spacing_mm, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    points = np.tensordot(rotation(pose.tilt_deg).astype(np.float32), grid, 1)
    out = np.sqrt((points[0] / (extent[0] * 0.46)) ** 2 + (points[1] / (extent[1] * 0.44)) ** 2)
    ring = 0.72
    inward = np.where(out > ring, (ring + (out - ring) / pose.fat) / np.maximum(out, ring), 1)
    points[:2] *= inward
    points += _column((extent - anatomy.spacing_mm) / 2, points)
    rng = np.random.default_rng(pose.seed)
    for axis, share in enumerate((1.0, 1.0, 1.2)):
        points[axis] += share * pose.wave_mm * smooth_noise(tuple(sizes), 7, rng)
        points[axis] += 1.2 * smooth_noise(tuple(sizes), 9, breath)
    return points


def _fine(component: np.ndarray, shape: tuple[int, int, int], steps: tuple[int, int, int]) -> np.ndarray:
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        component = upsample(component, axis, n, step)
    return component


def _box_around(
    points: np.ndarray, warp: Warp, shape: tuple[int, int, int], steps: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """Study voxels that a warp can change, found on the coarse grid."""
    near = (np.abs(points - _column(warp.centre, points)) <= _column(warp.reach_mm, points) + COARSE * 4).all(0)
    where = np.nonzero(near)
    a, b, c = (
        slice(max(0, int(w.min()) * step), min(n, (int(w.max()) + 1) * step)) if len(w) else slice(0, 0)
        for w, n, step in zip(where, shape, steps, strict=True)
    )
    return a, b, c


def read_anatomy(anatomy: Anatomy, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HU (trilinear) and labels (nearest) of an anatomy at points in mm; outside it, its border.

    Works slab by slab, so that what it holds at once stays in the processor's cache.
    """
    hu = np.empty(points.shape[1:], np.float32)
    labels = np.empty(points.shape[1:], np.uint8)
    for start in range(0, len(hu), 4):
        slab = slice(start, start + 4)
        _read_slab(anatomy, points[:, slab], hu[slab], labels[slab])
    return hu, labels


def _read_slab(anatomy: Anatomy, points: np.ndarray, hu: np.ndarray, labels: np.ndarray) -> None:
    size = anatomy.hu.shape
    nearest = np.zeros(hu.shape, np.int32)
    corner = np.zeros(hu.shape, np.int32)
    shares = []
    for point, spacing, n in zip(points, anatomy.spacing_mm, size, strict=True):
        position = np.clip(point / np.float32(spacing), 0, n - 1.001)
        low = position.astype(np.int32)
        shares.append(position - low)
        corner = corner * n + low
        nearest = nearest * n + low + (shares[-1] >= 0.5)
    flat, (fx, fy, fz) = anatomy.hu.reshape(-1), shares
    step_x, step_y = size[1] * size[2], size[2]

    def along_z(shift: int) -> np.ndarray:
        low = flat.take(corner + shift)
        return low + fz * (flat.take(corner + (shift + 1)) - low)

    def along_y(shift: int) -> np.ndarray:
        low = along_z(shift)
        return low + fy * (along_z(shift + step_y) - low)

    near = along_y(0)
    hu[...] = near + fx * (along_y(step_x) - near)
    labels[...] = anatomy.labels.reshape(-1).take(nearest)
