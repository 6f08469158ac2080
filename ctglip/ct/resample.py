"""Moving arrays from one grid to another: images anti-aliased and linear, labels exactly and nearest.

Grids whose axes agree (in any order and direction) take a separable path: one sparse matrix of interpolation weights
for each axis. A triangle kernel as wide as the coarser of the two grids smooths where voxels get larger, and is plain
linear interpolation where they get smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

_PAD = 16
"""Extra columns that keep rows of 512 floats from falling into the same cache lines."""

_LINES = 4


@dataclass(frozen=True)
class _Axis:
    """Where the voxels of one output axis lie on an input axis: index = offset + scale * output index.

    ``backwards``: the input is held the other way round, and indices on it count from its end. ``smooth``: values are
    averaged where steps are longer than a voxel.
    """

    n_in: int
    n_out: int
    scale: float
    offset: float
    backwards: bool
    smooth: bool

    @property
    def positions(self) -> np.ndarray:
        return self.offset + self.scale * np.arange(self.n_out)

    @property
    def outside(self) -> np.ndarray:
        positions = self.positions
        return (positions < -0.5 - 1e-6) | (positions > self.n_in - 0.5 + 1e-6)

    def nearest(self) -> np.ndarray:
        """Index in the input as it is held of each output voxel, clamped."""
        return self._held(np.clip(np.floor(self.positions + 0.5 - 1e-9), 0, self.n_in - 1).astype(np.intp))

    def _held(self, index: np.ndarray) -> np.ndarray:
        return self.n_in - 1 - index if self.backwards else index

    def weights(self) -> tuple[slice, sparse.csr_array | None]:
        """The range of the input, as held, that is used, and the weights ``[n_out, range]`` on it (None: a copy)."""
        step, positions = abs(self.scale), np.clip(self.positions, 0, self.n_in - 1)
        if abs(step - 1) < 1e-9 and np.abs(positions - np.rint(positions)).max() < 1e-6:
            index = self._held(np.rint(positions).astype(np.intp))
            if (np.diff(index) == 1).all():
                return slice(int(index[0]), int(index[-1]) + 1), None
        half = max(step, 1.0) if self.smooth else 1.0
        taps = np.arange(int(np.floor(-half)), int(np.ceil(half)) + 1)
        index = np.rint(positions).astype(np.intp)[:, None] + taps
        weight = np.clip(1 - np.abs(index - positions[:, None]) / half, 0, None)
        weight[(index < 0) | (index >= self.n_in)] = 0
        weight /= weight.sum(1, keepdims=True)
        rows, columns_used = np.nonzero(weight > 1e-7)
        columns = self._held(index[rows, columns_used])
        low, high = int(columns.min()), int(columns.max()) + 1
        shape = (self.n_out, high - low)
        values = weight[rows, columns_used].astype(np.float32)
        return slice(low, high), sparse.csr_array((values, (rows, columns - low)), shape=shape)


def to_grid(
    array: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    target: np.ndarray,
    *,
    labels: bool = False,
    fill: float | None = 0,
    clip: tuple[int, int] | None = None,
    smooth: bool = True,
) -> np.ndarray:
    """An array on another grid.

    Args:
        array: ``[x, y, z]`` on the grid of ``affine``.
        affine: ``[4, 4]`` of the array.
        shape: of the result.
        target: ``[4, 4]`` of the result.
        labels: take the nearest voxel, so that no value is made up; else interpolate.
        fill: value of voxels outside the array; None: that of its nearest voxel.
        clip: limits applied to the values before they are interpolated (images only).
        smooth: against aliasing, where voxels get larger (images only).

    Returns:
        C-ordered array of the input's type (integers are rounded).
    """
    mapping = np.linalg.solve(affine, target)
    axes = _matching_axes(mapping[:3, :3])
    if axes is None:
        source = array if clip is None else np.clip(array, *clip)
        return _general(source, mapping, shape, labels=labels, fill=fill, smooth=smooth)
    view = array.transpose(axes)
    held = view[tuple(slice(None, None, -1 if step < 0 else 1) for step in view.strides)]  # forwards in memory
    plan = [
        _Axis(
            view.shape[k], shape[k], float(mapping[axes[k], k]), float(mapping[axes[k], 3]), view.strides[k] < 0, smooth
        )
        for k in range(3)
    ]
    result = _nearest(held, plan) if labels else _linear(held, plan, clip)
    for k, axis in enumerate(plan):
        if fill is not None and (outside := axis.outside).any():
            result[(slice(None),) * k + (outside,)] = fill
    return result


def _matching_axes(matrix: np.ndarray) -> tuple[int, int, int] | None:
    """For each output axis the input axis along which it runs, or None when the grids are turned against each other."""
    size = np.abs(matrix)
    x, y, z = size.argmax(0).tolist()
    if len({x, y, z}) < 3:
        return None
    rest = size.copy()
    rest[[x, y, z], [0, 1, 2]] = 0
    return (x, y, z) if rest.max() <= 1e-4 * size.max() else None


def _memory_order(view: np.ndarray) -> tuple[int, int, int]:
    """Axes from the slowest to the fastest in memory."""
    a, b, c = np.argsort([-abs(step) for step in view.strides], kind="stable").tolist()
    return a, b, c


def _nearest(view: np.ndarray, plan: list[_Axis]) -> np.ndarray:
    """Plane by plane along the slow axis, so that a plane stays in the cache."""
    order = _memory_order(view)
    slow, rows, columns = (plan[k].nearest() for k in order)
    source = view.transpose(order)
    result = np.empty((len(slow), len(rows), len(columns)), view.dtype)
    for plane, position in zip(result, slow.tolist(), strict=True):
        source[position].take(rows, axis=0).take(columns, axis=1, out=plane)
    return _c_ordered(result.transpose(np.argsort(order)))


def _c_ordered(view: np.ndarray) -> np.ndarray:
    """A copy in C order, a few lines of the middle axis at a time: the cache holds what is read and what is written."""
    result = np.empty(view.shape, view.dtype)
    for start in range(0, view.shape[1], _LINES):
        lines = slice(start, start + _LINES)
        result[:, lines] = view[:, lines]
    return result


def _linear(view: np.ndarray, plan: list[_Axis], clip: tuple[int, int] | None) -> np.ndarray:
    """Weights along the two fast axes slice by slice, then along the slow one."""
    order = _memory_order(view)
    (slow, slow_weights), (rows, row_weights), (columns, column_weights) = (plan[k].weights() for k in order)
    used = view.transpose(order)[slow, rows, columns]
    n_rows, n_columns = plan[order[1]].n_out, plan[order[2]].n_out
    if slow_weights is None and row_weights is None and column_weights is None:
        copy = _c_ordered(used.transpose(np.argsort(order)))
        return copy if clip is None else np.clip(copy, *clip, out=copy)
    planes = np.empty((used.shape[0], n_columns, n_rows), np.float32)
    width = used.shape[2]
    scratch = np.zeros((used.shape[1], width + _PAD), np.float32)
    for plane, source in zip(planes, used, strict=True):
        scratch[:, :width] = source if clip is None else np.clip(source, *clip)
        values = scratch if row_weights is None else row_weights @ scratch
        values = np.ascontiguousarray(values[:, :width].T)
        plane[:] = values if column_weights is None else column_weights @ values
    if slow_weights is not None:
        planes = (slow_weights @ planes.reshape(len(planes), -1)).reshape(-1, n_columns, n_rows)
    back = np.argsort((order[0], order[2], order[1]))
    return _c_ordered(_like(planes, view.dtype).transpose(back))


def _like(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The source's type; interpolated values never leave its range."""
    if np.issubdtype(dtype, np.integer):
        np.rint(values, out=values)
    return values.astype(dtype, copy=False)


def _general(
    array: np.ndarray,
    mapping: np.ndarray,
    shape: tuple[int, int, int],
    *,
    labels: bool,
    fill: float | None,
    smooth: bool,
) -> np.ndarray:
    """Any affine, by scipy: slower, for turned and sheared grids."""
    if labels:
        source, order = array, 0
    else:
        step = np.linalg.norm(mapping[:3, :3], axis=1)
        sigma = [float(np.sqrt(max(s * s - 1, 0) / 6)) for s in step]
        source, order = array.astype(np.float32), 1
        if smooth and max(sigma) > 0.1:
            source = ndimage.gaussian_filter(source, sigma, truncate=3)
    beyond = "nearest" if fill is None else "constant"
    result = ndimage.affine_transform(source, mapping, output_shape=shape, order=order, mode=beyond, cval=fill or 0)
    return np.ascontiguousarray(result if labels else _like(result, array.dtype))
