"""CT-RATE's metadata table: geometry and scaling of a volume, and which of a study's reconstructions is taken."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from ctglip.cohorts.base import CohortCells, CohortTables
from ctglip.cohorts.ct_rate_volumes import CtRateSettings, CtRateVolume

GEOMETRY = (
    "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing", "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip


def _numbers(text: str | None, count: int) -> list[float]:
    values = json.loads(text or "[]")
    numbers = [float(value) for value in (values if isinstance(values, list) else [values])]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{text!r}, expected {count} numbers")
    return numbers


def header_cells(row: Mapping[str, str | None]) -> CohortCells:
    """``hu_slope``, ``hu_intercept`` and ``affine`` of one row of the metadata table.

    The first axis of the stored array runs along the row's cosines, the second along the column's, the third along
    their cross product.

    Raises:
        ValueError: a cell does not hold what it should.
    """
    try:
        slope, intercept = float(row["RescaleSlope"] or ""), float(row["RescaleIntercept"] or "")
        column_mm, row_mm = _numbers(row["XYSpacing"], 2)
        depth = float(row["ZSpacing"] or "")
        axes = _numbers(row["ImageOrientationPatient"], 6)
        origin = _numbers(row["ImagePositionPatient"], 3)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{error}") from error
    along, down = axes[:3], axes[3:]
    normal = [along[k - 2] * down[k - 1] - along[k - 1] * down[k - 2] for k in range(3)]
    if not (depth > 0 and column_mm > 0 and row_mm > 0 and math.hypot(*normal) > 0.5):
        raise ValueError(f"spacing {column_mm} x {row_mm} x {depth} mm, axes {axes}")
    cells: list[float] = []
    for k, sign in enumerate((-1, -1, 1)):  # from LPS to RAS
        cells += [sign * value for value in (along[k] * column_mm, down[k] * row_mm, normal[k] * depth, origin[k])]
    return {
        "hu_slope": f"{slope:g}",
        "hu_intercept": f"{intercept:g}",
        "affine": " ".join(f"{number + 0.0:.7g}" for number in cells),
    }


def _kernel(row: Mapping[str, str | None]) -> float | None:
    """How sharp a reconstruction kernel is, by the number in its name; None where its name has none."""
    text = (row.get("ConvolutionKernel") or "").lower()
    if any(word in text for word in ("soft", "standard", "smooth")):
        return 30.0
    if any(word in text for word in ("lung", "sharp", "bone", "detail")):
        return 60.0
    found = re.search(r"[a-z](\d{2})", text)
    return float(found[1]) if found else None


def _float(row: Mapping[str, str | None], name: str) -> float | None:
    try:
        return float(row.get(name) or "")
    except ValueError:
        return None


def _pixel(row: Mapping[str, str | None]) -> float | None:
    try:
        return _numbers(row.get("XYSpacing"), 2)[0]
    except (ValueError, TypeError):
        return None


_RANKS: dict[str, Callable[[CtRateVolume, Mapping[str, str | None]], float | None]] = {
    "thinnest_slices": lambda _, row: _float(row, "ZSpacing"),
    "soft_kernel": lambda _, row: _kernel(row),
    "sharp_kernel": lambda _, row: None if (sharp := _kernel(row)) is None else -sharp,
    "most_slices": lambda _, row: None if (count := _float(row, "NumberofSlices")) is None else -count,
    "finest_pixels": lambda _, row: _pixel(row),
    "first_reconstruction": lambda volume, _: volume.number,
}
"""The lowest wins; what is not known comes last."""


def one_each(
    volumes: list[CtRateVolume], metadata: Mapping[str, CohortCells], settings: CtRateSettings, tables: CohortTables
) -> list[CtRateVolume]:
    """One reconstruction of each study, the others noted."""
    studies: defaultdict[str, list[CtRateVolume]] = defaultdict(list)
    for volume in volumes:
        studies[volume.study].append(volume)

    def rank(volume: CtRateVolume) -> tuple[float, ...]:
        row = metadata.get(volume.name, {})
        values = (_RANKS[name](volume, row) for name in (*settings.choose, "first_reconstruction"))
        return tuple(math.inf if value is None else value for value in values)

    chosen = []
    for found in studies.values():
        best, *others = sorted(found, key=rank)
        chosen.append(best)
        for other in others:
            tables.exclude(
                other.name, "other_reconstruction", f"{best.name} was chosen by {', '.join(settings.choose)}."
            )
    counts = Counter(len(found) for found in studies.values())
    listed = ", ".join(f"{count} with {n}" for n, count in sorted(counts.items()))
    tables.facts.append(f"Studies by their reconstructions: {listed}; one of each was taken.")
    return chosen
