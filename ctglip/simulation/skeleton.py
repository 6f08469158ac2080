"""The bones of the built-in torso: spine from T1 to the sacrum, ribs, sternum, shoulder girdle and pelvis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctglip.simulation.canvas import Canvas, Patch, curve
from ctglip.simulation.labels import number

VERTEBRAE = (*(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 6)))
_PITCH_MM = (17.5, 18, 18.5, 19, 19.5, 20, 20.5, 21, 21.5, 22.5, 23.5, 24.5, 31, 31.5, 32, 32, 32)
_PROMONTORY_MM = 105.0
_CURVE_Z = (0, 30, 60, 90, 120, 165, 215, 270, 330, 390, 440, 480, 512)
_CURVE_Y = (-62, -74, -74, -62, -46, -38, -40, -50, -62, -68, -64, -54, -46)


@dataclass(frozen=True)
class Vertebra:
    """Where one vertebral body lies: centre in mm, half-height, half-width and half-depth in mm."""

    name: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]


def spine_y(z: np.ndarray | float) -> np.ndarray:
    """Front-to-back position in mm of the vertebral bodies' centres at height ``z``: lordosis and kyphosis."""
    return _interp(z, _CURVE_Z, _CURVE_Y)


def _interp(z: np.ndarray | float, knots: Sequence[float], values: Sequence[float]) -> np.ndarray:
    return np.asarray(np.interp(z, knots, values))


def vertebrae() -> tuple[Vertebra, ...]:
    """The vertebral bodies from L5 up to T1."""
    found, low = [], _PROMONTORY_MM
    for name, pitch in zip(reversed(VERTEBRAE), reversed(_PITCH_MM), strict=True):
        middle, share = low + pitch / 2, min(1.0, (low + 20) / 330)
        width, depth = 25 - 10 * share, 18.5 - 5 * share
        found.append(Vertebra(name, (0.0, float(spine_y(middle)), middle), (width, depth, pitch / 2 - 2.2)))
        low += pitch
    return tuple(found)


def paint_skeleton(canvas: Canvas, outline: CavityOutline, density_hu: float, rng: np.random.Generator) -> None:
    """Paint every bone; ``density_hu`` is the HU of spongy bone in the vertebrae."""
    _sacrum(canvas, density_hu)
    _pelvis(canvas)
    for vertebra in vertebrae():
        _vertebra(canvas, vertebra, density_hu)
    _cord(canvas)
    for rib in range(1, 13):
        for side in (1, -1):
            _rib(canvas, outline, rib, side, rng)
    _front_and_shoulders(canvas, outline)


