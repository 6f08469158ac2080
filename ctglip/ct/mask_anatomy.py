"""Whether masks lie where their organs lie: place, side, volume and HU against ``organ_dictionary/anatomy.csv``.

Numbers of a file are read under one numbering; where another one puts the organs clearly better into their places, the
first is taken to be wrong. Places are compared after the body was moved and scaled as fits best, so that a part of a
body, a child or a cut organ is no fault; a few odd organs (operated, displaced, enlarged) are none either.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ctglip.ct.organs import label_table
from ctglip.resources import resource
from ctglip.types import QualityCheck, Scan
from ctglip.vocabulary.numberings import DEFAULT, load_numberings

_COARSE_MM = 3.0
_BODY_HU = -300
_ADULT_WIDTH_MM = 320.0
_SCALES = (0.65, 0.8, 0.95, 1.1)
"""Sizes that are tried, as shares of what the body's width says (an obese body is wider than its organs)."""

_OFF_CENTRE_MM = 30.0
_PROPOSALS = 40
ODD = 0.6
"""An organ whose cost (0 to 1) is above this is odd."""


@dataclass(frozen=True)
class Expected:
    """What is usual for an organ of an adult.

    Attributes:
        centre: mm from the centre of the first lumbar vertebra (right, front, up).
        half: half of its extent in mm.
        ml: lowest and highest volume.
        hu: lowest and highest mean HU, with or without contrast, healthy or not.
    """

    organ: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    ml: tuple[float, float]
    hu: tuple[float, float]


@functools.cache
def load_anatomy() -> Mapping[str, Expected]:
    """The shipped table, organ to what is usual for it."""
    with resource("organ_dictionary", "anatomy.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row.pop("organ"), [float(value) for value in row.values()]) for row in csv.DictReader(stream)]
    return MappingProxyType(
        {
            organ: Expected(organ, (v[0], v[1], v[2]), (v[3], v[4], v[5]), (v[6], v[7]), (v[8], v[9]))
            for organ, v in rows
        }
    )


@dataclass(frozen=True)
class LabelRegion:
    """What one number of a label map marks: centre and half of its extent in mm (RAS+; of an ellipsoid with the same
    spread, so that stray voxels count little), volume, mean HU, and the axes on which it is cut."""

    number: int
    centre: np.ndarray
    half: np.ndarray
    ml: float
    mean_hu: float
    cut: np.ndarray


@dataclass(frozen=True)
class Body:
    """The body's middle in x and its width, mm; None where the field of view cuts it."""

    middle: float | None
    width: float | None


@dataclass(frozen=True)
class AnatomyFit:
    """How badly the organs of a numbering lie: summed cost, summed weight, and the cost of each organ."""

    cost: float
    weight: float
    costs: Mapping[str, float]

    @property
    def share(self) -> float:
        """0 when all fits, 1 when nothing does."""
        return self.cost / self.weight if self.weight else 0.0

    @property
    def odd(self) -> tuple[str, ...]:
        """The organs that do not fit, worst first."""
        return tuple(sorted((o for o, cost in self.costs.items() if cost > ODD), key=lambda o: -self.costs[o]))


def regions_of(labels: np.ndarray, scan: Scan) -> tuple[LabelRegion, ...]:
    """The regions of a uint8 label map on the scan's grid, looked at in steps of about 3 mm."""
    step = [max(1, int(_COARSE_MM / edge)) for edge in scan.spacing_mm]
    coarse = (slice(None, None, step[0]), slice(None, None, step[1]), slice(None, None, step[2]))
    few, hu = np.ascontiguousarray(labels[coarse]), scan.hu[coarse]
    table = label_table(few, hu)
    voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) * step[0] * step[1] * step[2] / 1000
    numbers = [int(n) for n in np.flatnonzero(table.count)]
    centres, halves = _shapes(few, numbers)
    return tuple(
        LabelRegion(
            number,
            scan.affine[:3, :3] @ (centre * step) + scan.affine[:3, 3],
            half * step * scan.spacing_mm,
            float(table.count[number]) * voxel_ml,
            float(table.total[number] / table.count[number]),
            (table.low[number] == 0) | (table.high[number] == few.shape),
        )
        for number, centre, half in zip(numbers, centres, halves, strict=True)
    )


