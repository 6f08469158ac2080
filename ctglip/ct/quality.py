"""What looks wrong about a scan, each with a code, a severity and the number that made it look so.

``error`` means that the numbers are not what they claim to be: the study should not be used before its source is
looked at. ``warning`` means that something was repaired or is unusual, ``info`` that something is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ctglip.ct.hounsfield import FEW, Histogram, Layout
from ctglip.ct.hu_maps import not_hounsfield
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
    sample = sample_of(scan.hu)
    histogram = Histogram.of(sample)
    wrong = not_hounsfield(histogram)
    noticed = [wrong] if wrong else [*_cut(histogram), *_implausible(sample, Layout.under(histogram))]
    return (*noticed, *_grid(scan))


def sample_of(hu: np.ndarray) -> np.ndarray:
    """At most about 400,000 voxels, regularly spaced."""
    step = max(1, int(np.ceil((hu.size / _SAMPLE) ** (1 / 3))))
    return hu[::step, ::step, ::step].ravel()


def _share(sample: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((sample >= low) & (sample <= high)))


def _cut(histogram: Histogram) -> list[QualityCheck]:
    """A window was laid over the values: what lies beyond it is gone, what lies within is right."""
    checks: list[QualityCheck] = []
    if len(histogram.values) <= FEW:
        return checks
    for word, ends, least, most in (("below", histogram.low[:1], -900, 0), ("above", histogram.high, 100, 1999)):
        for one in ends:
            if least < one.value <= most and one.share > 0.005:
                message = f"HU {word} {one.value} are cut off ({one.share:.0%} of the voxels hold {one.value})."
                checks.append(QualityCheck("hu_clipped", "warning", message, float(one.value)))
    return checks


def _implausible(sample: np.ndarray, layout: Layout) -> list[QualityCheck]:
    """Padding, and air, soft tissue and bone that are missing or not where CT puts them."""
    checks: list[QualityCheck] = []
    padding = float(np.mean(sample < PADDING_HU))
    if padding > 0.001:
        message = f"{padding:.1%} of the voxels are padding (lowest {sample.min()})."
        checks.append(QualityCheck("padding", "info", message, float(sample.min())))
    air = _share(sample, -1100, -800)
    if air < 0.001 and (layout.cut is None or layout.few):
        message = f"Only {air:.2%} of the voxels are as thin as air or lung (-1100 to -800 HU): a tight crop?"
        checks.append(QualityCheck("no_air", "warning", message, air))
    tissue = _share(sample, -200, 300)
    if tissue < 0.01:
        message = f"Only {tissue:.2%} of the voxels have the HU of soft tissue (-200 to 300)."
        checks.append(QualityCheck("no_soft_tissue", "warning", message, tissue))
    elif not -140 <= (peak := _peak(sample, -400, 500)) <= 200 and (layout.cut is None or abs(peak - layout.cut) > 10):
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
        spacing_text = " x ".join(f"{edge:.3g}" for edge in spacing)
        message = f"Voxels of {spacing_text} mm are unusual for CT (0.2 to 10 mm)."
        checks.append(QualityCheck("spacing_unusual", "warning", message, max(spacing)))
    extents = [n * edge for n, edge in zip(scan.hu.shape, spacing, strict=True)]
    if max(extents) > 2200 or max(extents) < 50:
        message = f"The scan is {max(extents):.0f} mm long, expected 50 to 2200 mm."
        checks.append(QualityCheck("extent_implausible", "warning", message, max(extents)))
    if min(extents) < 30:
        message = f"The scan is a slab of {min(extents):.0f} mm: most organs are cut off."
        checks.append(QualityCheck("thin_slab", "info", message, min(extents)))
    return checks