@dataclass(frozen=True)
class CavityOutline:
    """The inner surface of chest and belly wall as ellipses: z knots, half-width, half-depth, centre y, all in mm."""

    z: tuple[float, ...]
    width: tuple[float, ...]
    depth: tuple[float, ...]
    centre: tuple[float, ...]

    def at(self, z: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half-width, half-depth and centre y at height ``z``."""
        return _interp(z, self.z, self.width), _interp(z, self.z, self.depth), _interp(z, self.z, self.centre)


def _vertebra(canvas: Canvas, vertebra: Vertebra, density_hu: float) -> None:
    (_, cy, cz), (width, depth, height) = vertebra.centre, vertebra.half
    label = number(f"vertebrae_{vertebra.name}")
    reach = np.array([width + 2, depth + 2, height + 6])
    slices = canvas.box(np.array([0, cy, cz]) - reach, np.array([0, cy, cz]) + reach)
    x, y, z = canvas.axes(slices)
    up = np.clip(np.abs(z - cz) / height, 0, 1)
    level = np.sqrt((x / width) ** 2 + ((y - cy) / depth) ** 2) / (0.9 + 0.1 * up**2)
    level = level + 0.03 * canvas.bumps[slices]
    within = np.abs(z - cz) < height
    spongy = density_hu + 5 * canvas.grain[slices]
    canvas.fill(Patch(slices, (level < 0.97) & (np.abs(z - cz) < height + 4.5), level), 0, 82)
    canvas.fill(Patch(slices, (level < 1) & within, level), label, 420)
    canvas.fill(Patch(slices, (level < 0.86) & (np.abs(z - cz) < height - 1.8), level), label, spongy)
    back = cy - depth - 9
    ring = [[11.5 * np.sin(t), back - 11.5 * np.cos(t), cz + 1, 3.6] for t in np.linspace(-2.3, 2.3, 19)]
    parts = [curve(ring, 1.8)]
    thoracic = vertebra.name.startswith("T")
    low, wing, joint = cz - (11 if thoracic else 5), 27 if thoracic else 34, height * 0.9
    parts.append(curve([[0, back - 12, cz - 1, 4.0], [0, back - 22, low, 3.6], [0, back - 29, low - 2, 4.4]]))
    for side in (1, -1):
        parts.append(curve([[side * 12, back - 1, cz + 2, 5], [side * wing, back - 8, cz + 4, 3.2]]))
        parts.append(curve([[side * 13, back - 5, cz + joint, 4.5], [side * 13, back - 8, cz - joint, 4.5]]))
    for points in parts:
        canvas.stamp(points, label, 330)


def _cord(canvas: Canvas) -> None:
    z = np.arange(70.0, 514.0, 4.0)
    depth = np.interp(z, (100, 300), (18.5, 13.5))
    line = np.stack([0 * z, spine_y(z) - depth - 9, z, 0 * z + 7.5], 1)
    canvas.stamp(line, 0, 5)
    line[:, 3] = np.interp(z, (70, 200, 260), (4.5, 5.5, 6))
    canvas.stamp(line, number("spinal_cord"), 37)


def _sacrum(canvas: Canvas, density_hu: float) -> None:
    label = number("sacrum")
    for inset, hu in ((0, 320), (3, density_hu * 0.8)):
        for z in np.arange(14.0 + inset, 100.0 - inset, 2.0):
            half = float(np.interp(z, (14, 40, 75, 100), (8, 22, 44, 40))) - inset
            x = np.arange(-half, half + 1, 3.0)
            thick = float(np.interp(z, (14, 60, 100), (6, 9, 13))) - inset
            y = float(spine_y(z)) - 6 - 0.10 * np.abs(x)
            canvas.stamp(np.stack([x, y, 0 * x + z, 0 * x + thick], 1), label, hu)
    patch = canvas.ellipsoid((0, -49, 94), (24, 18, 10), (-24, 0, 0), 3.0, 0.03)
    canvas.fill(patch, number("vertebrae_S1"), 380)
    canvas.fill(Patch(patch.slices, patch.level < 0.82, patch.level), number("vertebrae_S1"), density_hu)
    canvas.stamp(curve([[0, -70, 14, 5], [0, -66, 4, 4], [0, -60, -4, 4]]), label, 260)


def _pelvis(canvas: Canvas) -> None:
    for side, word in ((1, "right"), (-1, "left")):
        hip, femur = number(f"hip_{word}"), number(f"femur_{word}")
        edges = (
            curve([[50, -66, 108], [78, -56, 124], [104, -14, 126], [120, 26, 104]], 4),
            curve([[52, -62, 78], [70, -44, 78], [92, -6, 76], [104, 26, 76]], 4),
            curve([[76, -44, 44], [84, -26, 42], [92, 4, 40], [92, 24, 44]], 4),
        )
        rows = [edge[np.linspace(0, len(edge) - 1, 40).round().astype(int)] for edge in edges]
        plates = [rows[0] * (1 - t) + rows[1] * t for t in np.linspace(0, 1, 16)]
        plates += [rows[1] * (1 - t) + rows[2] * t for t in np.linspace(0, 1, 14)]
        plate = np.vstack(plates) * np.array([side, 1, 1])
        for radius, hu in ((5.0, 430), (3.0, 210)):
            canvas.stamp(np.hstack([plate, np.full((len(plate), 1), radius)]), hip, hu)
        socket = canvas.ellipsoid((side * 86, 0, 20), (30, 30, 30), rough=0.03)
        canvas.fill(socket, hip, 400)
        canvas.fill(Patch(socket.slices, socket.level < 0.88, socket.level), hip, 230)
        canvas.stamp(curve([[side * 66, 24, 12, 8], [side * 40, 46, 6, 8], [side * 6, 54, 2, 8]]), hip, 330)
        canvas.stamp(curve([[side * 74, -34, 26, 11], [side * 66, -42, 6, 12]]), hip, 330)
        head = canvas.ellipsoid((side * 92, -2, 8), (24, 24, 24), rough=0.02)
        canvas.fill(head, 0, 70)
        canvas.fill(Patch(head.slices, head.level < 0.92, head.level), femur, 430)
        canvas.fill(Patch(head.slices, head.level < 0.80, head.level), femur, 280)


def _rib(canvas: Canvas, outline: CavityOutline, rib: int, side: int, rng: np.random.Generator) -> None:
    spine = next(v for v in vertebrae() if v.name == f"T{rib}")
    z0 = spine.centre[2] + spine.half[2] - 2
    drop = float(np.interp(rib, (1, 4, 8, 12), (26, 62, 78, 46))) * float(rng.uniform(0.92, 1.08))
    end = float(np.interp(rib, (1, 7, 8, 10, 11, 12), (2.5, 2.45, 2.3, 2.1, 1.6, 1.15)))
    angle = np.linspace(0.32, end, 26)
    z = z0 - drop * ((angle - 0.3) / 2.2) ** 1.1
    width, depth, centre = outline.at(z)
    path = np.stack([side * (width + 4.5) * np.sin(angle), centre - (depth + 4.5) * np.cos(angle), z], 1)
    first = np.array([[side * 16, spine.centre[1] - 12, z0]])
    points = curve(np.hstack([np.vstack([first, path]), np.full((len(path) + 1, 1), 4.6)]))
    label = number(f"rib_{'right' if side > 0 else 'left'}_{rib}")
    canvas.stamp(points, label, 400)
    inner = points.copy()
    inner[:, 3] = 2.4
    canvas.stamp(inner, label, 220)
    if rib > 10:
        return
    last = path[-1]
    height = float(np.interp(rib, (1, 2, 6, 7, 10), (468, 452, 372, 352, 330)))
    wide, deep, middle = outline.at(height)
    goal = [side * (14.0 if rib < 8 else 22.0), float(middle + deep) + 3, height]
    mean = (last + np.asarray(goal)) / 2 + np.array([side * float(wide) * 0.06, 8, -4])
    line = curve([[*last, 5.2], [*mean, 5.0], [*goal, 5.0]])
    canvas.stamp(line, number("costal_cartilages"), 95)


def _front_and_shoulders(canvas: Canvas, outline: CavityOutline) -> None:
    for z in np.arange(346.0, 466.0, 2.0):
        _, depth, centre = outline.at(z)
        half = float(np.interp(z, (346, 360, 430, 465), (7, 14, 14, 24)))
        x = np.arange(-half, half + 0.1, 2.5)
        points = np.stack([x, 0 * x + float(centre + depth) + 5, 0 * x + z, 0 * x + 5], 1)
        canvas.stamp(points, number("sternum"), 200)
    for side, word in ((1, "right"), (-1, "left")):
        width, depth, centre = outline.at(470)
        collar = [[side * 18, float(centre + depth) + 4, 470, 6], [side * 55, 30, 484, 5.5], [side * 92, -8, 494, 6]]
        canvas.stamp(curve(collar), number(f"clavicula_{word}"), 350)
        plate = []
        for z in np.arange(395.0, 482.0, 2.5):
            width, depth, centre = outline.at(z)
            share = (z - 395) / 87
            angle = np.linspace(0.75, 0.95 + 0.35 * share, 14)
            x, y = side * (width + 14) * np.sin(angle), centre - (depth + 14) * np.cos(angle)
            plate.append(np.stack([x, y, 0 * x + z, 0 * x + 3.2], 1))
        canvas.stamp(np.vstack(plate), number(f"scapula_{word}"), 300)