def _shapes(labels: np.ndarray, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half of the extent of each number in voxels, ``[numbers, 3]`` both."""
    sums, squares, counts = np.zeros((256, 3)), np.zeros((256, 3)), np.zeros(256)
    for axis in range(3):
        planes = [np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(labels, axis, 0)]
        positions = np.arange(len(planes), dtype=float)
        sums[:, axis], squares[:, axis] = positions @ np.array(planes), positions**2 @ np.array(planes)
        counts = np.sum(planes, axis=0)
    chosen = list(numbers)
    centres = sums[chosen] / counts[chosen, None]
    spread = np.sqrt(np.maximum(squares[chosen] / counts[chosen, None] - centres**2, 0))
    return centres, np.sqrt(5) * spread


def body_of(scan: Scan) -> Body:
    """Where the body lies from side to side."""
    step = [max(1, int(2 * _COARSE_MM / edge)) for edge in scan.spacing_mm]
    dense = scan.hu[:: step[0], :: step[1], :: step[2]] > _BODY_HU
    profile = dense.sum((1, 2))
    inside = np.flatnonzero(profile > 0.15 * profile.max(initial=0))
    if not len(inside) or inside[0] == 0 or inside[-1] == len(profile) - 1:
        return Body(None, None)
    middle = np.array([(inside[0] + inside[-1]) / 2 * step[0], *((n - 1) / 2 for n in scan.hu.shape[1:])])
    width = (inside[-1] - inside[0] + 1) * step[0] * scan.spacing_mm[0]
    return Body(float((scan.affine[:3, :3] @ middle + scan.affine[:3, 3])[0]), float(width))


def fit(regions: Sequence[LabelRegion], names: Mapping[int, str], body: Body, unknown_cost: float = 0.0) -> AnatomyFit:
    """How well regions lie as the organs that a numbering calls them.

    Args:
        names: number to organ. Organs without an entry in the anatomy count for nothing.
        unknown_cost: of a region whose number has no name.
    """
    anatomy = load_anatomy()
    grouped: dict[str, list[LabelRegion]] = {}
    cost = weight = 0.0
    for region in regions:
        organ = names.get(region.number)
        if organ is not None and organ in anatomy:
            grouped.setdefault(organ, []).append(region)
        elif organ is None:
            cost += unknown_cost * _weight(region.ml)
            weight += unknown_cost * _weight(region.ml)
    if not grouped:
        return AnatomyFit(cost, weight, {})
    organs = list(grouped)
    merged = [_merged(grouped[organ]) for organ in organs]
    expected = [anatomy[organ] for organ in organs]
    weights = np.array([_weight(region.ml) for region in merged])
    best = np.ones(len(organs))
    for scale in _scales(body):
        plain = np.array([_region_cost(r, e, scale) for r, e in zip(merged, expected, strict=True)])
        away = _displaced(merged, expected, scale, body, weights)
        total = np.minimum(1.0, plain + away)
        sums = total @ weights
        if sums.min() < best @ weights:
            best = total[int(sums.argmin())]
    return AnatomyFit(
        cost + float(best @ weights),
        weight + float(weights.sum()),
        dict(zip(organs, best.tolist(), strict=True)),
    )


def _weight(ml: float) -> float:
    return 1.0 if ml >= 2 else 0.5 if ml >= 0.3 else 0.2


def _merged(regions: Sequence[LabelRegion]) -> LabelRegion:
    ml = sum(region.ml for region in regions)
    centre = sum((region.centre * region.ml for region in regions), np.zeros(3)) / ml
    hu = sum(region.mean_hu * region.ml for region in regions) / ml
    half: np.ndarray = np.max([np.abs(region.centre - centre) + region.half for region in regions], axis=0)
    return LabelRegion(regions[0].number, centre, half, ml, hu, np.any([region.cut for region in regions], axis=0))


def _scales(body: Body) -> tuple[float, ...]:
    size = 1.0 if body.width is None else body.width / _ADULT_WIDTH_MM
    return tuple(float(np.clip(size * share, 0.3, 1.25)) for share in _SCALES)


def _region_cost(region: LabelRegion, expected: Expected, scale: float) -> float:
    """Of volume and HU. Too little of an organ is half a fault: it may be operated on or drawn in part."""
    low, high = expected.ml
    much = np.clip(np.log2(region.ml / high), 0, 1)
    long = np.clip(
        np.log2(np.maximum(region.half, 1e-3) / (2 * np.array(expected.half) * max(scale, 0.6) + 8)), 0, 1
    ).max()
    little = 0.0 if region.cut.any() else np.clip(np.log2(low * min(scale, 1.0) ** 3 / region.ml) / 3, 0, 0.5)
    off = max(expected.hu[0] - region.mean_hu, region.mean_hu - expected.hu[1], 0) / 80
    return float(min(1.0, max(much, long) + little + off))


def _displaced(
    regions: Sequence[LabelRegion], expected: Sequence[Expected], scale: float, body: Body, weights: np.ndarray
) -> np.ndarray:
    """Cost ``[proposals, organs]`` of place, for each way of laying the usual anatomy onto the scan."""
    found = np.array([region.centre for region in regions])
    usual = np.array([e.centre for e in expected]) * scale
    half = np.array([e.half for e in expected]) * scale
    room = 30 * max(scale, 0.6) + 0.75 * half + half * np.array([region.cut for region in regions])
    order = np.argsort([-w * region.ml for w, region in zip(weights, regions, strict=True)])[:_PROPOSALS]
    offsets = np.concatenate([(found - usual)[order], np.median(found - usual, axis=0)[None]])
    if body.middle is not None:
        offsets[:, 0] = np.clip(offsets[:, 0], body.middle - _OFF_CENTRE_MM, body.middle + _OFF_CENTRE_MM)
    apart = np.abs(found - usual - offsets[:, None]) / room
    return np.clip((apart.max(2) - 0.8) / 0.5, 0, 1)


_WORSE = 0.9
"""By how much less another numbering must cost: about one organ in a wrong place."""

_RATIO = 0.35
_ALIKE = 0.1
"""Numberings this near to the best one are named with it."""

_BAD = 0.5
_MIRRORED = 0.35
_FEW = 3


def check_anatomy(
    regions: Sequence[LabelRegion], names: Mapping[int, str], body: Body, chosen: str | None
) -> tuple[QualityCheck, ...]:
    """Whether regions lie as the organs that they are said to be.

    Args:
        names: number to organ as read.
        chosen: the numbering that this is, ``""`` for numbers that a recipe or the file itself names, None where the
            organs came by name, so that no other numbering is possible.

    Returns:
        ``numbering`` (error) where another numbering fits better; ``masks_unlike_anatomy`` (error) where nothing fits;
        ``organs_odd`` (info) where some organs lie or look unusual.
    """
    others = load_numberings()
    unknown_cost = 1.0 if chosen else 0.0
    ignored = set(others[chosen].others) if chosen else set()
    regions = [region for region in regions if region.number not in ignored]
    declared = fit(regions, names, body, unknown_cost)
    if declared.cost < ODD:
        return ()
    turned = fit([_mirrored(region) for region in regions], names, _mirrored_body(body), unknown_cost)
    if len(declared.costs) < _FEW:  # a spleen on the right is rather a liver than a body the other way round
        turned = declared
    cost = min(declared.cost, turned.cost)
    if chosen is not None and (better := _better(regions, names, body, cost)):
        better_names = " or ".join(better)
        message = (
            f"The numbers are read as {chosen or 'the label map says'}, which puts {_some(declared.odd)} where no such "
            f"organ lies; {better_names} fits. Set ct.label_map: {better[0]} in the recipe, or {better[0]} in the "
            "cohort's column numbering."
        )
        return (QualityCheck("numbering", "error", message, round(cost, 2)),)
    if cost >= _WORSE and min(declared.share, turned.share) > _BAD:
        message = (
            f"{len(declared.odd)} of {len(declared.costs)} organs ({_some(declared.odd)}) have another place, size or "
            "HU than such organs have, and no numbering that is known fits: are these the scan's masks?"
        )
        return (QualityCheck("masks_unlike_anatomy", "error", message, round(declared.share, 2)),)
    if not declared.odd or turned.share < min(declared.share, _MIRRORED):
        return ()  # what lies on the other side is told apart from its order, see mask_checks
    message = f"{_some(declared.odd)}: unusual place, size or HU."
    return (QualityCheck("organs_odd", "info", message, len(declared.odd)),)


def _better(regions: Sequence[LabelRegion], names: Mapping[int, str], body: Body, cost: float) -> list[str]:
    """The numberings that read the regions in another way and fit clearly better, all that read them alike."""
    read = {region.number: names.get(region.number) for region in regions}
    found: list[tuple[float, str, dict[int, str | None]]] = []
    for name, other in load_numberings().items():
        informative = [region for region in regions if region.number not in other.others]
        reading = {region.number: other.organs.get(region.number) for region in regions}
        if reading != read and any(reading.values()):
            found.append((fit(informative, other.organs, body, 1.0).cost, name, reading))
    if not found:
        return []
    least, _, best = min(found, key=lambda entry: entry[0])
    if least > cost * _RATIO or cost - least < _WORSE:
        return []
    alike = [name for other, name, reading in found if reading == best or other <= least + _ALIKE]
    return alike if DEFAULT not in alike else [DEFAULT, *(name for name in alike if name != DEFAULT)]


def _mirrored(region: LabelRegion) -> LabelRegion:
    return LabelRegion(region.number, region.centre * (-1, 1, 1), region.half, region.ml, region.mean_hu, region.cut)


def _mirrored_body(body: Body) -> Body:
    return Body(None if body.middle is None else -body.middle, body.width)


def _some(organs: Sequence[str]) -> str:
    return ", ".join(organs[:4]) + (" ..." if len(organs) > 4 else "")
