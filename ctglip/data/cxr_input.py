"""A standardised radiograph as a model's input: the only way there, in training and for a single question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.standardize import resized

if TYPE_CHECKING:
    from ctglip.data.cxr import CxrDataSettings


def kept_edge(settings: CxrDataSettings) -> int:
    """Rows and columns of the radiograph that windows are taken from."""
    return round(settings.size * settings.margin)


def shrunk(image: np.ndarray, edge: int) -> np.ndarray:
    """A stored radiograph, uint16 ``[row, column]``, on ``edge`` rows and columns."""
    values = resized(image.astype(np.float32), (edge, edge))
    return np.clip(np.rint(values), 0, CXR_MAX).astype(np.uint16)


def scaled(grey: np.ndarray, settings: CxrDataSettings) -> np.ndarray:
    """Grey values (0 to 1) as a model reads them, float32."""
    return np.ascontiguousarray((grey - settings.mean) / settings.std, np.float32)


@dataclass(frozen=True)
class CxrInput:
    """The middle of one radiograph, without what training draws.

    Attributes:
        image: what the model reads.
        shape: rows and columns of the standardised radiograph.
        edge: rows and columns of the radiograph that the window was taken from.
        start: first row and column of the window there.
    """

    image: Float[np.ndarray, "1 h w"]
    shape: tuple[int, int]
    edge: int
    start: int

    def boxes(self, boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "m 4"]:
        """Boxes ``(row0, row1, column0, column1)`` of the standardised radiograph in pixels of the window, clipped to
        it."""
        scale = np.repeat(self.edge / np.array(self.shape, np.float64), 2)
        placed = np.asarray(boxes, np.float64).reshape(-1, 4) * scale - self.start
        return np.clip(placed, 0, self.image.shape[-1]).astype(np.float32)

    def affine(self) -> Float[np.ndarray, "4 4"]:
        """4x4: (row, column, 0) of the window to those of the standardised radiograph."""
        matrix = np.eye(4)
        for axis in (0, 1):
            step = self.shape[axis] / self.edge
            matrix[axis, axis] = step
            matrix[axis, 3] = (self.start + 0.5) * step - 0.5
        return matrix


def cxr_input(image: np.ndarray, settings: CxrDataSettings) -> CxrInput:
    """The window of a radiograph that is not drawn.

    Args:
        image: a standardised radiograph, uint16 ``[row, column]``, as the store has it.
        settings: those that the model was trained with.
    """
    edge = kept_edge(settings)
    start = (edge - settings.size) // 2
    inside = slice(start, start + settings.size)
    grey = shrunk(image, edge)[inside, inside].astype(np.float32) / CXR_MAX
    rows, columns = image.shape
    return CxrInput(scaled(grey, settings)[None], (rows, columns), edge, start)
