"""Masks as a segmentation network would draw them: the true labels with its usual faults, each at a stated rate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings, Share
from ctglip.simulation.canvas import Slices, Spacing, box_around, distance, periodic_piece
from ctglip.simulation.labels import lookup, number
from ctglip.simulation.scene import eroded

SOFT_ORGANS = (
    "liver", "spleen", "kidney_left", "kidney_right", "stomach", "pancreas", "gallbladder", "urinary_bladder", "colon",
    "small_bowel", "duodenum", "heart", "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein",
)  # fmt: skip
SMALL_ORGANS = (
    "gallbladder", "pancreas", "duodenum", "esophagus", "adrenal_gland_left", "adrenal_gland_right", "thyroid_gland",
    "prostate", "portal_vein_and_splenic_vein", "atrial_appendage_left", "pulmonary_vein", "trachea",
)  # fmt: skip
_VERTEBRAE = (number("vertebrae_L5"), number("vertebrae_T1"))
_DENSE_HU, _DENSE_MM = -450.0, 15.0
_MOST_STEPS = 3


class MaskSettings(Settings):
    """Faults of the masks.

    Attributes:
        opacity: share of studies whose dense lung (consolidation, lung pressed by fluid) is left out of the lung.
        leak: share of the larger soft organs that run over into what looks alike beside them.
        hole: share of them with a hole.
        missed: share of the small organs that are not found at all.
        ragged_mm: deviation of the borders.
        levels: share of studies whose vertebrae are miscounted by one from some level upwards.
    """

    opacity: Share = 0.0
    leak: Share = 0.0
    hole: Share = 0.0
    missed: Share = 0.0
    ragged_mm: float = Field(default=0.0, ge=0, le=10)
    levels: Share = 0.0


@dataclass
class Drawing:
    """Masks in the making.

    Attributes:
        labels: uint8 ``[x, y, z]``, changed in place.
        hu: the scan that they are drawn on.
        spacing_mm: voxel edges.
        settings: how often what goes wrong.
        faults: (organ, fault) of each that was made.
    """

    labels: np.ndarray
    hu: np.ndarray
    spacing_mm: Spacing
    settings: MaskSettings
    faults: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._boxes = ndimage.find_objects(self.labels, max_label=117)

    def box(self, *organs: str, margin_mm: float = 0) -> Slices | None:
        """The box around organs as they were before any fault; None where none of them is there."""
        return box_around(self._boxes, lookup(organs), self.labels.shape, self.spacing_mm, margin_mm)

    def ball(self, box: Slices, centre: np.ndarray, radius_mm: float) -> np.ndarray:
        """Which voxels of a box lie within a radius of a voxel (counted from the box)."""
        axes = [
            (np.arange(part.stop - part.start) - c) * mm
            for part, c, mm in zip(box, centre, self.spacing_mm, strict=True)
        ]
        return distance(axes) <= radius_mm


def draw_masks(
    labels: np.ndarray, hu: np.ndarray, spacing_mm: Spacing, settings: MaskSettings, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Labels with a segmenter's faults, and (organ, fault) of each; each kind draws from its own random numbers."""
    if settings == MaskSettings():
        return labels, []
    drawing = Drawing(labels.copy(), hu, spacing_mm, settings)
    for fault, stream in zip(FAULTS, rng.spawn(len(FAULTS)), strict=True):
        fault(drawing, stream)
    return drawing.labels, drawing.faults


def _leave_out_dense_lung(drawing: Drawing, rng: np.random.Generator) -> None:
    if rng.random() >= drawing.settings.opacity:
        return
    table = lookup(["lungs"])
    for side in ("left", "right"):
        box = drawing.box(f"lung_upper_lobe_{side}", f"lung_lower_lobe_{side}")
        if box is None:
            continue
        labels = drawing.labels[box]
        lung = table[labels]
        hu = np.where(lung, drawing.hu[box], -850).astype(np.float32)
        dense = lung & (_mean_around(hu, drawing.spacing_mm) > _DENSE_HU)
        if dense.any():
            labels[dense] = 0
            drawing.faults.append((f"lung_{side}", "opacity"))


