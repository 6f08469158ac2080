"""The one function that turns a radiograph, its masks and boxes into what is stored and what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CXR_MAX, CxrRecipe
from ctglip.types import QualityCheck, Region, Standardized

_BORDER = 0.03
"""How far a border's pixels may differ from each other, as a share of the radiograph's range."""
_DEEPEST = 0.45
_SAMPLE = 250_000
"""Pixels that the percentiles are taken of, at least."""


@dataclass(frozen=True)
class Placement:
    """Where a radiograph's pixels lie on the standardised grid.

    A source edge ``e`` (pixel borders, 0 at the first) comes to ``(e - start) * scale + pad``; all ``(row, column)``.
    """

    start: tuple[int, int]
    scale: tuple[float, float]
    pad: tuple[int, int]
    inner: tuple[int, int]
    size: int

    def edges(self, axis: int, values: np.ndarray) -> np.ndarray:
        """Source edges along an axis on the standardised grid."""
        return (values - self.start[axis]) * self.scale[axis] + self.pad[axis]

    def affine(self, spacing_mm: tuple[float, float] | None) -> np.ndarray:
        """4x4: (row, column, 0) of the grid to millimetres of the source, to its pixels where no spacing is known."""
        matrix = np.eye(4)
        for axis, edge in enumerate(spacing_mm or (1.0, 1.0)):
            matrix[axis, axis] = edge / self.scale[axis]
            centre = (0.5 - self.pad[axis]) / self.scale[axis] + self.start[axis] - 0.5
            matrix[axis, 3] = edge * centre
        return matrix


def standardize_radiograph(
    radiograph: Radiograph, recipe: CxrRecipe, masks: np.ndarray | None = None, regions: Sequence[Region] = ()
) -> Standardized:
    """Window, crop the borders, scale: the same at preprocessing and at inference.

    Args:
        radiograph: as ``read_radiograph`` gives it.
        recipe: size, fit, window.
        masks: uint8 ``[row, column]`` organ labels on the radiograph's pixels, or None.
        regions: boxes in the radiograph's pixels.

    Returns:
        ``image`` uint16 ``[row, column]`` from 0 to ``CXR_MAX``, ``organs`` uint8 or None, the affine of
        ``Placement.affine``, and the boxes that still lie on the radiograph, in pixels of the grid.
    """
    values, checks = _windowed(radiograph, recipe)
    rows, columns = _inner_box(values) if recipe.crop_borders else (slice(0, None), slice(0, None))
    if recipe.fit == "cover":
        rows, columns = _middle_square(values[rows, columns].shape, (rows.start or 0, columns.start or 0))
    inside = values[rows, columns]
    placing = _position(inside.shape, (rows.start, columns.start), recipe)
    image = np.zeros((recipe.size, recipe.size), np.uint16)
    at = tuple(slice(p, p + n) for p, n in zip(placing.pad, placing.inner, strict=True))
    image[at] = np.rint(np.clip(resized(inside, placing.inner), 0, 1) * CXR_MAX).astype(np.uint16)
    organs = None
    if masks is not None:
        organs = np.zeros(image.shape, np.uint8)
        organs[at] = _nearest(masks[rows, columns], placing.inner)
    placed = tuple(box for region in regions if (box := map_region(region, placing)) is not None)
    if lost := len(regions) - len(placed):
        message = f"{lost} boxes lie outside the radiograph and were left out."
        checks = (*checks, QualityCheck("region_outside", "warning", message, lost))
    affine = placing.affine(radiograph.spacing_mm)
    return Standardized(image, organs, affine, checks=checks, regions=placed)


def map_region(region: Region, placing: Placement) -> Region | None:
    """A box on the standardised grid, clipped to it; None where nothing of it is left."""
    edges: list[int] = []
    for axis, (low, high) in enumerate(((region.row0, region.row1), (region.column0, region.column1))):
        a, b = placing.edges(axis, np.array([low, high], float))
        first, last = placing.pad[axis], placing.pad[axis] + placing.inner[axis]
        edges += [int(np.clip(np.floor(a + 1e-6), first, last)), int(np.clip(np.ceil(b - 1e-6), first, last))]
    row0, row1, column0, column1 = edges
    return Region(region.name, row0, row1, column0, column1) if row0 < row1 and column0 < column1 else None


def _windowed(radiograph: Radiograph, recipe: CxrRecipe) -> tuple[np.ndarray, tuple[QualityCheck, ...]]:
    """Black 0, white 1, before clipping."""
    values = radiograph.pixels
    if radiograph.window is not None and recipe.window == "voi":
        low, high = radiograph.window
    else:
        span = float(values.min()), float(values.max())
        inner = values
        if recipe.crop_borders:
            inner = values[_inner_box((values - span[0]) / (span[1] - span[0]))]
        step = max(1, int(np.sqrt(inner.size / _SAMPLE)))
        low, high = (float(v) for v in np.percentile(inner[::step, ::step], recipe.percentiles))
        if high <= low:
            low, high = span
    grey = (values - low) / (high - low)
    flat = float(np.mean((grey[::4, ::4] <= 0) | (grey[::4, ::4] >= 1)))
    if flat <= 0.6:
        return grey, ()
    message = f"{flat:.0%} of the radiograph is pure black or white."
    return grey, (QualityCheck("cxr_saturated", "warning", message, flat),)


def _inner_box(values: np.ndarray) -> tuple[slice, slice]:
    """The radiograph without frames of one grey: whatever is drawn into a frame, letters too, ends it."""
    grey = np.clip(values, 0, 1)
    spans: list[slice] = []
    for axis in (0, 1):
        low, high = grey.min(axis=1 - axis), grey.max(axis=1 - axis)
        level, flat = (low + high) / 2, high - low < _BORDER
        count = len(level)
        first, last = _run(flat, level), count - _run(flat[::-1], level[::-1])
        deepest = int(_DEEPEST * count)
        spans.append(slice(first, last) if first <= deepest and count - last <= deepest else slice(0, count))
    return spans[0], spans[1]


def _middle_square(shape: tuple[int, ...], start: tuple[int, int]) -> tuple[slice, slice]:
    """The middle of the longer side, as long as the shorter."""
    side = min(shape)
    first = [begin + (length - side) // 2 for begin, length in zip(start, shape, strict=True)]
    return slice(first[0], first[0] + side), slice(first[1], first[1] + side)


def _run(flat: np.ndarray, level: np.ndarray) -> int:
    """How many lines from the first on belong to a frame: flat, and of the first one's grey."""
    same = flat & (np.abs(level - level[0]) < _BORDER)
    return len(same) if same.all() else int(np.argmin(same))


def _position(shape: tuple[int, ...], start: tuple[int, int], recipe: CxrRecipe) -> Placement:
    size = recipe.size
    if recipe.fit == "stretch":
        inner = (size, size)
    else:
        longest = max(shape)
        inner = tuple(max(1, round(n * size / longest)) for n in shape)
    scale = (inner[0] / shape[0], inner[1] / shape[1])
    return Placement(start, scale, ((size - inner[0]) // 2, (size - inner[1]) // 2), (inner[0], inner[1]), size)


def resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Linear interpolation, with a support that grows where pixels are merged (no aliasing)."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _nearest(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Each pixel takes the label under its centre."""
    picks = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, labels.shape, strict=True)]
    return labels[np.ix_(*picks)]
