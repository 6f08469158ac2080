"""What looks wrong about a scan, each with a code, a severity and the number that made it look so.

``error`` means that the numbers are not what they claim to be: the study should not be used before its source is
looked at. ``warning`` means that something was repaired or is unusual, ``info`` that something is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ctglip.errors import ScanError
from ctglip.types import QualityCheck, Scan

_SAMPLE = 400_000
_BIN_HU = 10
PADDING_HU = -1400
"""Below anything that a scanner measures, noise in air included: the field of view does not reach there."""


def refuse_errors(checks: Iterable[QualityCheck], fix: str = "Look at the source.") -> None:
    """Let a scan pass, or not: the same rule at preprocessing and at inference.

    Args:
        checks: of the scan, and of its masks where they are known.
        fix: what the user can do.

    Raises:
        ScanError: what all checks of severity ``error`` say, with the code of the first of them.
    """
    if wrong := [check for check in checks if check.severity == "error"]:
        raise ScanError(" ".join(check.message for check in wrong), code=wrong[0].code, fix=fix)


def check_scan(scan: Scan) -> tuple[QualityCheck, ...]:
    """Doubts about HU and spacing, from a regular sample of at most 400,000 voxels."""
    sample = _sample(scan.hu)
    shifted = _not_hu(sample)
    return (*(shifted or _implausible(sample)), *_grid(scan))


def _sample(hu: np.ndarray) -> np.ndarray:
    step = max(1, int(np.ceil((hu.size / _SAMPLE) ** (1 / 3))))
    return hu[::step, ::step, ::step].ravel()


def _share(sample: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((sample >= low) & (sample <= high)))


def _not_hu(sample: np.ndarray) -> list[QualityCheck]:
    """Numbers that are Hounsfield units shifted, scaled, or no Hounsfield units at all."""
    low, high = float(sample.min()), float(sample.max())
    tissue = _share(sample, -200, 300)
    if np.percentile(sample, 99) < -4096:
        message = f"HU lie between {low:.0f} and {high:.0f}: shifted by an intercept of -8192."
        return [QualityCheck("intercept_8192", "error", message, high)]
    if tissue < 0.01 and _share(sample, -2200, -1900) > 0.02 and _share(sample, -1250, -750) > 0.02:
        message = "Air lies at -2048 and tissue at -1024 HU: the rescale was applied twice."
        return [QualityCheck("rescale_twice", "error", message, low)]
    if low >= -50 and high - low <= 255:
        message = f"Values lie between {low:.0f} and {high:.0f}: a picture or a normalised volume, no HU."
        return [QualityCheck("not_hu", "error", message, high - low)]
    if low > -150 and _share(sample, 800, 1400) > 0.02 and _share(sample, -50, 50) > 0.02:
        message = f"Air lies near 0 and tissue near 1024 (lowest {low:.0f}): the intercept is missing."
        return [QualityCheck("intercept_missing", "error", message, low)]
    return []


def _implausible(sample: np.ndarray) -> list[QualityCheck]:
    """Air, soft tissue and bone are not where CT puts them."""
    checks: list[QualityCheck] = []
    padding = float(np.mean(sample < PADDING_HU))
    if padding > 0.001:
        message = f"{padding:.1%} of the voxels are padding (lowest {sample.min()})."
        checks.append(QualityCheck("padding", "info", message, float(sample.min())))
    air = _share(sample, -1100, -800)
    if air < 0.001:
        message = f"Only {air:.2%} of the voxels are as thin as air or lung (-1100 to -800 HU)."
        checks.append(QualityCheck("no_air", "warning", message, air))
    tissue = _share(sample, -200, 300)
    if tissue < 0.01:
        message = f"Only {tissue:.2%} of the voxels have the HU of soft tissue (-200 to 300)."
        checks.append(QualityCheck("no_soft_tissue", "warning", message, tissue))
    elif not -140 <= (peak := _peak(sample, -400, 500)) <= 200:
        message = f"The commonest soft tissue has {peak:.0f} HU, expected fat or water (-140 to 200)."
        checks.append(QualityCheck("tissue_peak", "warning", message, peak))
    bone = float(np.mean(sample > 200))
    if bone < 1e-4:
        message = f"Hardly any voxel ({bone:.3%}) is as dense as bone (above 200 HU)."
        checks.append(QualityCheck("no_bone", "warning", message, bone))
    return checks


def _peak(sample: np.ndarray, low: int, high: int) -> float:
    """HU of the highest of the smoothed histogram's bins."""
    counts, edges = np.histogram(sample, np.arange(low, high + _BIN_HU, _BIN_HU))
    smooth = np.convolve(counts, np.ones(5), mode="same")
    return float(edges[int(smooth.argmax())] + _BIN_HU / 2)


def _grid(scan: Scan) -> list[QualityCheck]:
    spacing = scan.spacing_mm
    checks: list[QualityCheck] = []
    if max(spacing) > 10.5 or min(spacing) < 0.2:
        shown = " x ".join(f"{edge:.3g}" for edge in spacing)
        message = f"Voxels of {shown} mm are unusual for CT (0.2 to 10 mm)."
        checks.append(QualityCheck("spacing_unusual", "warning", message, max(spacing)))
    extents = [n * edge for n, edge in zip(scan.hu.shape, spacing, strict=True)]
    if max(extents) > 2200 or max(extents) < 50:
        message = f"The scan is {max(extents):.0f} mm long, expected 50 to 2200 mm."
        checks.append(QualityCheck("extent_implausible", "warning", message, max(extents)))
    if min(extents) < 30:
        message = f"The scan is a slab of {min(extents):.0f} mm: most organs are cut off."
        checks.append(QualityCheck("thin_slab", "info", message, min(extents)))
    return checks
