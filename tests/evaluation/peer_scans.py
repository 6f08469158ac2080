"""A made-up scan that every peer's preprocessing has something to do with, and texts."""

from __future__ import annotations

import numpy as np

STEP = (7, 9, 8)
"""Which voxels of an input are written down."""

SENTENCES = (
    "No Gallstones.",
    "Hepatic steatosis (grade 2/3), liver's edge; 1.5cm cyst -- see above!",
    "CT_scan of the ABDOMEN",
)


def scan() -> tuple[np.ndarray, np.ndarray]:
    """HU ``[i, j, k]`` with padding of -3024, stored left-posterior-superior, with odd sides on all axes, some larger
    and some smaller than peers want; and its affine."""
    shape = (211, 127, 149)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = 700 * np.sin(5 * x + 1) * np.cos(4 * y - 0.5) + 500 * np.sin(9 * z + 2 * x)
    hu[x**2 + y**2 > 1.5] = -3024
    affine = np.diag([-1.9, -1.3, 3.7, 1.0])
    affine[:3, 3] = (200, 80, -300)
    return np.rint(hu).astype(np.int16), affine
