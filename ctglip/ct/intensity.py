"""From stored numbers to Hounsfield units."""

from __future__ import annotations

import numpy as np

from ctglip.errors import ScanError
from ctglip.types import QualityCheck

AIR_HU = -1024
_INT16 = np.iinfo(np.int16)
_BLOCK = 1 << 18
_WRAPPED = (1 << 16) - 8192
"""What HU from -8192 become in 16 bits without a sign begins here."""


def to_hu(
    values: np.ndarray, slope: float = 1.0, intercept: float = 0.0, where: str = "The scan"
) -> tuple[np.ndarray, tuple[QualityCheck, ...]]:
    """Scaled and rounded int16 Hounsfield units, with what was odd about the numbers.

    Args:
        values: any real array.
        slope: of the header; the result is ``values * slope + intercept``.
        intercept: of the header.
        where: how errors name the scan.

    Returns:
        int16 array of the same shape (the same memory when nothing is to be done), and checks.

    Raises:
        ScanError: not real numbers (``not_scalar``), more than half of them not finite (``not_finite``), or all of
            them equal (``image_constant``).
    """
    if values.dtype.kind not in "iufb":
        raise ScanError(f"{where} holds {values.dtype}, expected real numbers.", code="not_scalar")
    if not (np.isfinite(slope) and np.isfinite(intercept) and slope != 0):
        raise ScanError(f"{where} scales by {slope} and {intercept}.", code="bad_rescale")
    checks: list[QualityCheck] = []
    if values.dtype.kind == "f":
        values, checks = _finite(values, slope, intercept, where)
    values, wrapped = _unwrapped(values, slope, intercept)
    checks += wrapped
    if _constant(values):
        raise ScanError(
            f"{where} is empty: every voxel holds {values.flat[0]}.", code="image_constant", fix="Export it again."
        )
    hu, beyond = scale_to_int16(values, slope, intercept)
    if beyond:
        checks.append(beyond_int16(beyond, hu.size))
    return hu, tuple(checks)


def beyond_int16(beyond: int, size: int) -> QualityCheck:
    """What is said of voxels that were clipped to int16: an error when they are more than metal can be."""
    message = f"{beyond} voxels ({beyond / size:.2g} of all) lie beyond what HU can be"
    if beyond > 0.01 * size:
        return QualityCheck("beyond_int16", "error", f"{message}: scaled numbers, or signed read as unsigned.", beyond)
    message = f"{message} and were clipped to {_INT16.min}..{_INT16.max}."
    return QualityCheck("beyond_int16", "warning", message, beyond)


def _unwrapped(values: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, list[QualityCheck]]:
    """Negative HU that became large numbers in 16 bits without a sign (-1000 is 64536) are read as what they were.

    That is certain where the numbers fill the two ends of 16 bits alone, with nothing from 16385 to 57343.
    """
    if slope != 1 or intercept != 0 or (values.dtype.kind in "iu" and values.dtype.itemsize < 2):
        return values, []
    if values.dtype == np.int16 or float(values.max()) < _WRAPPED or float(values.max()) >= 1 << 16 or values.min() < 0:
        return values, []
    upper = values >= _WRAPPED
    if bool(((values > 16384) & ~upper).any()):
        return values, []
    share = float(upper.mean())
    message = f"{share:.0%} of the voxels hold negative HU as unsigned numbers (65536 more); they were read as signed."
    signed = np.where(upper, values.astype(np.float64) - (1 << 16), values)
    return np.rint(signed).astype(np.int16), [QualityCheck("hu_wrapped", "warning", message, share)]


def _constant(values: np.ndarray) -> bool:
    """Whether all voxels hold one number; one slice mostly tells that they do not."""
    few = values[..., values.shape[-1] // 2]
    return few.min() == few.max() and values.min() == values.max()


def scale_to_int16(values: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, int]:
    """``values * slope + intercept`` rounded to int16, and how many did not fit and were clipped.

    The array itself comes back when it is int16 and there is nothing to do.
    """
    if values.dtype == np.int16 and slope == 1 and intercept == 0:
        return values, 0
    if not (values.flags.c_contiguous or values.flags.f_contiguous):
        values = np.ascontiguousarray(values)
    result = np.empty_like(values, dtype=np.int16)
    source, target = values.ravel(order="K"), result.ravel(order="K")
    integral = values.dtype.kind in "iub" and float(slope).is_integer() and float(intercept).is_integer()
    beyond = 0
    for start in range(0, len(source), _BLOCK):
        part = source[start : start + _BLOCK]
        if integral:
            scaled = part.astype(np.int32 if part.dtype.itemsize < 4 else np.int64)
            scaled *= int(slope)
            scaled += int(intercept)
        else:
            scaled = part.astype(np.float64)
            scaled *= slope
            scaled += intercept
            np.rint(scaled, out=scaled)
        if scaled.min() < _INT16.min or scaled.max() > _INT16.max:
            beyond += int(np.count_nonzero((scaled < _INT16.min) | (scaled > _INT16.max)))
            np.clip(scaled, _INT16.min, _INT16.max, out=scaled)
        target[start : start + _BLOCK] = scaled
    return result, beyond


def _finite(values: np.ndarray, slope: float, intercept: float, where: str) -> tuple[np.ndarray, list[QualityCheck]]:
    """Voxels without a number become air, and are counted."""
    wrong = ~np.isfinite(values)
    share = float(wrong.mean())
    if share == 0:
        return values, []
    if share > 0.5:
        raise ScanError(
            f"{where}: {share:.0%} of the voxels are NaN or infinite.", code="not_finite", fix="Export it again."
        )
    filled = np.where(wrong, (AIR_HU - intercept) / slope, values)
    message = f"{share:.2%} of the voxels are NaN or infinite and were set to {AIR_HU} HU."
    return filled, [QualityCheck("not_finite", "warning", message, share)]
