"""The organ table: box, volume, mean and spread of HU, border contact of every organ, in one pass over the voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctglip.types import OrganRow
from ctglip.vocabulary.organs import OrganDictionary

_SLAB = 8
"""Planes at a time: what is made of them stays in the cache."""


@dataclass(frozen=True)
class LabelStatistics:
    """What is known of each label number 0..255 of a label map.

    Attributes:
        count: voxels ``[256]``.
        total: sum of HU ``[256]``.
        squares: sum of squared HU ``[256]``.
        low: first voxel ``[256, 3]``.
        high: last voxel plus one ``[256, 3]``.
    """

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray


def label_table(labels: np.ndarray, image: np.ndarray) -> LabelStatistics:
    """Count, HU sums and box of every label.

    Args:
        labels: uint8 ``[x, y, z]``.
        image: int16 ``[x, y, z]``.
    """
    count, total, squares = np.zeros(256, np.int64), np.zeros(256), np.zeros(256)
    present = [np.zeros((256, size), bool) for size in labels.shape]
    for start in range(0, len(labels), _SLAB):
        slab, values = labels[start : start + _SLAB], image[start : start + _SLAB]
        label, position, length = _runs(slab)
        if not len(label):
            continue
        x, y, first = np.unravel_index(position, slab.shape)
        for axis, along in ((0, x + start), (1, y), (2, first), (2, first + length - 1)):
            present[axis][label, along] = True
        hu = values[slab > 0].astype(np.int64)
        begin = np.cumsum(length) - length
        count += np.bincount(label, length, minlength=256).astype(np.int64)
        total += np.bincount(label, np.add.reduceat(hu, begin), minlength=256)
        squares += np.bincount(label, np.add.reduceat(hu * hu, begin), minlength=256)
    there = count[:, None] > 0
    low = np.stack([positions.argmax(1) for positions in present], axis=1)
    high = np.stack([positions.shape[1] - positions[:, ::-1].argmax(1) for positions in present], axis=1)
    return LabelStatistics(count, total, squares, low * there, high * there)


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of one label along z, in order: which, the first voxel's place in the flattened array, how many voxels."""
    changed = np.ones(labels.shape, bool)
    np.not_equal(labels[..., 1:], labels[..., :-1], out=changed[..., 1:])
    position = np.flatnonzero(changed)
    length = np.diff(position, append=labels.size)
    label = labels.ravel()[position]
    inside = label > 0
    return label[inside], position[inside], length[inside]


def organ_table(
    labels: np.ndarray,
    image: np.ndarray,
    affine: np.ndarray,
    organs: OrganDictionary,
    min_organ_ml: float = 0.05,
    cut: frozenset[int] = frozenset(),
) -> tuple[OrganRow, ...]:
    """One row for every dictionary organ whose ROI masks are there, groups and shells included.

    Args:
        labels: uint8 ``[x, y, z]``, dictionary labels.
        image: int16 ``[x, y, z]`` HU.
        affine: ``[4, 4]`` of both.
        organs: the dictionary.
        min_organ_ml: organs with less are left out.
        cut: labels known to reach a border of the field of view that is not a face of the array.

    Returns:
        Rows in the dictionary's order. Boxes are half-open voxel boxes of the ROI masks before any dilation.
    """
    table = label_table(labels, image)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    rows: list[OrganRow] = []
    for name in organs.names:
        numbers = [number for number in organs.roi_labels(name) if table.count[number]]
        voxels = int(table.count[numbers].sum())
        if not voxels or voxels * voxel_ml < min_organ_ml:
            continue
        low, high = table.low[numbers].min(0), table.high[numbers].max(0)
        x0, y0, z0, x1, y1, z1 = (int(side) for side in (*low, *high))
        touches = bool((low == 0).any() or (high == labels.shape).any() or not cut.isdisjoint(numbers))
        mean = float(table.total[numbers].sum()) / voxels
        spread = float(np.sqrt(max(0.0, float(table.squares[numbers].sum()) / voxels - mean * mean)))
        rows.append(OrganRow(name, (x0, x1, y0, y1, z0, z1), voxels * voxel_ml, mean, touches, spread))
    return tuple(rows)
