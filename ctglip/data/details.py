"""What a voxel of a crop's grid hides of the finer ones in it: the brightest and the darkest.

The mean over a grid voxel of a lung or a liver (6 to 9 mm) dilutes a stone or a plaque. Two maps keep them, where a
recipe asks for them: ``highest`` and ``lowest`` HU of the organ's own voxels in each voxel of the grid, above the
organ's median; voxels outside of the organ count as the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int8, Int16

Detail = Literal["highest", "lowest"]
LIMIT_HU = 127
"""Details reach so far from the median: they are kept as one byte."""


def detail_maps(
    image: Int16[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    median_hu: float,
    edges: Sequence[Float[np.ndarray, " n"]],
    names: Sequence[Detail],
) -> Int8[np.ndarray, "d a b c"]:
    """Details of a part of a volume on a coarser (or finer) grid.

    Args:
        image: HU.
        inside: the organ.
        median_hu: of the organ.
        edges: faces of the grid along each axis, in voxels of ``image`` (one more than grid voxels); what lies beyond
            the image is 0.
        names: which maps.
    """
    above = np.clip(image - np.int32(round(median_hu)), -LIMIT_HU, LIMIT_HU).astype(np.int8)
    above[~inside] = 0
    return np.stack([_extremes(above, np.maximum if name == "highest" else np.minimum, edges) for name in names])


def _extremes(volume: np.ndarray, extreme: np.ufunc, edges: Sequence[np.ndarray]) -> np.ndarray:
    """The extreme in each grid voxel (of the voxels whose middle it holds; of the nearest where it holds none)."""
    for faces in edges:  # each finds its axis in front, where slices are contiguous, and leaves it at the end
        count = len(volume)
        first = np.clip(np.ceil(faces - 0.5).astype(int), 0, count)
        nearest = np.clip(np.floor((faces[:-1] + faces[1:]) / 2).astype(int), 0, count - 1)
        empty = first[1:] <= first[:-1]
        starts = np.where(empty, nearest, first[:-1])
        stops = np.where(empty, nearest + 1, first[1:])
        found = np.stack([extreme.reduce(volume[a:b], 0) for a, b in zip(starts, stops, strict=True)])
        found[(faces[1:] <= 0) | (faces[:-1] >= count)] = 0
        volume = np.ascontiguousarray(np.moveaxis(found, 0, -1))
    return volume