def _mean_around(hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    for axis, mm in enumerate(spacing_mm):
        hu = ndimage.uniform_filter1d(hu, max(1, round(_DENSE_MM / mm)), axis)
    return hu


def _leak(drawing: Drawing, rng: np.random.Generator) -> None:
    for organ in SOFT_ORGANS:
        radius, box = float(rng.uniform(8, 20)), drawing.box(organ, margin_mm=22)
        if rng.random() >= drawing.settings.leak or box is None:
            continue
        mask, hu = drawing.labels[box] == number(organ), drawing.hu[box]
        border = np.argwhere(mask & ~eroded(mask))
        if not len(border):
            continue
        near = drawing.ball(box, border[rng.integers(len(border))], radius)
        alike = near & ~mask & (np.abs(hu - np.median(hu[mask])) < 40)
        if alike.any():
            drawing.labels[box][alike] = number(organ)
            drawing.faults.append((organ, "leak"))


def _hole(drawing: Drawing, rng: np.random.Generator) -> None:
    for organ in SOFT_ORGANS:
        radius, box = float(rng.uniform(5, 14)), drawing.box(organ)
        if rng.random() >= drawing.settings.hole or box is None:
            continue
        mask = drawing.labels[box] == number(organ)
        voxels = np.argwhere(mask)
        if len(voxels):
            drawing.labels[box][mask & drawing.ball(box, voxels[rng.integers(len(voxels))], radius)] = 0
            drawing.faults.append((organ, "hole"))


def _miss(drawing: Drawing, rng: np.random.Generator) -> None:
    for organ in SMALL_ORGANS:
        box = drawing.box(organ)
        if rng.random() < drawing.settings.missed and box is not None:
            labels = drawing.labels[box]
            labels[labels == number(organ)] = 0
            drawing.faults.append((organ, "missed"))


def _fray(drawing: Drawing, rng: np.random.Generator) -> None:
    """Borders are read from places a little off, but for the outermost voxels of the grid."""
    if not drawing.settings.ragged_mm:
        return
    shape = drawing.labels.shape
    core = tuple(slice(_MOST_STEPS, n - _MOST_STEPS) for n in shape)
    at = np.arange(drawing.labels.size, dtype=np.int32).reshape(shape)[core]
    for axis, mm in enumerate(drawing.spacing_mm):
        steps = periodic_piece(_wander(round(drawing.settings.ragged_mm / mm, 3)), at.shape, rng)
        at += np.multiply(steps, np.int32(np.prod(shape[axis + 1 :])), dtype=np.int32)
    drawing.labels[core] = drawing.labels.reshape(-1).take(at)


@functools.lru_cache(maxsize=8)
def _wander(deviation: float) -> np.ndarray:
    """How many voxels borders are off, int8, periodic; each voxel two from an independent one."""
    white = np.random.default_rng(17).standard_normal((75, 60, 100), np.float32)
    field = np.asarray(ndimage.zoom(white, 2, order=1, mode="grid-wrap", grid_mode=True))
    return np.clip(np.rint(field * (deviation / field.std())), -_MOST_STEPS, _MOST_STEPS).astype(np.int8)


def _miscount(drawing: Drawing, rng: np.random.Generator) -> None:
    """From some level upwards each vertebra bears its neighbour's name."""
    low, high = _VERTEBRAE
    start, step = int(rng.integers(low + 1, high - 5)), int(rng.choice([-1, 1]))
    if rng.random() >= drawing.settings.levels:
        return
    table = np.arange(256, dtype=np.uint8)
    table[start : high + 1] += np.uint8(step % 256)
    drawing.labels = table[drawing.labels]
    drawing.faults.append(("spine", "levels"))


MaskStep = Callable[[Drawing, np.random.Generator], None]
FAULTS: tuple[MaskStep, ...] = (_leave_out_dense_lung, _leak, _hole, _miss, _fray, _miscount)
