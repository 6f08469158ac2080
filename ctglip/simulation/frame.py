"""How a painted torso is stretched, bent and filled out into another kind of body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ctglip.config import Settings
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.warp import read_anatomy

Knots = tuple[tuple[float, float], ...]
_RING = 0.8
"""Where the fat under the skin begins, as a share of the way from the axis to the skin."""


class Frame(Settings):
    """A map of the painted torso to the body that is made of it, in mm; knots are interpolated linearly.

    Attributes:
        size: growth of everything.
        height: (height before, height after); between knots what lies there is stretched.
        width, depth: (height after, growth along x or y).
        bend, lean: (height after, shift along x or y in mm).
        twist: (height after, turn about z in degrees).
        fat: growth of the outer ring of the body.
    """

    size: float = 1.0
    height: Knots = ()
    width: Knots = ((0, 1),)
    depth: Knots = ((0, 1),)
    bend: Knots = ((0, 0),)
    lean: Knots = ((0, 0),)
    twist: Knots = ((0, 0),)
    fat: float = 1.0

    def apply(self, anatomy: Anatomy, skin: tuple[Sequence[float], Sequence[float], Sequence[float]]) -> Anatomy:
        """The body in this frame.

        Args:
            anatomy: as painted, the midline in the middle of its grid.
            skin: heights, half-widths and half-depths of the painted skin.
        """
        if self == Frame():
            return anatomy
        mm = anatomy.spacing_mm[0]
        before = np.array([part * mm for part in anatomy.hu.shape])
        tall = self.height[-1][1] if self.height else float(before[2])
        z = np.arange(0, tall, mm)
        half = [self._half(axis, z, skin) for axis in (0, 1)]
        x, y = (np.arange(-size, size + mm, mm) for size in half)
        grid = np.meshgrid(x, y, z, indexing="ij", copy=False)
        points = self._sources(np.stack(grid).astype(np.float32), skin)
        points[0] += (before[0] - mm) / 2
        points[1] += (before[1] - mm) / 2
        hu, labels = read_anatomy(anatomy, points)
        tissue = None
        if anatomy.tissue is not None:
            sizes = np.array(anatomy.tissue.shape).reshape(3, 1, 1, 1) - 1
            tissue = anatomy.tissue[tuple(np.clip(np.rint(points / np.float32(mm)), 0, sizes).astype(np.int32))]
        spacing = (mm * self.size, mm * self.size, mm * self.size)
        return replace(anatomy, hu=hu, labels=labels, tissue=tissue, spacing_mm=spacing)

    def _height_before(self, z: np.ndarray) -> np.ndarray:
        return np.interp(z, *reversed(np.array(self.height).T)) if self.height else z

    def _half(self, axis: int, z: np.ndarray, skin: tuple[Sequence[float], Sequence[float], Sequence[float]]) -> float:
        """Half of the grid's edge along x or y."""
        outline = np.interp(self._height_before(z), skin[0], skin[1 + axis]) * (_RING + (1 - _RING) * self.fat)
        reach = outline * _at(self.width if axis == 0 else self.depth, z)
        return float((reach + np.abs(_at(self.bend if axis == 0 else self.lean, z))).max()) + 12

    def _sources(
        self, points: np.ndarray, skin: tuple[Sequence[float], Sequence[float], Sequence[float]]
    ) -> np.ndarray:
        """Painted points for points of the body, ``[3, x, y, z]`` in mm from the midline."""
        z = points[2, 0, 0].copy()
        source_z = self._height_before(z)
        turn = np.deg2rad(_at(self.twist, z)).astype(np.float32)
        x = points[0] - _at(self.bend, z).astype(np.float32)
        y = points[1] - _at(self.lean, z).astype(np.float32)
        x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        x, y = x / _at(self.width, z).astype(np.float32), y / _at(self.depth, z).astype(np.float32)
        wide, deep = (np.interp(source_z, skin[0], skin[n]).astype(np.float32) for n in (1, 2))
        out = np.sqrt((x / wide) ** 2 + (y / deep) ** 2)
        inward = np.where(out > _RING, (_RING + (out - _RING) / np.float32(self.fat)) / np.maximum(out, _RING), 1)
        return np.stack([x * inward, y * inward, np.broadcast_to(source_z.astype(np.float32), x.shape)])


def _at(knots: Knots, z: np.ndarray) -> np.ndarray:
    heights, values = np.array(knots, float).T
    return np.interp(z, heights, values)
