"""A radiograph in memory, and the pixels of PNG, JPEG, GIF and BMP files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctglip.errors import CTGLIPError
from ctglip.limits import MOST_PIXELS
from ctglip.types import QualityCheck

FORMATS = ("PNG", "JPEG", "GIF", "BMP")
"""What pictures are opened as, whatever else Pillow knows: some formats start other programs."""
_PIXELS_A_BYTE = 8 * 1032
"""What a byte can unfold to: pixels of one bit by deflate."""
_GREY_TOLERANCE = 12
"""How far the colours of a grey JPEG may differ by its compression."""


@dataclass(frozen=True)
class Radiograph:
    """One radiograph as read.

    Attributes:
        pixels: float32 ``[row, column]``; bone is brighter than air, the patient as the picture shows them.
        window: the values to show as black and white where the file proposes them, else None.
        spacing_mm: millimetres between rows and columns, None where the file does not say.
        view: ``lateral`` or one of ``views.FRONTAL``, None where the file does not say.
    """

    pixels: np.ndarray
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float] | None = None
    view: str | None = None

    @property
    def affine(self) -> np.ndarray:
        """4x4: (row, column, 0) to millimetres, to pixels where no spacing is known."""
        return np.diag([*(self.spacing_mm or (1.0, 1.0)), 1.0, 1.0])

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Its rows and columns, and its affine."""
        return self.pixels.shape, self.affine


def read_picture(path: Path, kind: type[CTGLIPError], what: str) -> np.ndarray:
    """The pixels of a picture (the first of a GIF), ``[row, column]`` or ``[row, column, channel]``, as stored.

    Raises:
        CTGLIPError of the given kind: ``not_an_image``, ``file_truncated`` or ``cxr_size``.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise kind(f"{what} has {image.width} x {image.height} pixels.", code="cxr_size", fix="Scale it down.")
            if image.width * image.height > _PIXELS_A_BYTE * path.stat().st_size:
                raise kind(f"{what} is far larger than its file can hold.", code="file_truncated", fix="Copy it again.")
            image = ImageOps.exif_transpose(image)
            if image.mode in ("P", "PA"):
                image = image.convert("RGB")
            elif image.mode == "1":
                image = image.convert("L")
            return np.asarray(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise kind(f"{what} is no picture that can be read.", code="not_an_image", fix="Export it again.") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, CTGLIPError):
            raise
        raise kind(f"{what} is cut off or damaged.", code="file_truncated", fix="Copy it again.") from error


def grey(values: np.ndarray) -> tuple[np.ndarray, tuple[QualityCheck, ...]]:
    """float32 ``[row, column]`` from grey or colour pixels; transparency is dropped, real colour is noticed."""
    if values.ndim == 2:
        return values.astype(np.float32), ()
    colours = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    spread = np.ptp(colours[::4, ::4].astype(np.int32), axis=2)
    pixels = colours.astype(np.float32) @ np.full(colours.shape[2], 1 / colours.shape[2], np.float32)
    scale = 255 if values.dtype == np.uint8 else float(np.iinfo(values.dtype).max)
    coloured = float(np.mean(spread > _GREY_TOLERANCE * scale / 255))
    if coloured < 0.001:
        return pixels, ()
    message = f"{coloured:.1%} of the radiograph's pixels are coloured; the mean of the colours was taken."
    return pixels, (QualityCheck("cxr_colour", "warning", message, coloured),)
