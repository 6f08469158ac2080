"""A window of a radiograph as a model's input, with what training draws: torchvision's transforms, drawn from numpy's
generator so that a seed and a step decide them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.cxr import CxrInputSettings, scaled

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_XYXY = [2, 0, 3, 1]
"""``(row0, row1, column0, column1)`` as torchvision's ``(x0, y0, x1, y1)``."""
_ROWS_FIRST = [1, 3, 0, 2]
_STILL = {"flip": 0.0, "flip_vertical": 0.0, "rotate": 0.0, "perspective": 0.0, "resized_crop": None}


def upright(settings: CxrInputSettings) -> CxrInputSettings:
    """The same without what turns, mirrors, warps or enlarges: for labels that have sides, and for masks."""
    return settings.model_copy(update=_STILL)


def cxr_window(
    radiograph: np.ndarray, boxes: Float[np.ndarray, "m 4"], settings: CxrInputSettings, rng: np.random.Generator | None
) -> tuple[Float[np.ndarray, "1 h w"], Float[np.ndarray, "m 4"]]:
    """A window of a radiograph, as a model's input, with its boxes, clipped to it.

    In the order of torchvision's published uses: crop, mirrors, turn, warp (black beyond the window), autocontrast,
    brightness and contrast.

    Args:
        radiograph: uint16, ``cxr.stored_edge`` rows and columns.
        boxes: ``(row0, row1, column0, column1)`` in its pixels.
        settings: window and changes.
        rng: draws them; None takes the middle as it is.

    Returns:
        The image, and the boxes in its pixels; of what was turned or warped the box around its corners.
    """
    size, edge = settings.size, len(radiograph)
    room = edge - size
    row, column = (room // 2, room // 2) if rng is None else rng.integers(0, room + 1, 2).tolist()
    grey = torch.from_numpy(radiograph.astype(np.float32) / CXR_MAX)[None]
    corners = torch.as_tensor(np.ascontiguousarray(boxes, np.float32).reshape(-1, 4)[:, _XYXY])
    image: Any = tv_tensors.Image(grey)
    placed: Any = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(edge, edge))  # pyright: ignore[reportCallIssue]
    if rng is None:
        image, placed = (vision.crop(one, row, column, size, size) for one in (image, placed))
        return _finished(image, placed, settings)
    factor, shift = rng.normal([1, 0], settings.contrast)
    mirrored = rng.random() < settings.flip
    if settings.resized_crop is None:
        image, placed = (vision.crop(one, row, column, size, size) for one in (image, placed))
    else:
        part = _part(edge, settings.resized_crop, rng)
        image = vision.resized_crop(image, *part, [size, size], InterpolationMode.BICUBIC, antialias=True)
        placed = vision.resized_crop(placed, *part, [size, size])
    if mirrored:
        image, placed = (vision.horizontal_flip(one) for one in (image, placed))
    image, placed = _turned(image, placed, settings, rng)
    image = image.clamp(0, 1)
    if settings.autocontrast and rng.random() < settings.autocontrast:
        image = vision.autocontrast(image)
    if settings.jitter:
        brightness, contrast = rng.uniform(1 - settings.jitter, 1 + settings.jitter, 2)
        image = vision.adjust_contrast(vision.adjust_brightness(image, float(brightness)), float(contrast))
    middle = image.mean()
    image = ((image - middle) * max(factor, 0.2) + middle + 0.5 * shift).clamp(0, 1)
    return _finished(image, placed, settings)


def _finished(
    image: Tensor, boxes: Tensor, settings: CxrInputSettings
) -> tuple[Float[np.ndarray, "1 h w"], Float[np.ndarray, "m 4"]]:
    placed = np.clip(boxes.numpy()[:, _ROWS_FIRST].astype(np.float64), 0, settings.size)
    return scaled(image.numpy(), settings), placed


def _turned(image: Any, boxes: Any, settings: CxrInputSettings, rng: np.random.Generator) -> tuple[Any, Any]:
    """Upside down, turned, warped: as often and as far as the settings say."""
    if settings.flip_vertical and rng.random() < settings.flip_vertical:
        image, boxes = (vision.vertical_flip(one) for one in (image, boxes))
    if settings.rotate:
        angle = float(rng.uniform(-settings.rotate, settings.rotate))
        image, boxes = (vision.rotate(one, angle) for one in (image, boxes))
    if settings.perspective and rng.random() < settings.perspective:
        start, end = _warp(settings.size, settings.distortion, rng)
        image = vision.perspective(image, start, end, InterpolationMode.BILINEAR)
        boxes = vision.perspective(boxes, start, end)
    return image, boxes


def _part(edge: int, share: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of the radiograph, as torchvision's ``RandomResizedCrop`` draws it."""
    for _ in range(_TRIES):
        area = edge * edge * rng.uniform(*share)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= edge and 0 < height <= edge:
            top, left = (int(rng.integers(0, edge - side + 1)) for side in (height, width))
            return top, left, height, width
    return 0, 0, edge, edge


def _warp(size: int, distortion: float, rng: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
    """Corners before and after, as torchvision's ``RandomPerspective`` draws them: each up to ``distortion / 2`` of
    the window inwards."""
    last = size - 1
    start = [[0, 0], [last, 0], [last, last], [0, last]]
    reach = int(distortion * (size // 2)) + 1
    inwards = rng.integers(0, reach, (4, 2)).tolist()
    signs = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    end = [[x + a * sx, y + b * sy] for (x, y), (a, b), (sx, sy) in zip(start, inwards, signs, strict=True)]
    return start, end
