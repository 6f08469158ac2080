"""What looks wrong about a scan or its masks, each with a code, a severity and the number that made it look so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctglip.types import OrganRow, QualityCheck, Scan

_SAMPLE = 400_000


def check_scan(scan: Scan) -> tuple[QualityCheck, ...]:
    """Doubts about HU and spacing, from a sample of at most 400,000 voxels.

    ``error`` means that the numbers are no HU: the scan should not be used before its source is looked at.
    """
    sample = _sample(scan.hu)
    return (*_scale(sample), *_spacing(scan))


def _sample(hu: np.ndarray) -> np.ndarray:
    step = max(1, int(np.ceil((hu.size / _SAMPLE) ** (1 / 3))))
    return hu[::step, ::step, ::step].ravel()


def _share(sample: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((sample >= low) & (sample <= high)))


def _scale(sample: np.ndarray) -> list[QualityCheck]:
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
    checks: list[QualityCheck] = []
    padding = float(np.mean(sample < -1100))
    if padding > 0.001:
        message = f"{padding:.1%} of the voxels are padding (lowest {low:.0f})."
        checks.append(QualityCheck("padding", "info", message, low))
    if tissue < 0.01:
        message = f"Only {tissue:.2%} of the voxels have the HU of soft tissue (-200 to 300)."
        checks.append(QualityCheck("no_soft_tissue", "warning", message, tissue))
    bone = float(np.mean(sample > 200))
    if bone < 1e-4:
        message = f"Hardly any voxel ({bone:.3%}) is as dense as bone (above 200 HU)."
        checks.append(QualityCheck("no_bone", "warning", message, bone))
    return checks


def _spacing(scan: Scan) -> list[QualityCheck]:
    spacing = scan.spacing_mm
    checks: list[QualityCheck] = []
    if max(spacing) > 10 or min(spacing) < 0.2:
        shown = " x ".join(f"{edge:.3g}" for edge in spacing)
        message = f"Voxels of {shown} mm are unusual for CT (0.2 to 10 mm)."
        checks.append(QualityCheck("spacing_unusual", "warning", message, max(spacing)))
    extent = max(n * edge for n, edge in zip(scan.hu.shape, spacing, strict=True))
    if extent > 2200 or extent < 30:
        message = f"The scan is {extent:.0f} mm long, expected 30 to 2200 mm."
        checks.append(QualityCheck("extent_implausible", "warning", message, extent))
    return checks


_ORDERED = (
    ("left_right", 0, (("spleen", "liver"), ("kidney_left", "kidney_right"), ("lung_left", "lung_right"),
                       ("heart", "liver"), ("stomach", "liver"), ("hip_left", "hip_right"))),
    ("front_back", 1, (("spine", "liver"), ("spine", "heart"), ("spine", "urinary_bladder"), ("kidneys", "stomach"))),
    ("up_down", 2, (("urinary_bladder", "liver"), ("urinary_bladder", "kidneys"), ("kidneys", "lungs"),
                    ("liver", "heart"), ("hip_left", "liver"), ("lumbar_spine", "thoracic_spine"))),
)  # fmt: skip
"""For each axis pairs of organs: the first has the smaller coordinate in RAS+ (left, back, below)."""


def check_masks(rows: Sequence[OrganRow]) -> tuple[QualityCheck, ...]:
    """Doubts about the order of the axes: organs on the wrong side of each other.

    Args:
        rows: the organ table, boxes in voxels of a RAS+ grid.
    """
    centre = {row.organ: [(a + b) / 2 for a, b in zip(row.box[::2], row.box[1::2], strict=True)] for row in rows}
    checks: list[QualityCheck] = []
    for code, axis, pairs in _ORDERED:
        known = [(a, b) for a, b in pairs if a in centre and b in centre]
        wrong = [(a, b) for a, b in known if centre[a][axis] >= centre[b][axis]]
        if wrong:
            severity = "error" if len(wrong) > len(known) / 2 else "warning"
            shown = ", ".join(f"{a} and {b}" for a, b in wrong)
            message = f"{len(wrong)} of {len(known)} organ pairs lie the wrong way round ({shown})."
            checks.append(QualityCheck(code, severity, message, len(wrong) / len(known)))
    return tuple(checks)
