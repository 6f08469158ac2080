"""One radiograph from disk: PNG, JPEG or DICOM becomes grey values in which dense things are bright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import CTGLIPError, ScanError
from ctglip.files import DICOM_SUFFIXES, is_dicom
from ctglip.types import QualityCheck

SUFFIXES = (".png", ".jpg", ".jpeg")
SMALLEST = 32
LARGEST_PIXELS = 120_000_000
_GREY_TOLERANCE = 12
"""How far the colours of a grey JPEG may differ by its compression."""


@dataclass(frozen=True)
class Radiograph:
    """One radiograph as read.

    Attributes:
        pixels: float32 ``[row, column]``; bone is brighter than air, the patient as the picture shows them.
        window: the values to show as black and white where the file proposes them, else None.
        spacing_mm: millimetres between rows and columns, None where the file does not say.
        view: one of ``views.VIEWS``, None where the file does not say.
    """

    pixels: np.ndarray
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float] | None = None
    view: str | None = None


def read_radiograph(path: Path, recipe: CxrRecipe) -> tuple[Radiograph, tuple[QualityCheck, ...]]:
    """Read a radiograph.

    Args:
        path: ``.png``, ``.jpg`` or a DICOM file (by its content, whatever its name).
        recipe: whether a DICOM window counts.

    Returns:
        The radiograph, and what was noticed about it.

    Raises:
        ScanError: ``no_file``, ``file_empty``, ``not_an_image``, ``file_truncated``, ``cxr_size``,
            ``image_constant``, ``not_finite``, or one of ``dicom.read_dicom``'s.
    """
    if not path.exists():
        raise ScanError("There is no radiograph at the path given.", code="no_file", fix="Check the path.")
    if path.is_dir():
        raise ScanError(
            "The radiograph is a folder, expected one file.", code="not_an_image", fix="Name the radiograph's file."
        )
    if path.stat().st_size == 0:
        raise ScanError("The radiograph's file is empty.", code="file_empty", fix="Export it again.")
    if is_dicom(path) or path.suffix.lower() in DICOM_SUFFIXES:
        from ctglip.cxr.dicom import read_dicom

        radiograph, checks = read_dicom(path, recipe)
    elif path.name.lower().endswith(SUFFIXES):
        pixels, checks = grey(read_picture(path, ScanError, "The radiograph"))
        radiograph = Radiograph(pixels)
    else:
        raise ScanError(
            "The radiograph is no image format that is known here.",
            code="not_an_image",
            fix="Give a PNG, JPEG or DICOM file.",
        )
    return radiograph, (*checks, *_sound(radiograph.pixels))


def read_picture(path: Path, kind: type[CTGLIPError], what: str) -> np.ndarray:
    """The pixels of a PNG or JPEG, ``[row, column]`` or ``[row, column, channel]``, as the file holds them.

    Raises:
        CTGLIPError of the given kind: ``not_an_image``, ``file_truncated`` or ``cxr_size``.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise kind(f"{what} has {image.width} x {image.height} pixels.", code="cxr_size", fix="Scale it down.")
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


def _sound(pixels: np.ndarray) -> tuple[QualityCheck, ...]:
    """Raises what no radiograph can be guilty of, and notices what few should be."""
    rows, columns = pixels.shape
    if min(rows, columns) < SMALLEST:
        raise ScanError(
            f"The radiograph has {rows} x {columns} pixels, expected at least {SMALLEST} in each direction.",
            code="cxr_size",
        )
    if not np.isfinite(pixels).all():
        raise ScanError("The radiograph holds values that are not finite.", code="not_finite", fix="Export it again.")
    if pixels.min() == pixels.max():
        raise ScanError(
            f"The radiograph is empty: every pixel holds {pixels[0, 0]:g}.",
            code="image_constant",
            fix="Export it again.",
        )
    checks: list[QualityCheck] = []
    if max(rows, columns) > 2.5 * min(rows, columns):
        message = f"The radiograph is {rows} x {columns} pixels, a strip: is it a chest radiograph?"
        checks.append(QualityCheck("cxr_strip", "warning", message, max(rows, columns) / min(rows, columns)))
    clipped = float(np.mean(pixels[::4, ::4] == pixels.max()))
    if clipped > 0.3:
        message = f"{clipped:.0%} of the radiograph is pure white: overexposed, or inverted without saying so."
        checks.append(QualityCheck("cxr_white", "warning", message, clipped))
    return tuple(checks)


def plain_number(value: Any) -> float | None:
    """A finite number of a header, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None
