"""Radiographs without a header, as the JSRT set has them: 2048 x 2048 numbers of 12 bits, the high byte first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctglip.cxr.picture import Radiograph
from ctglip.errors import ScanError
from ctglip.types import QualityCheck

SUFFIX = ".img"
SIDE = 2048
_MOST = 4095
_EDGE_MM = 0.175


def read_headerless(path: Path) -> tuple[Radiograph, tuple[QualityCheck, ...]]:
    """Read one file. Where lungs are brighter than the middle of the picture, white and black are exchanged.

    Raises:
        ScanError: ``file_truncated`` for another size, ``not_an_image`` for numbers of more than 12 bits.
    """
    data = np.fromfile(path, ">u2")
    if data.size != SIDE * SIDE:
        raise ScanError(
            f"The radiograph has {2 * data.size} bytes, expected {2 * SIDE * SIDE} ({SIDE} x {SIDE} of 16 bits).",
            code="file_truncated",
            fix="Copy it again.",
        )
    if data.max() > _MOST:
        raise ScanError(f"The radiograph holds {data.max()}, expected at most {_MOST}.", code="not_an_image")
    pixels = data.reshape(SIDE, SIDE).astype(np.float32)
    lungs = np.concatenate([pixels[600:1300, 350:750], pixels[600:1300, 1300:1700]]).mean()
    middle = pixels[1000:1900, 900:1150].mean()
    spacing = (_EDGE_MM, _EDGE_MM)
    if lungs <= middle:
        return Radiograph(pixels, spacing_mm=spacing), ()
    message = "The lungs are brighter than the middle: 0 is white in this file, and it was turned over."
    check = QualityCheck("cxr_turned_over", "info", message, float(lungs - middle))
    return Radiograph(_MOST - pixels, spacing_mm=spacing), (check,)
