"""A standardised radiograph as a model's input: the only way there, in training and for a single question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt16
from numpy.typing import ArrayLike
from pydantic import Field, field_validator

from ctglip.config import Settings
from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.standardize import resized
from ctglip.data.crops import CropSettings
from ctglip.data.settings import DataSettings
from ctglip.reports.tags import TagList


class CxrInputSettings(Settings):
    """How a radiograph becomes a model's input, and what training changes of it. Part of the model: inference cuts as
    training did, and fine-tuning changes as pretraining did.

    Attributes:
        size: rows and columns of a model's input, a window of a slightly larger radiograph.
        margin: how much larger that radiograph is; the window's place is drawn in training and the middle otherwise.
        resized_crop: in training a part of that radiograph, of a share of its area between these two, enlarged or
            shrunk to the window (torchvision's RandomResizedCrop; ECAMP's 0.2 to 1); null: windows alone.
        contrast: deviation of the factor and of the shift of the grey values, in training.
        jitter: how far brightness and contrast are changed, each by a factor between 1 - and 1 + this (ColorJitter).
        flip: share of windows that are mirrored. It contradicts the sides that reports name (IMITATE's 0.5).
        flip_vertical: share of windows that are turned upside down (IMITATE's 0.5).
        autocontrast: share of windows whose grey values are stretched to all there are (IMITATE's 0.5).
        rotate: largest turn in degrees, either way (IMITATE's 30). The box of a turned region is that around it, larger
            than the region; so leave turns and warps out where regions are compared (ASG).
        perspective, distortion: share of windows that are warped, and how far their corners move inwards at most, in
            halves of the window (IMITATE's 0.5, 0.5). What is turned or warped in is black.
        mean, std: of the grey values (0 to 1), for a model's input; ECAMP's.
        lateral: take lateral radiographs too; frontal ones, and those of unknown projection, always count.
    """

    size: int = Field(default=128, ge=16)
    margin: float = Field(default=1.125, ge=1, le=2)
    resized_crop: tuple[float, float] | None = None
    contrast: float = Field(default=0.1, ge=0, le=1)
    jitter: float = Field(default=0.0, ge=0, lt=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    autocontrast: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=180)
    perspective: float = Field(default=0.0, ge=0, le=1)
    distortion: float = Field(default=0.5, ge=0, lt=1)
    mean: float = 0.4721
    std: float = Field(default=0.3037, gt=0)
    lateral: bool = False

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.perspective else {"distortion": "perspective is 0"}

    @field_validator("resized_crop")
    @classmethod
    def _shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares of the area, 0 < least <= largest <= 1")
        return value


class CxrDataSettings(DataSettings, CxrInputSettings):
    """Training on radiographs.

    Attributes:
        batch: radiographs in a batch, over all ranks.
        copies: independently drawn windows of each radiograph (IMITATE and view-view terms want 2).
        tags: which list of tags, ``tags`` (ASG's 40) or ``entities`` (ECAMP's).
        keep_gb: memory for all radiographs of the split; where they take more (two bytes a pixel, ``margin`` included)
            they are read from the store at each step, by ``loop.workers`` if there are any.
    """

    modality = "cxr"
    spatial_dims = 2
    knows_size = False

    name: Literal["cxr"] = "cxr"  # pyright: ignore[reportIncompatibleVariableOverride]
    batch: int = Field(default=32, ge=2)
    copies: int = Field(default=1, ge=1, le=4)
    tags: TagList = "tags"
    keep_gb: float = Field(default=4.0, ge=0)

    @property
    def input(self) -> CxrInputSettings:
        """How a radiograph becomes an input."""
        return CxrInputSettings(**{name: getattr(self, name) for name in CxrInputSettings.model_fields})

    @property
    def crops(self) -> CropSettings:
        """Radiographs have no crops."""
        return CropSettings()


def stored_edge(settings: CxrInputSettings) -> int:
    """Rows and columns of the radiograph that windows are taken from."""
    return round(settings.size * settings.margin)


def shrunk(image: np.ndarray, edge: int) -> np.ndarray:
    """A stored radiograph, uint16 ``[row, column]``, on ``edge`` rows and columns."""
    values = resized(image.astype(np.float32), (edge, edge))
    return np.clip(np.rint(values), 0, CXR_MAX).astype(np.uint16)


def scaled(grey: np.ndarray, settings: CxrInputSettings) -> np.ndarray:
    """Grey values (0 to 1) as a model reads them, float32."""
    return np.ascontiguousarray((grey - settings.mean) / settings.std, np.float32)


@dataclass(frozen=True)
class CxrInput:
    """A radiograph at the size that windows are taken from.

    Attributes:
        pixels: uint16, ``stored_edge`` rows and columns.
        shape: rows and columns of the standardised radiograph.
        settings: of the window.
    """

    pixels: UInt16[np.ndarray, "e e"]
    shape: tuple[int, int]
    settings: CxrInputSettings

    @property
    def start(self) -> int:
        """First row and column of the middle window, which the model sees without what training draws."""
        return (len(self.pixels) - self.settings.size) // 2

    @property
    def image(self) -> Float[np.ndarray, "1 h w"]:
        """The middle window, as the model reads it."""
        inside = slice(self.start, self.start + self.settings.size)
        return scaled(self.pixels[inside, inside].astype(np.float32) / CXR_MAX, self.settings)[None]

    def scaled_boxes(self, boxes: ArrayLike) -> Float[np.ndarray, "m 4"]:
        """Boxes ``(row0, row1, column0, column1)`` of the standardised radiograph in pixels of ``pixels``."""
        scale = np.repeat(len(self.pixels) / np.array(self.shape, np.float64), 2)
        return np.asarray(boxes, np.float64).reshape(-1, 4) * scale

    def boxes(self, boxes: ArrayLike) -> Float[np.ndarray, "m 4"]:
        """Boxes of the standardised radiograph in pixels of the middle window, clipped to it."""
        return np.clip(self.scaled_boxes(boxes) - self.start, 0, self.settings.size).astype(np.float32)

    def affine(self) -> Float[np.ndarray, "4 4"]:
        """4x4: (row, column, 0) of the middle window to those of the standardised radiograph."""
        matrix = np.eye(4)
        for axis in (0, 1):
            step = self.shape[axis] / len(self.pixels)
            matrix[axis, axis] = step
            matrix[axis, 3] = (self.start + 0.5) * step - 0.5
        return matrix


def cxr_input(image: np.ndarray, settings: CxrInputSettings) -> CxrInput:
    """A standardised radiograph, uint16 ``[row, column]`` as the store has it, as a model wants it."""
    rows, columns = image.shape
    return CxrInput(shrunk(image, stored_edge(settings)), (rows, columns), settings)
