"""What looks wrong about a scan or its masks, each with a code, a severity and the number that made it look so.

``error`` means that the numbers are not what they claim to be: the study should not be used before its source is
looked at. ``warning`` means that something was repaired or is unusual, ``info`` that something is worth knowing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctglip.types import OrganRow, QualityCheck, Scan

_SAMPLE = 400_000
_BIN_HU = 10
PADDING_HU = -1400
"""Below anything that a scanner measures, noise in air included: the field of view does not reach there."""


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


_ORDERED = (
    ("left_right", 0, (("spleen", "liver"), ("kidney_left", "kidney_right"), ("lung_left", "lung_right"),
                       ("heart", "liver"), ("stomach", "liver"), ("hip_left", "hip_right"))),
    ("front_back", 1, (("spine", "liver"), ("spine", "heart"), ("spine", "urinary_bladder"), ("kidneys", "stomach"))),
    ("up_down", 2, (("urinary_bladder", "liver"), ("urinary_bladder", "kidneys"), ("kidneys", "lungs"),
                    ("liver", "heart"), ("hip_left", "liver"), ("lumbar_spine", "thoracic_spine"))),
)  # fmt: skip
"""For each axis pairs of organs: the first has the smaller coordinate in RAS+ (left, back, below)."""

_SLACK = 0.1
"""Organs cut by the field of view may share a centre: the order must be wrong by this share of the smaller one."""

_EXPECTED_HU = {
    "lungs": (-1000, -250), "liver": (-80, 280), "spleen": (-40, 320), "kidneys": (-40, 400), "heart": (-60, 500),
    "aorta": (-30, 800), "urinary_bladder": (-60, 600), "spine": (20, 1200), "autochthon_left": (-120, 180),
    "autochthon_right": (-120, 180), "hip_left": (20, 1200), "hip_right": (20, 1200),
}  # fmt: skip
"""Mean HU of an organ whose mask lies on it, with or without contrast, healthy or not."""


def check_masks(rows: Sequence[OrganRow]) -> tuple[QualityCheck, ...]:
    """Doubts about masks: organs on the wrong side of each other, or with the HU of something else.

    Args:
        rows: the organ table, boxes in voxels of a RAS+ grid.
    """
    return (*_order(rows), *_density(rows))


def _order(rows: Sequence[OrganRow]) -> list[QualityCheck]:
    centre = {row.organ: [(a + b) / 2 for a, b in zip(row.box[::2], row.box[1::2], strict=True)] for row in rows}
    size = {row.organ: [b - a for a, b in zip(row.box[::2], row.box[1::2], strict=True)] for row in rows}
    checks: list[QualityCheck] = []
    for code, axis, pairs in _ORDERED:
        known = [(a, b) for a, b in pairs if a in centre and b in centre]
        slack = {(a, b): _SLACK * min(size[a][axis], size[b][axis]) for a, b in known}
        wrong = [(a, b) for a, b in known if centre[a][axis] - centre[b][axis] > slack[a, b]]
        if wrong:
            severity = "error" if len(wrong) > len(known) / 2 else "warning"
            shown = ", ".join(f"{a} and {b}" for a, b in wrong)
            message = f"{len(wrong)} of {len(known)} organ pairs lie the wrong way round ({shown})."
            checks.append(QualityCheck(code, severity, message, len(wrong) / len(known)))
    return checks


def _density(rows: Sequence[OrganRow]) -> list[QualityCheck]:
    """Masks that lie beside their organs give themselves away by their HU."""
    known = [row for row in rows if row.organ in _EXPECTED_HU]
    wrong = [row for row in known if not _EXPECTED_HU[row.organ][0] <= row.mean_hu <= _EXPECTED_HU[row.organ][1]]
    if not wrong:
        return []
    severity = "error" if len(wrong) > 1 and len(wrong) > len(known) / 2 else "warning"
    shown = ", ".join(f"{row.organ} {row.mean_hu:.0f} HU" for row in wrong[:4])
    message = (
        f"{len(wrong)} of {len(known)} organs have the HU of something else ({shown}): are these the scan's masks?"
    )
    return [QualityCheck("organ_hu", severity, message, len(wrong) / len(known))]
