"""A window of a radiograph as a model's input, with what training draws: place, grey values, sides, turns and warps.

(A turn and a warp are one interpolation of float grey values, from the radiograph around the window, with boxes that go
along, all from numpy's generator; torchvision's ``RandomRotation`` and ``RandomPerspective`` interpolate twice, black
beyond the window, and draw from torch's.)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.cxr import CxrInputSettings, scaled

Homography = Float[np.ndarray, "3 3"]


def cxr_window(
    radiograph: np.ndarray, boxes: Float[np.ndarray, "m 4"], settings: CxrInputSettings, rng: np.random.Generator | None
) -> tuple[Float[np.ndarray, "1 h w"], Float[np.ndarray, "m 4"]]:
    """A window of a radiograph, as a model's input, with its boxes, clipped to it.

    Args:
        radiograph: uint16, ``cxr.stored_edge`` rows and columns.
        boxes: ``(row0, row1, column0, column1)`` in its pixels.
        settings: window and changes.
        rng: draws window, contrast, flip, turn and warp; None takes the middle as it is.

    Returns:
        The image, and the boxes in its pixels; of what was turned or warped the box around its corners.
    """
    size, room = settings.size, len(radiograph) - settings.size
    row, column = (room // 2, room // 2) if rng is None else rng.integers(0, room + 1, 2)
    position = np.array([row, row, column, column])
    if rng is None:
        return _cut(radiograph, row, column, size, settings), np.clip(boxes - position, 0, size)
    factor, shift = rng.normal([1, 0], settings.contrast)
    mirrored = rng.random() < settings.flip
    warp = _draw_warp(settings, rng)
    if warp is None:
        grey, placed = _grey(radiograph[row : row + size, column : column + size]), boxes - position
    else:
        grey, placed = warped(_grey(radiograph), warp, (row, column), size), warped_boxes(boxes - position, warp)
    if settings.autocontrast and rng.random() < settings.autocontrast:
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) / max(high - low, 1e-6)
    middle = float(grey.mean())
    grey = np.clip((grey - middle) * max(factor, 0.2) + middle + 0.5 * shift, 0, 1)
    placed = np.clip(placed, 0, size)
    if mirrored:
        grey = grey[:, ::-1]
        placed[:, 2:] = size - placed[:, [3, 2]]
    return scaled(grey, settings)[None], placed


def _cut(radiograph: np.ndarray, row: int, column: int, size: int, settings: CxrInputSettings) -> np.ndarray:
    return scaled(_grey(radiograph[row : row + size, column : column + size]), settings)[None]


def _grey(radiograph: np.ndarray) -> Float[np.ndarray, "h w"]:
    return radiograph.astype(np.float32) / CXR_MAX


def _draw_warp(settings: CxrInputSettings, rng: np.random.Generator) -> Homography | None:
    """A turn, then a warp, as torchvision's RandomRotation and RandomPerspective draw them; None where neither is."""
    found = None
    if settings.rotate:
        found = turn(float(rng.uniform(-settings.rotate, settings.rotate)), settings.size)
    if settings.perspective and rng.random() < settings.perspective:
        reach = settings.distortion * settings.size / 2
        corners = _corners(settings.size)
        inwards = rng.uniform(0, reach, (4, 2)) * np.where(corners > 0, -1, 1)
        bent = between(corners, corners + inwards)
        found = bent if found is None else bent @ found
    return found


def _corners(size: float) -> Float[np.ndarray, "4 2"]:
    """(row, column) of the corners of a window."""
    return np.array([[0, 0], [0, size], [size, 0], [size, size]], np.float64)


def turn(degrees: float, size: int) -> Homography:
    """Turns a picture about the middle of a window, counterclockwise as it is seen (rows count downwards)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle = size / 2
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    matrix[:2, 2] = middle - matrix[:2, :2] @ [middle, middle]
    return matrix


def between(start: Float[np.ndarray, "4 2"], end: Float[np.ndarray, "4 2"]) -> Homography:
    """The homography that takes four points to four others."""
    rows, targets = [], []
    for (x, y), (u, v) in zip(start, end, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        targets += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(targets)), 1.0).reshape(3, 3)


def mapped(points: Float[np.ndarray, "n 2"], matrix: Homography) -> Float[np.ndarray, "n 2"]:
    """Where (row, column) points come to lie; the middle of pixel i is i + 0.5."""
    there = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return there[:, :2] / there[:, 2:]


def warped(
    radiograph: Float[np.ndarray, "h w"], matrix: Homography, start: tuple[int, int], size: int
) -> Float[np.ndarray, "s s"]:
    """A window of a radiograph that was turned or warped, interpolated linearly; black beyond the radiograph.

    Args:
        radiograph: of any size around the window.
        matrix: takes points of the window, as it lies on the radiograph, to where they are seen.
        start: first row and column of the window on the radiograph.
        size: rows and columns of the window.
    """
    steps = np.arange(size) + 0.5
    pixels = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    from_radiograph = mapped(pixels, np.linalg.inv(matrix)) + np.array(start) - 0.5
    return map_coordinates(radiograph, from_radiograph.T, order=1, cval=0.0).reshape(size, size)


def warped_boxes(boxes: Float[np.ndarray, "m 4"], matrix: Homography) -> Float[np.ndarray, "m 4"]:
    """The boxes around the corners of some boxes ``(row0, row1, column0, column1)`` after a warp."""
    if not len(boxes):
        return boxes
    corners = boxes[:, [[0, 2], [0, 3], [1, 2], [1, 3]]].reshape(-1, 2)
    there = mapped(corners, matrix).reshape(-1, 4, 2)
    low, high = there.min(1), there.max(1)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
