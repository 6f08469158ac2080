"""Digitally reconstructed radiographs: a CT (real or simulated) as an X-ray radiograph would show it.

Geometry: a cone beam from a point source onto a flat detector. Frontal radiographs are PA: the beam enters at the back,
the detector stands before the chest; lateral ones are left lateral: the beam enters at the right side. The picture is
shown as radiologists hang it: the patient's right on the left (frontal), the front on the left (lateral). Every
plane parallel to the detector is enlarged by (source to detector) / (source to plane) and added up, with the
attenuation of its HU, mu = mu_water (1 + HU / 1000); the longer way of oblique rays counts. Scatter is a blurred share
of the primary beam, noise is that of counted photons, the detector answers with the logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings

View = Literal["pa", "lateral"]
_COARSE = 2
"""Radiograph pixels between two points that are projected; what lies between is interpolated."""


class BeamSettings(Settings):
    """The X-ray set.

    Attributes:
        source_mm: from the source to the detector.
        gap_mm: from the skin to the detector.
        pixel_mm: edge of a radiograph pixel, at the detector.
        margin_mm: how much of the body around the lungs is on the radiograph.
        mu_water: attenuation of water for a mm; 0.0193 is that of 70 keV.
        scatter: scattered radiation as a share of the primary beam, behind a grid.
        photons: counted by a pixel without a patient.
    """

    source_mm: float = Field(default=1800.0, gt=500)
    gap_mm: float = Field(default=50.0, ge=0)
    pixel_mm: float = Field(default=1.0, gt=0.05, le=8)
    margin_mm: float = Field(default=35.0, ge=0)
    mu_water: float = Field(default=0.0193, gt=0)
    scatter: float = Field(default=0.25, ge=0)
    photons: float = Field(default=3e5, gt=0)


@dataclass(frozen=True)
class Geometry:
    """Where points of a volume come to lie on the radiograph.

    Attributes:
        view: of the radiograph.
        spacing_mm: edge of the volume's (cubic) voxels.
        shape: voxels of the volume ``[x, y, z]``.
        centre_mm: where the central ray crosses: (across, up), from the first voxel.
        source: of the beam along its own direction, from the first voxel; the detector is ``source_mm`` further.
        first_mm: radiograph coordinates (column, row) of the first pixel's centre, from the central ray.
        size: (rows, columns) of the radiograph.
    """

    view: View
    spacing_mm: float
    shape: tuple[int, int, int]
    centre_mm: tuple[float, float]
    source: float
    source_mm: float
    first_mm: tuple[float, float]
    size: tuple[int, int]
    pixel_mm: float

    def along(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points ``[n, 3]`` in mm from the first voxel as (across, along the beam, up)."""
        x, y, z = points.T
        if self.view == "pa":
            return x, y, z
        return y, (self.shape[0] - 1) * self.spacing_mm - x, z

    def to_radiograph(self, points: np.ndarray) -> np.ndarray:
        """(row, column) ``[n, 2]``, pixel centres at whole numbers, of points ``[n, 3]`` in mm from the first voxel."""
        lateral, depth, up = self.along(np.asarray(points, float))
        enlarged = self.source_mm / (depth - self.source)
        columns = -(lateral - self.centre_mm[0]) * enlarged
        rows = -(up - self.centre_mm[1]) * enlarged
        return np.stack([(rows - self.first_mm[1]), (columns - self.first_mm[0])], 1) / self.pixel_mm

    def enlargement(self, point: np.ndarray) -> float:
        """By how much a thing at a point (mm from the first voxel) is enlarged."""
        _, depth, _ = self.along(np.asarray(point, float)[None])
        return float(self.source_mm / (depth[0] - self.source))


def set_up(
    body: np.ndarray, lungs: np.ndarray, spacing_mm: float, view: View, beam: BeamSettings, shift_mm: np.ndarray
) -> Geometry:
    """Point the beam at the middle of the lungs and collimate it to them.

    Args:
        body: bool ``[x, y, z]``, what is patient.
        lungs: bool, the lungs.
        shift_mm: by how much the radiograph is off centre, (column, row).
    """
    boxes = [ndimage.find_objects(mask.astype(np.uint8))[0] for mask in (body, lungs)]
    shape = (body.shape[0], body.shape[1], body.shape[2])
    blank = Geometry(view, spacing_mm, shape, (0, 0), 0, beam.source_mm, (0, 0), (1, 1), beam.pixel_mm)
    corners = [_corners(box) * spacing_mm for box in boxes]
    (_, deep, _), (lateral, depth, up) = blank.along(corners[0]), blank.along(corners[1])
    centre = float(lateral.min() + lateral.max()) / 2, float(up.min() + up.max()) / 2
    source = float(deep.max()) + beam.gap_mm - beam.source_mm
    enlarged = beam.source_mm / (float(depth.mean()) - source)
    half = [(np.ptp(values) / 2 * enlarged + beam.margin_mm) for values in (lateral, up)]
    columns, rows = (max(32, round(2 * h / beam.pixel_mm / _COARSE) * _COARSE) for h in half)
    first = tuple(-(n - 1) / 2 * beam.pixel_mm + float(s) for n, s in zip((columns, rows), shift_mm, strict=True))
    return Geometry(
        view, spacing_mm, shape, centre, source, beam.source_mm, (first[0], first[1]), (rows, columns), beam.pixel_mm
    )


