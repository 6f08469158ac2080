"""What a voxel of a crop's grid hides of the finer ones in it: extremes, what is thick, what is round.

The mean over a grid voxel of a lung or a liver (6 to 9 mm) dilutes a stone, a plaque or a nodule. Five maps keep them:

- ``highest`` and ``lowest`` HU of the scan's voxels in each voxel of the grid: stones, plaques, small holes.
- ``opened`` and ``closed``: the same after a greyscale opening (closing) by a cube of some millimetres, which removes
  what is bright (dark) and thinner than that: of a lung's vessels and nodules the nodules are left, and at an organ's
  border nothing of the partial volume.
- ``round``: how round the connected piece of dense voxels is that a voxel belongs to (``roundness``): a lung's vessels
  and consolidations reach far and fill little of their reach, a nodule fills it.

All look at the organ alone. The first four are in HU above its median, and voxels outside of it count as the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int8, Int16
from scipy import ndimage

Detail = Literal["highest", "lowest", "opened", "closed", "round"]
LIMIT_HU = 127
"""Details reach so far from the median: they are kept as one byte."""


def detail_maps(
    image: Int16[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    median_hu: float,
    edges: Sequence[Float[np.ndarray, " n"]],
    spacing_mm: Sequence[float],
    names: Sequence[Detail],
    thick_mm: float,
    dense_hu: float,
    round_mm: tuple[float, float],
) -> Int8[np.ndarray, "d a b c"]:
    """Details of a part of a volume on a coarser (or finer) grid.

    Args:
        image: HU.
        inside: the organ.
        median_hu: of the organ.
        edges: faces of the grid along each axis, in voxels of ``image`` (one more than grid voxels); what lies beyond
            the image is 0.
        spacing_mm: of ``image``.
        names: which maps.
        thick_mm: edge of the cube of ``opened`` and ``closed``.
        dense_hu, round_mm: of ``roundness``, which is told from 0 to ``LIMIT_HU``.
    """
    above = np.clip(image - np.int32(round(median_hu)), -LIMIT_HU, LIMIT_HU).astype(np.int8)
    above[~inside] = 0
    cube = [max(1, round(thick_mm / step)) for step in spacing_mm]
    maps = []
    for name in names:
        dark = name in ("lowest", "closed")
        extreme, other = (np.minimum, np.maximum) if dark else (np.maximum, np.minimum)
        volume = above
        if name in ("opened", "closed"):
            volume = _slid(_slid(above, other, cube), extreme, cube)
        if name == "round":
            share = roundness(inside & (image > dense_hu), spacing_mm, round_mm)
            volume = np.rint(LIMIT_HU * share).astype(np.int8)
        maps.append(_extremes(volume, extreme, edges))
    return np.stack(maps)


def roundness(
    dense: Bool[np.ndarray, "x y z"], spacing_mm: Sequence[float], round_mm: tuple[float, float]
) -> Float[np.ndarray, "x y z"]:
    """Of each connected piece (by faces), the share that it fills of a ball as wide as the piece is long, 0 to 1.

    Args:
        dense: which voxels belong to pieces; elsewhere it is 0.
        spacing_mm: edges of a voxel.
        round_mm: shorter and longer pieces are 0. A piece is as long as the longest side of its box.
    """
    pieces = np.zeros(dense.shape, np.int32)
    ndimage.label(dense, output=pieces)
    boxes = [box for box in ndimage.find_objects(pieces) if box is not None]
    sides = np.array([[part.stop - part.start for part in box] for box in boxes]).reshape(-1, 3)
    longest = (sides * np.asarray(spacing_mm)).max(1)
    volumes = np.bincount(pieces.ravel(), minlength=1)[1:] * float(np.prod(spacing_mm))
    filled = np.minimum(volumes / (np.pi / 6 * longest**3), 1.0)
    filled[(longest < round_mm[0]) | (longest > round_mm[1])] = 0
    return np.concatenate([[0.0], filled]).astype(np.float32)[pieces]


def _slid(volume: Int8[np.ndarray, "x y z"], extreme: np.ufunc, cube: Sequence[int]) -> Int8[np.ndarray, "x y z"]:
    """Erosion or dilation by a cube, as far as it lies inside. (Whole slices at a time: a twentieth of what scipy's
    filters take.)"""
    for axis, size in enumerate(cube):
        before, count = (size - 1) // 2 if extreme is np.minimum else size // 2, volume.shape[axis]
        source, ahead = volume, (slice(None),) * axis
        volume = source.copy()
        for step in range(-before, size - before):
            into = volume[(*ahead, slice(max(-step, 0), max(count - max(step, 0), 0)))]
            extreme(into, source[(*ahead, slice(max(step, 0), max(count + min(step, 0), 0)))], out=into)
    return volume


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
