"""A radiograph from a DICOM file: decoded, brought through its look-up tables, MONOCHROME1 turned over.

Nothing of the header leaves this file but the projection's name, the pixel spacing and numbers; errors quote neither
header values nor file names, which may be UIDs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from ctglip.cxr.picture import Radiograph, grey
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.views import view_of
from ctglip.dicom_pixels import pixels_of
from ctglip.errors import ScanError
from ctglip.files import quiet_pydicom
from ctglip.types import QualityCheck

MODALITIES = ("CR", "DX", "RG", "RF", "XA", "OT", "SC", "")
_GREY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(path: Path, recipe: CxrRecipe) -> tuple[Radiograph, tuple[QualityCheck, ...]]:
    """Read one projection.

    Raises:
        ScanError: ``not_dicom``, ``dicom_damaged``, ``not_a_radiograph`` (CT, MR and the like), ``cxr_frames`` (several
            frames), ``no_pixels`` or ``dicom_pixels`` (they cannot be decoded).
    """
    with quiet_pydicom():
        header = _header(path)
        pixels = _pixels(header)
        if pixels.ndim == 3 and header.get("SamplesPerPixel", 1) == 1:
            raise ScanError(
                f"The radiograph has {len(pixels)} frames, expected one.",
                code="cxr_frames",
                fix="Export single radiographs.",
            )
        if str(header.get("PhotometricInterpretation", "MONOCHROME2")) not in _GREY:
            values, checks = grey(pixels)
            return Radiograph(values, None, _spacing(header), _view(header)), checks
        return _monochrome(header, pixels, recipe)


def _header(path: Path) -> Dataset:
    try:
        header = pydicom.dcmread(path)
    except InvalidDicomError:
        raise ScanError("The radiograph is no DICOM file.", code="not_dicom", fix="Export it again.") from None
    except Exception as problem:  # noqa: BLE001  broken files raise anything; their words may quote the header
        raise ScanError(
            f"The radiograph's DICOM file is damaged ({type(problem).__name__}).",
            code="dicom_damaged",
            fix="Copy it again.",
        ) from None
    modality = str(header.get("Modality", "") or "").upper()
    if modality not in MODALITIES:
        modality_name = modality if modality.isalpha() and len(modality) == 2 else "unknown"
        raise ScanError(
            f"The DICOM file is of modality {modality_name}, expected a radiograph (CR, DX).",
            code="not_a_radiograph",
            fix="Scans are preprocessed with a recipe for volumes.",
        )
    if "PixelData" not in header:
        raise ScanError("The radiograph's DICOM file holds no pixels.", code="no_pixels", fix="Export it again.")
    return header


def _pixels(header: Dataset) -> np.ndarray:
    try:
        return pixels_of(header)
    except ScanError:
        raise
    except Exception as problem:  # noqa: BLE001  decoders raise anything; their words may quote the header
        raise ScanError(
            f"The radiograph's pixels cannot be decoded ({type(problem).__name__}).",
            code="dicom_pixels",
            fix="The file is damaged, or a decoder is missing: pip install python-gdcm 'pylibjpeg[all]'.",
        ) from None


def _monochrome(header: Dataset, pixels: np.ndarray, recipe: CxrRecipe) -> tuple[Radiograph, tuple[QualityCheck, ...]]:
    padding = _padding(header, pixels)
    checks: list[QualityCheck] = []
    if str(header.get("PresentationIntentType", "")).upper() == "FOR PROCESSING":
        message = "The radiograph is raw (for processing): it looks unlike radiographs made for reading."
        checks.append(QualityCheck("cxr_raw", "warning", message))
    values = pixels.astype(np.float32)
    window = None
    try:
        scaled = apply_modality_lut(pixels, header)
        values = scaled.astype(np.float32)
        if recipe.window == "voi" and ("VOILUTSequence" in header or "WindowWidth" in header):
            values = apply_voi_lut(scaled, header).astype(np.float32)
            window = float(values.min()), float(values.max())
    except Exception as problem:  # noqa: BLE001  a broken table must not lose the radiograph
        message = f"The file's look-up tables cannot be used ({type(problem).__name__}); percentiles were."
        checks.append(QualityCheck("cxr_lut", "warning", message))
    if window is not None and window[1] <= window[0]:
        values, window = pixels.astype(np.float32), None
        checks.append(QualityCheck("cxr_lut", "warning", "The proposed window shows nothing; percentiles were used."))
    if str(header.get("PhotometricInterpretation")) == "MONOCHROME1":
        values = values.max() + values.min() - values
    if padding is not None:
        values[padding] = values[~padding].min() if (~padding).any() else values.min()
        share = float(padding.mean())
        checks.append(QualityCheck("padding", "info", f"{share:.1%} of the radiograph is padding.", share))
    return Radiograph(values, window, _spacing(header), _view(header)), tuple(checks)


def _padding(header: Dataset, pixels: np.ndarray) -> np.ndarray | None:
    """Where the file says there is no radiograph, or None."""
    value = _number(header.get("PixelPaddingValue"))
    if value is None:
        return None
    other = _number(header.get("PixelPaddingRangeLimit"))
    low, high = sorted((value, value if other is None else other))
    found = (pixels >= low) & (pixels <= high)
    return found if found.any() else None


def _spacing(header: Dataset) -> tuple[float, float] | None:
    """Millimetres between rows and columns, at the detector or calibrated; None where neither is said."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = header.get(name)
        found = [_number(edge) for edge in value] if value is not None and not isinstance(value, str) else []
        if len(found) == 2 and all(edge is not None and 0.01 <= edge <= 10 for edge in found):
            return float(found[0] or 0), float(found[1] or 0)
    return None


def _view(header: Dataset) -> str | None:
    return view_of(str(header.get("ViewPosition") or ""))


def _number(value: Any) -> float | None:
    """A finite number of a header, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None