def _corners(box: tuple[slice, ...]) -> np.ndarray:
    ends = [(part.start, part.stop - 1) for part in box]
    return np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3).astype(float)


def line_integrals(hu: np.ndarray, geometry: Geometry, beam: BeamSettings) -> np.ndarray:
    """Attenuation along each ray, float32 ``[row, column]`` on every second pixel of the radiograph.

    Args:
        hu: ``[x, y, z]`` on the geometry's grid, RAS+.
    """
    volume = hu if geometry.view == "pa" else hu.transpose(1, 0, 2)[:, ::-1]
    density = np.clip(1 + volume.astype(np.float32) / 1000, 0, None).transpose(1, 0, 2)
    spacing = geometry.spacing_mm
    positions = []
    for axis, count in enumerate((geometry.size[1], geometry.size[0])):
        steps = np.arange(-(-count // _COARSE)) * _COARSE + (_COARSE - 1) / 2
        positions.append(geometry.first_mm[axis] + steps * geometry.pixel_mm)
    depths = np.arange(len(density)) * spacing - geometry.source
    shrink = depths / geometry.source_mm
    lateral = (geometry.centre_mm[0] - positions[0][None] * shrink[:, None]) / spacing
    up = (geometry.centre_mm[1] - positions[1][None] * shrink[:, None]) / spacing
    columns = _weights(lateral, density.shape[1])
    rows = _weights(up, density.shape[2])
    swept = columns @ density
    sums = swept.transpose(1, 0, 2).reshape(len(positions[0]), -1) @ rows.transpose(0, 2, 1).reshape(
        -1, len(positions[1])
    )
    slant = np.sqrt(1 + (positions[0][:, None] ** 2 + positions[1][None] ** 2) / geometry.source_mm**2)
    return (sums * slant * (beam.mu_water * spacing)).T.astype(np.float32)


def _weights(positions: np.ndarray, count: int) -> np.ndarray:
    """Linear interpolation as matrices ``[planes, places, voxels]``; nothing beyond the volume."""
    away = np.abs(positions[:, :, None].astype(np.float32) - np.arange(count, dtype=np.float32))
    return np.maximum(1 - away, 0)


def expose(integrals: np.ndarray, geometry: Geometry, beam: BeamSettings, rng: np.random.Generator) -> np.ndarray:
    """The radiograph, uint8 ``[row, column]``: primary beam, scatter, photon noise, the logarithm, and a display
    window."""
    primary = np.exp(-integrals)
    coarse_mm = geometry.pixel_mm * _COARSE
    haze = ndimage.gaussian_filter(primary, 45 / coarse_mm, mode="nearest", truncate=2)
    signal = primary + beam.scatter * haze
    answer = _processed(-np.log(np.maximum(signal, 1e-6)), coarse_mm)
    fine = np.asarray(ndimage.zoom(answer, _COARSE, order=3, grid_mode=True, mode="nearest"))
    fine = fine[: geometry.size[0], : geometry.size[1]]
    counted = np.sqrt(np.exp(np.clip(fine, 0, 12)) / beam.photons)
    noise = ndimage.gaussian_filter(rng.standard_normal(geometry.size, dtype=np.float32), 0.5, mode="nearest") * 1.6
    return _displayed(fine + counted * noise)


def _processed(answer: np.ndarray, pixel_mm: float) -> np.ndarray:
    """What a workstation does to the detector's answer: large differences are levelled, edges stand out."""
    large = ndimage.gaussian_filter(answer, 30 / pixel_mm, mode="nearest", truncate=2)
    near = ndimage.gaussian_filter(answer, 5 / pixel_mm, mode="nearest", truncate=2)
    return answer - 0.3 * (large - large.mean()) + 0.9 * (answer - near)


def _displayed(values: np.ndarray) -> np.ndarray:
    """Grey values by a soft window: lungs keep their contrast, the belly does not burn out."""
    low, high = np.percentile(values[::4, ::4], (2, 98))
    grey = (values - low) / (high - low)
    curve = 1 / (1 + np.exp(-4.2 * (grey - 0.48)))
    ends = 1 / (1 + np.exp(4.2 * 0.58)), 1 / (1 + np.exp(-4.2 * 0.62))
    return np.clip(np.rint((curve - ends[0]) / (ends[1] - ends[0]) * 255), 0, 255).astype(np.uint8)
