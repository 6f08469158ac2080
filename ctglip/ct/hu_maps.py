"""Which map from Hounsfield units explains numbers that are none, or that are better explained by it than as HU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ctglip.ct.hounsfield import AIR, FEW, Histogram, Layout
from ctglip.types import QualityCheck

_CT = {"air": -1000.0, "fat": -100.0, "soft tissue": 45.0}
_WINDOWS = (
    (-160, 240),
    (-175, 250),
    (-150, 250),
    (-200, 300),
    (-1000, 400),
    (-1350, 150),
    (-1000, 1000),
    (-1024, 3071),
)
_SHIFTS = (1024, 1000, -1024, 8192, -8192, 2048, 4096, 32768, -32768)


@dataclass(frozen=True)
class HuMap:
    """``number = scale * HU + shift``, or that modulo 4096 with what is negative wrapped to the upper end."""

    scale: float
    shift: float
    wrapped: bool = False

    def layout(self, histogram: Histogram) -> Layout:
        """The numbers as HU under this map."""
        if not self.wrapped:
            return Layout.under(histogram, self.scale, self.shift)
        values = np.where(histogram.values >= 2048, histogram.values - 4096, histogram.values)
        order = np.argsort(values)
        return Layout.under(Histogram.from_counts(values[order], histogram.counts[order]), self.scale, self.shift)


_TENTH = HuMap(0.1, 0)


def not_hounsfield(histogram: Histogram) -> QualityCheck | None:
    """The error that numbers deserve which are no Hounsfield units; None where they are."""
    plain = Layout.under(histogram)
    reason = plain.doubt()
    low, high = int(histogram.values[0]), int(histogram.values[-1])
    labels = len(histogram.values) <= FEW and low in (-1, 0, 1)
    if not reason and low >= 0 and high <= 255 and (low <= 2 or high >= 240):
        reason = "they fill 8 bits"
    if found := _named(histogram, labels) if reason else _better(histogram, plain):
        return _check(*found)
    if not reason:
        return None
    what = "a label map" if labels else "MR, PET, a picture or a normalised volume"
    message = f"The numbers ({low} to {high}) are no Hounsfield units: {reason}. It may be {what}."
    return QualityCheck("not_hu", "error", message, float(high - low))


def _named(histogram: Histogram, few: bool) -> tuple[HuMap, Layout] | None:
    """The map under which most modes lie in their places, of those under which the numbers can be a CT.

    A known shift that explains all modes is preferred to a scale that puts more of them in place.

    Args:
        few: the numbers are as few as a label map's: a simple map has to put all modes in place.
    """
    simple = [(3 if few else 2, HuMap(1, shift)) for shift in _SHIFTS] + [(3, HuMap(-1, 0))]
    if histogram.values[0] > -200:
        simple.append((3 if few else 2, HuMap(1, 0, wrapped=True)))
    found = _best(histogram, simple)
    if few or (found is not None and (len(found[1].positions) == len(_CT) or found[1].crop)):
        return found
    modes = histogram.modes
    low, high = float(histogram.values[0]), float(histogram.values[-1])
    scales = [((high - low) / (top - bottom), bottom) for bottom, top in _WINDOWS]
    other = [(3, HuMap(sign, mode - sign * hu)) for sign in (1, -1) for mode in modes for hu in _CT.values()]
    other += [(3, HuMap(scale, low - scale * bottom)) for scale, bottom in scales]
    other += [(3, one) for one in _scaled(modes)]
    better = _best(histogram, other)
    turned = better is not None and better[0].scale < 0
    return better if better is not None and not (turned and found is not None) else found


def _best(histogram: Histogram, candidates: list[tuple[int, HuMap]]) -> tuple[HuMap, Layout] | None:
    """Of the maps that put as many modes in place as each needs: the most, then those that hold clearly more voxels."""
    best: tuple[tuple[int, int], HuMap, Layout] | None = None
    for needed, one in candidates:
        layout = one.layout(histogram)
        positions = layout.positions.values()
        rank = len(positions), round(10 * sum(layout.share(where - 30, where + 30) for where in positions))
        if len(positions) >= needed and (best is None or rank > best[0]) and not layout.doubt():
            best = rank, one, layout
    return None if best is None else best[1:]


def _scaled(modes: list[float]) -> Iterator[HuMap]:
    """Maps that put two of the modes onto air and fat, or air and soft tissue."""
    for first, second in itertools.permutations(modes, 2):
        for name in ("fat", "soft tissue"):
            scale = (second - first) / (_CT[name] - _CT["air"])
            if 0.02 < abs(scale) < 30:
                yield HuMap(scale, first - scale * _CT["air"])


def _better(histogram: Histogram, plain: Layout) -> tuple[HuMap, Layout] | None:
    """A map that puts all three modes in their places where the plain numbers leave some out, and differs by enough."""
    if len(plain.positions) == len(_CT):
        return None
    maps = [*(HuMap(1, shift) for shift in _SHIFTS), HuMap(0.5, 0)]
    if plain.mode(AIR) is None:
        maps += [HuMap(1, mode - hu) for mode in histogram.modes for hu in _CT.values() if abs(mode - hu) > 80]
    if "air" not in plain.positions:
        maps.append(_TENTH)
        # a crop of fat and organs is no flat scan
        flat = 0.35 if {"fat", "soft tissue"} <= plain.positions.keys() else 0.0
        maps += [one for one in _scaled(histogram.modes) if one.scale > flat and not 0.8 < one.scale < 1.25]
    bare = not plain.positions.keys() & {"air", "fat"}
    for one in maps:
        layout = one.layout(histogram)
        loose = (one == _TENTH and plain.fine) or (bare and one.shift in _SHIFTS)
        needed = {"air", "soft tissue"} if loose else set(_CT)
        sure = one.scale > 0.35 or plain.fine or one == _TENTH
        if sure and needed <= set(layout.positions) and not layout.doubt():
            return one, layout
    return _stretched(histogram, plain)


def _stretched(histogram: Histogram, plain: Layout) -> tuple[HuMap, Layout] | None:
    """A window stretched over a wider range: cut at both ends, fat and soft tissue where the window puts them.

    A chest without fat that was cut at both ends looks like a narrow window stretched over much: that is told by the
    numbers that no voxel has, where whole HU were taken apart.
    """
    if not histogram.low or {"fat", "soft tissue"} <= set(plain.positions):
        return None
    cut = bool(histogram.high) and histogram.high[0].share >= 0.003
    low, high = histogram.low[0].value, int(histogram.values[-1])
    for bottom, top in _WINDOWS:
        scale = (high - low) / (top - bottom)
        one = HuMap(scale, low - scale * bottom)
        apart = _apart(histogram, scale)
        if 0.8 < scale < 1.25 or not (cut or apart):
            continue
        layout = one.layout(histogram)
        needed = {"soft tissue"} if apart and cut else {"fat", "soft tissue"}
        if needed <= set(layout.positions) and not layout.doubt():
            return one, layout
    return None


def _apart(histogram: Histogram, scale: float) -> bool:
    """Whether the numbers are whole HU times a scale, rounded: with gaps between them that only this explains."""
    steps = (histogram.values - histogram.low[0].value) / scale
    off = np.abs(steps - np.rint(steps)) * scale
    return scale > 1.3 and len(steps) > 40 and bool((off <= min(1.0, 0.36 * scale)).all())


def _check(one: HuMap, layout: Layout) -> QualityCheck:
    """The error that names the map, with where the modes lie."""
    mapped = {name: hu * one.scale + one.shift for name, hu in layout.positions.items()}
    if one.wrapped:
        mapped = {name: where % 4096 for name, where in mapped.items()}
    there = ", ".join(f"{name} at {where:.0f}" for name, where in mapped.items())
    usual = ", ".join(f"{_CT[name]:.0f}" for name in mapped)
    shift = next((known for known in _SHIFTS if abs(known - one.shift) < 15), round(one.shift))
    if shift in (1000, 1024) and "air" in mapped:
        shift = min((1000, 1024), key=lambda known: abs(mapped["air"] + 1000 - known))
    if one.wrapped:
        code, what = "hu_wrapped", "negative HU are wrapped into 12 bits"
    elif one.scale == -1:
        code, what = "hu_negated", "the sign is turned"
    elif one.scale != 1:
        code, what = "hu_scaled", f"HU are scaled by about {one.scale:.3g} and shifted by {one.shift:.0f}"
    elif shift in (1024, 1000):
        known = f"-{shift}" if "air" in mapped else "-1024 (or -1000)"
        code, what = "intercept_missing", f"the intercept of {known} is missing"
    elif shift in (-1024, -1000):
        code, what = "rescale_twice", "the rescale was applied twice"
    elif abs(shift) == 8192:
        code, what = "intercept_8192", f"HU are shifted by an intercept of {shift:+d}"
    else:
        code, what = "hu_shifted", f"HU are shifted by {shift:+d}"
    message = f"The numbers have {there}, where HU have {usual}: {what}."
    return QualityCheck(code, "error", message, float(one.shift if one.scale == 1 else one.scale))
