"""What a radiograph is turned into: one small piece of data that travels from preprocessing into the model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ctglip.config import Settings
from ctglip.files import value_hash

CXR_MAX = 4095
"""White of a standardised radiograph: 12 bits, what detectors deliver. Black is 0."""


class CxrRecipe(Settings):
    """How radiographs, their masks and boxes are read and standardised.

    Attributes:
        trained: settings that decide what a model sees: those of its training, and no others.
        size: rows and columns of the standardised radiograph, a square.
        fit: ``letterbox`` keeps the proportions and fills up with black, ``cover`` keeps them and cuts the longer side
            down to its middle, ``stretch`` does not keep them.
        crop_borders: cut away black or white frames around the radiograph; letters burned into it stay.
        window: which grey values become black and white: those that the DICOM file proposes (``voi``; radiographs
            without a proposal by percentile), or always ``percentile``.
        percentiles: the two of them, of the radiograph without its borders.
        label_map: numbers of a mask picture to organ names. Without it a mask is of two lungs, told apart by side.
    """

    trained: ClassVar = ("size", "fit", "crop_borders", "window", "percentiles")

    size: int = Field(default=512, ge=32, le=4096)
    fit: Literal["letterbox", "cover", "stretch"] = "letterbox"
    crop_borders: bool = True
    window: Literal["voi", "percentile"] = "voi"
    percentiles: tuple[float, float] = (0.5, 99.5)
    label_map: dict[int, str] | None = None

    @field_validator("percentiles")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("expected 0 <= lower < upper <= 100")
        return value

    @property
    def hash(self) -> str:
        """The same for recipes with the same result; part of every cache key."""
        return value_hash(self.stored())

    def stored(self) -> dict[str, Any]:
        """As plain data."""
        return self.model_dump(mode="json")
