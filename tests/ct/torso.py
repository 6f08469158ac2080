"""A torso of ellipsoids at an adult's size, drawn from textbook positions: what a numbering is checked on."""

from __future__ import annotations

import functools

import numpy as np

from ctglip.types import Scan

SPACING = 5.0
SHAPE = (72, 52, 110)
CENTRE_VOXEL = (36, 26, 55)

# Centre and half-axes in mm from the middle of the body (right, front, up), and HU; the first has what two share.
ORGANS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "pancreas": ((-15, 20, -50), (55, 14, 14), 80),
    "lung_left": ((-75, 5, 120), (50, 75, 110), -830),
    "lung_right": ((75, 5, 120), (52, 75, 110), -830),
    "heart": ((-20, 35, 75), (52, 48, 48), 120),
    "gallbladder": ((55, 45, -65), (15, 15, 22), 10),
    "liver": ((65, 20, -20), (78, 70, 62), 95),
    "spleen": ((-105, -25, -10), (32, 45, 45), 110),
    "stomach": ((-50, 40, -15), (40, 42, 50), 20),
    "kidney_left": ((-62, -40, -70), (27, 27, 52), 150),
    "kidney_right": ((62, -40, -85), (27, 27, 52), 150),
    "aorta": ((-10, -30, 20), (12, 12, 175), 180),
    "inferior_vena_cava": ((20, -15, -60), (12, 12, 100), 130),
    "urinary_bladder": ((0, 20, -245), (40, 35, 25), 5),
    "bowel": ((0, 45, -155), (105, 45, 55), 15),
}
BOTH = {"kidneys": ("kidney_left", "kidney_right"), "lungs": ("lung_left", "lung_right")}


@functools.cache
def grid() -> np.ndarray:
    """Millimetres of every voxel from the middle of the body ``[x, y, z, 3]``."""
    return (np.moveaxis(np.indices(SHAPE), 0, -1) - CENTRE_VOXEL) * SPACING


@functools.cache
def inside(organ: str) -> np.ndarray:
    """Where an organ is ``[x, y, z]``."""
    centre, half, _ = ORGANS[organ]
    return ellipsoid(centre, half)


def ellipsoid(centre: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
    return (((grid() - centre) / half) ** 2).sum(-1) < 1


def affine() -> np.ndarray:
    made = np.diag([SPACING, SPACING, SPACING, 1.0])
    made[:3, 3] = (-300, 120, -1400)  # somewhere in the scanner
    return made


def scan(mirrored: bool = False) -> Scan:
    mm = grid()
    hu = np.full(SHAPE, -1000, np.int16)
    hu[((mm[..., 0] / 165) ** 2 + (mm[..., 1] / 115) ** 2) < 1] = 30
    for organ, (_, _, value) in reversed(ORGANS.items()):
        hu[inside(organ)] = value
    return Scan(hu[::-1] if mirrored else hu, affine())


def drawn(names: dict[int, str], only: tuple[str, ...] = ()) -> np.ndarray:
    """The labels of a numbering: every organ of the torso that it has (a pair where it has no sides)."""
    labels = np.zeros(SHAPE, np.uint8)
    pairs = {member: number for number, organ in names.items() for member in BOTH.get(organ, ())}
    members = pairs | {organ: number for number, organ in names.items() if organ not in BOTH}
    for organ in ORGANS:
        if organ in members and (not only or organ in only):
            labels[inside(organ) & (labels == 0)] = members[organ]
    return labels
