"""What spoils scans: metal implants with their streaks, and motion."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from ctglip.simulation.canvas import Spacing, distance
from ctglip.simulation.labels import lookup, number

METALS = ("hip", "screws", "pacemaker")
METAL_HU = 2900.0
_STREAK_HU, _STREAK_MM = 260.0, 22.0


def insert_metal(kind: str, hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Put an implant into a body, in place; the organs keep their labels. Nothing where its organ is not there."""
    if kind == "hip":
        _hip(hu, labels, spacing_mm, rng)
    elif kind == "screws":
        _screws(hu, labels, spacing_mm, rng)
    else:
        _pacemaker(hu, labels, spacing_mm)


def _hip(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """The head of a femur is steel."""
    bone = labels == number(f"femur_{rng.choice(['left', 'right'])}")
    if bone.any():
        _ball(hu, np.argwhere(bone).mean(0), 16.0, spacing_mm)


def _screws(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Two screws through the pedicles of each of two neighbouring lumbar vertebrae."""
    top = int(rng.integers(2, 5))
    for level in (top, top + 1):
        box = ndimage.find_objects((labels == number(f"vertebrae_L{level}")).astype(np.uint8))
        if not box:
            continue
        centre = np.array([(part.start + part.stop - 1) / 2 for part in box[0]])
        deep = (box[0][1].stop - box[0][1].start) / 2
        for side in (-1, 1):
            for way in np.linspace(-0.7, 0.65, 14):
                at = np.array([side * (13 - 4 * way) / spacing_mm[0], way * deep, 3 / spacing_mm[2]])
                _ball(hu, centre + at, 2.8, spacing_mm)


def _pacemaker(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing) -> None:
    """A can under the skin of the left chest and a lead to the heart."""
    heart, collar = (np.argwhere(labels == number(organ)) for organ in ("heart", "clavicula_left"))
    if not len(heart) or not len(collar):
        return
    can = collar.mean(0) + np.array([0, 4, -42]) / spacing_mm
    for x in np.linspace(-14, 14, 7):
        for z in np.linspace(-12, 12, 6):
            _ball(hu, can + np.array([x, 0, z]) / spacing_mm, 4.0, spacing_mm)
    for way in np.linspace(0, 1, 60):
        over = np.array([0, 0, 40 * np.sin(np.pi * way)]) / spacing_mm
        _ball(hu, can + way * (heart.mean(0) - can) + over, 1.6, spacing_mm)


def _ball(hu: np.ndarray, centre: np.ndarray, radius_mm: float, spacing_mm: Spacing) -> None:
    reach = [int(np.ceil(radius_mm / mm)) + 1 for mm in spacing_mm]
    low = [max(0, round(c) - r) for c, r in zip(centre, reach, strict=True)]
    high = [min(n, round(c) + r + 1) for c, r, n in zip(centre, reach, hu.shape, strict=True)]
    if any(b <= a for a, b in zip(low, high, strict=True)):
        return
    axes = [(np.arange(a, b) - c) * mm for a, b, c, mm in zip(low, high, centre, spacing_mm, strict=True)]
    share = np.clip(radius_mm - distance(axes) + 0.5, 0, 1)
    piece = hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    piece += (share * (METAL_HU - piece)).astype(np.float32)


def streaks(hu: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Bright and dark rays around the metal of each slice, in place."""
    metal = hu > 0.6 * METAL_HU
    x, y = (np.arange(n, dtype=np.float32) * mm for n, mm in zip(hu.shape[:2], spacing_mm[:2], strict=True))
    spokes, turn = int(rng.integers(4, 8)), float(rng.uniform(0, 2 * np.pi))
    for z in np.flatnonzero(metal.any((0, 1))):
        labelled: Any = ndimage.label(metal[:, :, z])
        pieces, count = labelled
        turn += float(rng.normal(0, 0.25))
        for piece in range(1, min(count, 4) + 1):
            inside = np.argwhere(pieces == piece)
            dx = x[:, None] - inside[:, 0].mean() * spacing_mm[0]
            dy = y[None, :] - inside[:, 1].mean() * spacing_mm[1]
            away, angle = np.sqrt(dx**2 + dy**2), np.arctan2(dy, dx)
            rays = np.cos(spokes * angle + turn) * np.abs(np.cos((2 * spokes + 1) * angle))
            height = _STREAK_HU * min(1.0, np.sqrt(len(inside)) / 5)
            tissue = (hu[:, :, z] > -950) & ~metal[:, :, z]
            hu[:, :, z] += np.where(tissue, height * rays / (1 + away / _STREAK_MM), 0).astype(np.float32)


def double_contours(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> None:
    """Breathing during the scan, in place: slices around the diaphragm hold two positions of the body at once."""
    heights = np.flatnonzero(lookup(["lungs"])[labels].any((0, 1)))
    if not len(heights):
        return
    middle = int(heights[0]) + round(float(rng.uniform(10, 50)) / spacing_mm[2])
    reach = max(1, round(float(rng.uniform(20, 45)) / spacing_mm[2]))
    low, high = max(0, middle - reach), min(hu.shape[2], middle + reach)
    part = hu[:, :, low:high]
    away = max(1, round(float(rng.uniform(4, 9)) / spacing_mm[1]))
    up = max(1, round(float(rng.uniform(4, 10)) / spacing_mm[2]))
    other = np.roll(np.roll(part, away, 1), up, 2)
    share = 0.45 * np.sin(np.linspace(0, np.pi, high - low)).astype(np.float32)
    part += share * (other - part)
