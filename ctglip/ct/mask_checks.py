"""What looks wrong about masks: organs on the wrong side of each other, or with the HU of something else."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.types import OrganRow, QualityCheck

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

EXPECTED_HU = {
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
            checks.append(_of_order(code, known, wrong))
    return checks


def _of_order(code: str, known: Sequence[tuple[str, str]], wrong: Sequence[tuple[str, str]]) -> QualityCheck:
    """Left and right of a pair come from its names, the sides of liver and spleen from the body: where the pairs are
    right and the others all wrong the patient may be built the other way round; where the pairs are wrong the names or
    the header are."""
    listed = ", ".join(f"{a} and {b}" for a, b in wrong)
    message = f"{len(wrong)} of {len(known)} organ pairs lie the wrong way round ({listed})."
    share = len(wrong) / len(known)
    severity = "error" if share > 0.5 else "warning"
    sided = [pair for pair in known if pair[0].endswith("_left")]
    if code == "left_right" and sided:
        swapped = [pair for pair in sided if pair in wrong]
        if not swapped and len(wrong) == len(known) - len(sided) > 1:
            message = f"{listed} lie the wrong way round, left and right of pairs do not: situs inversus?"
            return QualityCheck("situs_inversus", "warning", message, share)
        if len(swapped) > len(sided) / 2:
            severity = "error"
    return QualityCheck(code, severity, message, share)


def _density(rows: Sequence[OrganRow]) -> list[QualityCheck]:
    """Masks that lie beside their organs give themselves away by their HU."""
    known = [row for row in rows if row.organ in EXPECTED_HU]
    wrong = [row for row in known if not EXPECTED_HU[row.organ][0] <= row.mean_hu <= EXPECTED_HU[row.organ][1]]
    if not wrong:
        return []
    severity = "error" if len(wrong) > 1 and len(wrong) > len(known) / 2 else "warning"
    listed = ", ".join(f"{row.organ} {row.mean_hu:.0f} HU" for row in wrong[:4])
    message = (
        f"{len(wrong)} of {len(known)} organs have the HU of something else ({listed}): are these the scan's masks?"
    )
    return [QualityCheck("organ_hu", severity, message, len(wrong) / len(known))]
