"""Cards of released encoders: where their weights are, under which licence, and what they want to see.

A card is a file of ``configs/encoders/`` with the name of the encoder. Preprocessing makes the store that an encoder
wants of it (``ctglip preprocess --for NAME``), and the encoder turns a model's input into its own by the same numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ctglip.config import RootSettings, Settings, load_settings
from ctglip.errors import ConfigError
from ctglip.resources import resource
from ctglip.types import GridRule

_AIR_HU, _BONE_HU = -1024, 3071
_INT16 = np.iinfo(np.int16)


class CtEncoderInput(Settings):
    """What a CT encoder wants to see.

    Attributes:
        spacing_mm: voxel edges to right, front and head (x, y, z) that it was trained with.
        window_hu: HU that it can tell apart; beyond them values are clipped.
        range: what the ends of the window become.
        per_image: what is done then with each image: nothing, z-scores of its voxels, or its lowest value to 0 and its
            highest to 1.
        mean, std: taken away and divided by at last.
        orientation: where each axis of its tensors leads, in the letters of nibabel (``RAS``, ``SPL``).
        size: voxels (x, y, z) of what it was trained on.
        grid: how its own preprocessing resamples a scan (``CtRecipe.grid``). Other than ``smooth``: a store that is
            made for it holds whole scans with HU beyond the window.
        clip_first: its own preprocessing clips HU to the window before it resamples.
        round_up: of an odd number of voxels too many or too few the larger half is at the beginning of its axes.
        pad: what is put around smaller scans: the lower end of the window, or the scan's own ``minimum``.
    """

    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    range: tuple[float, float] = (0.0, 1.0)
    per_image: Literal["none", "z_score", "min_max"] = "none"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    orientation: str = Field(default="RAS", pattern="^[RLAPSI]{3}$")
    size: tuple[int, int, int]
    grid: GridRule = "smooth"
    clip_first: bool = False
    round_up: bool = False
    pad: Literal["window", "minimum"] = "window"

    def preprocess(self) -> dict[str, Any]:
        """The part ``ct`` of a config of preprocessing: the spacing, and HU that reach as far as the window; or what
        its own preprocessing does up to there."""
        low, high = (int(end) for end in self.window_hu)
        made: dict[str, Any] = {"spacing_mm": list(self.spacing_mm)}
        if self.grid == "smooth":
            return {"ct": made | {"hu_clip": [min(_AIR_HU, low), max(_BONE_HU, high)]}}
        clip = [low, high] if self.clip_first else [int(_INT16.min), int(_INT16.max)]
        return {"ct": made | {"hu_clip": clip, "crop_to_body": False, "grid": self.grid}}


class CxrEncoderInput(Settings):
    """What an encoder of chest radiographs wants to see.

    Attributes:
        size: rows and columns of what it sees (``data.size``).
        resize: rows and columns of the radiograph that this is the middle of (``data.margin`` times ``size``); none:
            ``size``.
        fit: how a radiograph becomes a square (``CxrRecipe.fit``).
        min_max: its darkest value becomes black and its brightest white.
        mean, std: of grey values between 0 and 1, one for each of its channels (which all show the same).
    """

    size: int = Field(ge=16)
    resize: int | None = None
    fit: Literal["letterbox", "stretch", "cover"] = "letterbox"
    min_max: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def preprocess(self) -> dict[str, Any]:
        """The part ``cxr`` of a config of preprocessing."""
        window = {"window": "percentile", "percentiles": [0, 100]} if self.min_max else {}
        return {"cxr": {"size": self.resize or self.size, "fit": self.fit, "crop_borders": False, **window}}


class EncoderCard(RootSettings):
    """A released encoder.

    Attributes:
        title: what it is called.
        licence: of code and weights.
        hub: its repository on Hugging Face's hub; none: it is elsewhere (``where``).
        files: names of files with its weights, the usual one first.
        where: where its weights are, in words, where that is not the hub.
        ct, cxr: what it wants to see; one of them.
        compared: what this project's encoder was compared with.
        unconfirmed: what is taken from reading code and papers, not from the released files.
    """

    kind: Literal["encoder"] = "encoder"
    title: str
    licence: str
    hub: str | None = None
    files: tuple[str, ...] = ()
    where: str = ""
    ct: CtEncoderInput | None = None
    cxr: CxrEncoderInput | None = None
    compared: str
    unconfirmed: tuple[str, ...] = ()

    def preprocess(self) -> dict[str, Any]:
        """What a config of preprocessing must say for this encoder."""
        expected = self.ct or self.cxr
        return {} if expected is None else expected.preprocess()


@cache
def encoder_card(name: str) -> EncoderCard:
    """The card of a released encoder, by the name of its settings.

    Raises:
        ConfigError: code ``encoder``: there is none of that name.
    """
    if name not in encoder_names():
        raise ConfigError(
            f"There is no released encoder {name!r}.", code="encoder", fix=f"Known: {', '.join(encoder_names())}."
        )
    return load_settings(EncoderCard, f"encoders/{name}")


def encoder_names() -> list[str]:
    """Names of all released encoders that there are cards of."""
    return sorted(file.stem for file in resource("configs", "encoders").glob("*.yaml"))
