"""One series may hold several volumes: phases, times, kernels, reformats, projections. They are told apart here.

Slices are of one volume unless a header value tells them apart and the groups that it makes lie in the same place:
blocks of one scan, table step by table step, have numbers of their own too, but lie one after the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ctglip.ct.dicom_headers import Slice
from ctglip.errors import ScanError
from ctglip.types import QualityCheck

_PROJECTIONS = frozenset(
    {"MIP", "MINIP", "MAXIP", "MIN", "MAX", "PROJECTION", "VRT", "VR", "SSD", "RENDER", "RENDERED", "CURVED", "CPR"}
)
_NO_HU = frozenset(
    {"SCREEN", "SCREENSHOT", "DOSE", "OVERLAY", "PBV", "TTP", "MTT", "CBF", "CBV", "IODINE", "RHO", "ZEFF", "PERFUSION"}
)
_OVERLAP = 0.25
"""Blocks of one scan may overlap by less than this share of the shorter one."""
_MOST_GROUPS = 64
_LEAST_RUN = 4


def one_volume(slices: Sequence[Slice]) -> tuple[list[Slice], list[QualityCheck]]:
    """The fullest volume of original images, with what was left out.

    Raises:
        ScanError: ``no_volume``: nothing but projections, screens and maps that are no HU.
    """
    sound = [one for one in slices if not words(one) & (_PROJECTIONS | _NO_HU)]
    checks: list[QualityCheck] = []
    if not sound:
        raise ScanError(
            f"All {len(slices)} images of the series are projections (MIP), screens or maps that hold no HU.",
            code="no_volume",
            fix="Choose the original series.",
        )
    if left := len(slices) - len(sound):
        message = f"{left} projections, screens or maps without HU were left out; {len(sound)} images were read."
        checks.append(QualityCheck("projections", "warning", message, left))
    original = [one for one in sound if "DERIVED" not in words(one)]
    if original and len(original) < len(sound):
        message = f"{len(sound) - len(original)} derived images were left out; {len(original)} originals were read."
        checks.append(QualityCheck("derived_images", "warning", message, len(sound) - len(original)))
    candidates = original or sound
    volumes, reasons = _volumes(candidates)
    if len(volumes) == 1:
        return candidates, checks
    best = max(volumes, key=lambda volume: (len({_position(one) for one in volume}), -_first(volume)))
    sizes = ", ".join(str(len(volume)) for volume in sorted(volumes, key=_first))
    message = (
        f"The series holds {len(volumes)} volumes in one place ({sizes} slices), told apart by "
        f"{' and '.join(reasons)}; the fullest, with {len(best)} slices, was read."
    )
    checks.append(QualityCheck("several_volumes", "warning", message, len(volumes)))
    return best, checks


def words(one: Slice) -> set[str]:
    """The words of a slice's image type."""
    return set(re.findall(r"[A-Z0-9]+", one.kind.upper()))


def _first(volume: Sequence[Slice]) -> int:
    return min(one.acquisition * 1_000_000 + one.instance for one in volume)


def _position(one: Slice) -> tuple[float, ...]:
    return tuple(np.round(one.position, 1).tolist())


def _volumes(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[str]]:
    """Volumes that lie in the same place, and the names of what tells them apart."""
    volumes, reasons = [list(slices)], []
    for name in slices[0].traits:
        parted = [part for volume in volumes for part in _apart(volume, [one.traits[name] for one in volume])]
        if len(parted) > len(volumes):
            volumes, reasons = parted, [*reasons, name]
    parted = [part for volume in volumes for part in _apart(volume, _runs(volume))]
    if len(parted) > len(volumes):
        volumes, reasons = parted, [*reasons, "the order of the images"]
    return volumes, reasons


def _apart(slices: list[Slice], values: Sequence[Hashable]) -> list[list[Slice]]:
    """Groups of one value each, those put together again that lie one after the other."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for one, value in zip(slices, values, strict=True):
        groups[value].append(one)
    if not 1 < len(groups) <= min(_MOST_GROUPS, len(slices) // 2):
        return [slices]
    height = _heights(slices)
    volumes: list[list[list[Slice]]] = []
    for group in sorted(groups.values(), key=_first):
        span = _span([height[id(one)] for one in group])
        for volume in volumes:
            if not any(_overlap(span, _span([height[id(one)] for one in other])) for other in volume):
                volume.append(group)
                break
        else:
            volumes.append([group])
    return [[one for group in volume for one in group] for volume in volumes]


def _heights(slices: Sequence[Slice]) -> dict[int, float]:
    axes = slices[0].axes
    normal = np.cross(axes[:3], axes[3:])
    return {id(one): float(one.position @ normal) for one in slices}


def _span(heights: Sequence[float]) -> tuple[float, float]:
    return min(heights), max(heights)


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two stretches lie in one place rather than one after the other."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    shorter = min(first[1] - first[0], second[1] - second[0])
    return shared >= 0 if shorter < 0.02 else shared > _OVERLAP * shorter


def _runs(slices: Sequence[Slice]) -> list[int]:
    """Which run along the table each slice is of, by the images' numbers: a few long runs, or one for all."""
    height = _heights(slices)
    order = sorted(slices, key=lambda one: (one.instance, one.frame))
    heights = [height[id(one)] for one in order]
    run, direction, of = 0, 0.0, {}
    starts = [0]
    for k, one in enumerate(order):
        step = heights[k] - heights[k - 1] if k > starts[-1] else 0.0
        if step * direction < 0 or (k > starts[-1] and step == 0):
            run, direction = run + 1, 0.0
            starts.append(k)
        elif direction == 0:
            direction = float(np.sign(step))
        of[id(one)] = run
    lengths = np.diff([*starts, len(order)])
    return [of[id(one)] if lengths.min() >= _LEAST_RUN else 0 for one in slices]
