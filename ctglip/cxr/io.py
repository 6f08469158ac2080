"""One radiograph from disk: PNG, JPEG or DICOM becomes grey values in which dense things are bright."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctglip.cxr import headerless
from ctglip.cxr.dicom import read_dicom
from ctglip.cxr.picture import Radiograph, grey, read_picture
from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import ScanError
from ctglip.files import DICOM_SUFFIXES, is_dicom
from ctglip.gate import reads
from ctglip.types import QualityCheck

SUFFIXES = (".png", ".jpg", ".jpeg")
SMALLEST = 32


@reads(ScanError, "scan_damaged", "Export or copy it again.")
def read_radiograph(path: Path, recipe: CxrRecipe) -> tuple[Radiograph, tuple[QualityCheck, ...]]:
    """Read a radiograph.

    Args:
        path: ``.png``, ``.jpg``, a headerless ``.IMG`` of JSRT, or a DICOM file (by its content, whatever its name).
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
        radiograph, checks = read_dicom(path, recipe)
    elif path.name.lower().endswith(SUFFIXES):
        pixels, checks = grey(read_picture(path, ScanError, "The radiograph"))
        radiograph = Radiograph(pixels)
    elif path.suffix.lower() == headerless.SUFFIX:
        radiograph, checks = headerless.read_headerless(path)
    else:
        raise ScanError(
            "The radiograph is no image format that is known here.",
            code="not_an_image",
            fix="Give a PNG, JPEG or DICOM file.",
        )
    return radiograph, (*checks, *_implausible(radiograph.pixels))


def _implausible(pixels: np.ndarray) -> tuple[QualityCheck, ...]:
    """Raises what cannot be a radiograph, and notices what few radiographs are."""
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
