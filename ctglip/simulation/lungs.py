"""Diaphragm, lungs with their lobes, and the vessels and airways inside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ctglip.simulation.canvas import Canvas, curve
from ctglip.simulation.labels import number
from ctglip.simulation.skeleton import spine_y

LOBES = {
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
}


def diaphragm_mm(x: np.ndarray, y: np.ndarray, raised_mm: float = 0.0, dome: float = 1.0) -> np.ndarray:
    """Height in mm of the diaphragm above the point (x, y): two domes, the right one higher, low at the back.

    Args:
        raised_mm: how much higher it stands than the standard one.
        dome: height of the domes, as a share of the standard one's.
    """
    base = 256 + raised_mm + 0.28 * (y + 75)
    right = dome * 62 * np.exp(-((((x - 60) / 62) ** 2 + ((y - 6) / 72) ** 2) ** 1.4))
    left = dome * 54 * np.exp(-((((x + 66) / 58) ** 2 + ((y - 2) / 74) ** 2) ** 1.4))
    return (base + right + left).astype(np.float32)


def carve_lungs(
    canvas: Canvas, zones: Mapping[str, int], roof_mm: Callable[..., np.ndarray], rng: np.random.Generator
) -> None:
    """Turn the chest cavity into mediastinum and two lungs with lobes, darker in front than at the back."""
    _mark_mediastinum(canvas, zones)
    x, y, z = canvas.axes()
    lung = (canvas.zone == zones["chest"]) & (z > roof_mm(x, y) + 2.5)
    canvas.zone[(canvas.zone == zones["chest"]) & ~lung] = zones["mediastinum"]
    air = -858 + 0.45 * (60 - y) + 0.10 * (340 - z) + 7 * canvas.grain
    canvas.hu[lung] = np.broadcast_to(air, canvas.shape)[lung]
    wave = 4 * canvas.bumps
    oblique = z - (352 + float(rng.normal(0, 5)) - 1.05 * y) + wave
    horizontal = z - (388 + float(rng.normal(0, 5))) + wave
    left, right = lung & (x < 0), lung & (x >= 0)
    canvas.labels[left] = number("lung_lower_lobe_left")
    canvas.labels[left & (oblique > 0)] = number("lung_upper_lobe_left")
    canvas.labels[right] = number("lung_lower_lobe_right")
    canvas.labels[right & (oblique > 0)] = number("lung_middle_lobe_right")
    canvas.labels[right & (oblique > 0) & (horizontal > 0)] = number("lung_upper_lobe_right")
    canvas.hu[lung & (np.abs(oblique) < 1.0)] = -720


def _mark_mediastinum(canvas: Canvas, zones: Mapping[str, int]) -> None:
    x, y, z = canvas.axes()
    chest = canvas.zone == zones["chest"]
    column = (x / 25) ** 2 + ((y - spine_y(z)) / 21) ** 2 < 1
    behind = (np.abs(x) < 24) & (y < spine_y(z))
    front = (np.abs(x + 4) < 4.5) & (y > 20)
    canvas.zone[chest & (column | behind | front)] = zones["mediastinum"]
    for centre, radii, tilt in (
        ((-18, 24, 352), (62, 50, 46), (0, 32, 24)),
        ((18, 16, 366), (36, 40, 46), (0, 0, 0)),
        ((2, -2, 412), (33, 46, 62), (0, 0, 0)),
        ((0, -8, 470), (36, 40, 46), (0, 0, 0)),
    ):
        patch = canvas.ellipsoid(centre, radii, tilt, 2.3, 0.05)
        box = canvas.zone[patch.slices]
        box[patch.inside & (box == zones["chest"])] = zones["mediastinum"]


def paint_airways_and_vessels(canvas: Canvas, tissue: int, rng: np.random.Generator) -> None:
    """A branching tree from each hilum into its lung: vessels with airways beside the larger ones."""
    for side, word in ((1, "right"), (-1, "left")):
        lobes = [number(name) for name in LOBES[word]]
        hilum = np.array([side * 40.0, -14.0, 388.0])
        for heading in rng.normal(0, 1, (14, 3)):
            way = heading * [0.6, 1, 1.3] + [side * 0.9, 0, -0.2]
            _branch(canvas, hilum, way / np.linalg.norm(way), 4.4, 42.0, (lobes, tissue), rng)


def _branch(
    canvas: Canvas,
    start: np.ndarray,
    way: np.ndarray,
    radius: float,
    length: float,
    target: tuple[list[int], int],
    rng: np.random.Generator,
) -> None:
    if radius < 1.1:
        return
    bend = way + rng.normal(0, 0.25, 3)
    middle = start + bend * length / 2
    end = middle + (bend + rng.normal(0, 0.25, 3)) * length / 2
    line = curve([[*start, radius], [*middle, radius * 0.9], [*end, radius * 0.72]])
    lobes, tissue = target
    canvas.stamp(line, None, 38, over=lobes, tissue=tissue)
    if radius > 3:
        airway = line + np.array([0, radius + 2.4, 0, 0])
        airway[:, 3] = radius * 0.7
        canvas.stamp(airway, None, -975, over=lobes)
    for _ in range(3 if radius > 2 else 2):
        turn = bend + rng.normal(0, 0.6, 3)
        _branch(canvas, end, turn / np.linalg.norm(turn), radius * 0.66, length * 0.8, target, rng)
