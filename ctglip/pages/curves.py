"""Curves and maps as inline SVG: ROC, reliability, retrieval, and the 2D map of organ embeddings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from ctglip.pages.parts import Curve, RecallAt, ReliabilityBin, known
from ctglip.pages.svg import Svg
from ctglip.pages.wording import interval, number
from ctglip.types import Interval

Point = tuple[float, float]


def roc(curve: Curve, name: str, score: Interval, size: float = 184.0) -> Markup:
    """A small ROC curve with its band, the diagonal of chance, and the area written in its corner."""
    left, top, side = 26.0, 6.0, size - 34

    def at(x: float, y: float) -> Point:
        return left + x * side, top + (1 - y) * side

    words = f"AUROC {number(score.value)}" + (f", 95 % interval {interval(score)}" if interval(score) else "")
    svg = Svg(size, size, f"ROC curve: {name}", f"{words}. Sensitivity against 1 minus specificity.", "roc")
    _square(svg, at)
    if curve.low and curve.high:
        edge = [at(x, y) for x, y in zip(curve.x, curve.high, strict=True)]
        edge += [at(x, y) for x, y in zip(curve.x[::-1], curve.low[::-1], strict=True)]
        svg.path(edge, "band", closed=True)
    svg.path([at(x, y) for x, y in zip(curve.x, curve.y, strict=True)], "curve")
    svg.text(left + side - 6, top + side - 8, number(score.value), "value summary", "end")
    return svg.markup()


def reliability(points: Sequence[ReliabilityBin], name: str, size: float = 300.0) -> Markup:
    """Observed share against predicted probability; discs grow with the number of predictions.

    Args:
        points: one a probability bin; bins without predictions are left out.
        name: what is shown.
        size: in CSS pixels.
    """
    left, top, side = 34.0, 8.0, size - 52

    def at(x: float, y: float) -> Point:
        return left + x * side, top + (1 - y) * side

    plotted = [point for point in points if point.n and known(point.observed.value)]
    words = "; ".join(
        f"predicted {number(p.predicted, 2)}, observed {number(p.observed.value, 2)} ({p.n:,} predictions)"
        for p in plotted
    )
    svg = Svg(size, size, f"Reliability: {name}", words or "No predictions.", "reliability")
    _square(svg, at)
    most = max((point.n for point in plotted), default=1)
    svg.path([at(p.predicted, p.observed.value or 0.0) for p in plotted], "curve")
    for point in plotted:
        x, y = at(point.predicted, point.observed.value or 0.0)
        if known(point.observed.low) and known(point.observed.high):
            svg.line(x, at(0, point.observed.low)[1], x, at(0, point.observed.high)[1], "interval")
        svg.circle(x, y, 2.5 + 5 * math.sqrt(point.n / most), "dot")
    svg.text(left + side / 2, size - 6, "predicted probability", "tick", "middle")
    svg.text(left + 4, top + 14, "observed share", "tick")
    return svg.markup()


def recall(found: Sequence[RecallAt], name: str) -> Markup:
    """Recall at k with its band on a logarithmic k axis, beside that of a random ranking (dashed).

    Args:
        found: by rising k.
        name: of the direction.
    """
    left, top, width, height = 34.0, 10.0, 280.0, 170.0
    positions = [one.k for one in found] or [1]
    low, high = math.log(min(positions)), math.log(max(positions))

    def at(k: float, y: float) -> Point:
        fraction = 0.5 if high == low else (math.log(k) - low) / (high - low)
        return left + fraction * width, top + (1 - y) * height

    words = "; ".join(f"recall at {one.k}: {number(one.recall.value)}" for one in found)
    svg = Svg(width + 60, height + 44, f"Retrieval: {name}", words or "No queries.", "recall")
    for tick in (0, 0.25, 0.5, 0.75, 1):
        svg.line(left, at(1, tick)[1], left + width, at(1, tick)[1], "grid")
        svg.text(left - 6, at(1, tick)[1] + 4, f"{tick:g}", "tick", "end")
    points = [(one.k, one.recall, one.recall.value) for one in found if known(one.recall.value)]
    banded = [(k, s.low, s.high) for k, s, _ in points if known(s.low) and known(s.high)]
    if banded:
        edge = [at(k, top_) for k, _, top_ in banded] + [at(k, under) for k, under, _ in banded[::-1]]
        svg.path(edge, "band", closed=True)
    svg.path([at(k, value) for k, _, value in points], "curve")
    svg.path([at(one.k, one.chance) for one in found if known(one.chance)], "chance")
    for k, _, value in points:
        svg.circle(*at(k, value), 3.5, "dot")
    for k in positions:
        svg.text(at(k, 0)[0], top + height + 18, str(k), "tick", "middle")
    svg.text(left + width / 2, top + height + 36, "k", "tick", "middle")
    return svg.markup()


def embedding_map(points: Sequence[tuple[float, float, str]], title: str, size: float = 640.0) -> Markup:
    """Points of several groups on a plane, told apart by colour, shape, and the group's name at its middle.

    Args:
        points: (x, y, group).
        title: what is shown.
        size: in CSS pixels.
    """
    groups: dict[str, list[Point]] = defaultdict(list)
    for x, y, group in points:
        if known(x) and known(y):
            groups[group].append((x, y))
    everything = np.array([point for several in groups.values() for point in several] or [(0.0, 0.0)])
    middle = (everything.max(axis=0) + everything.min(axis=0)) / 2
    extent = float(np.ptp(everything, axis=0).max()) or 1.0

    def at(x: float, y: float) -> Point:
        return size / 2 + (x - middle[0]) / extent * (size - 60), size / 2 - (y - middle[1]) / extent * (size - 60)

    words = f"{len(everything):,} points of {len(groups)} groups: {', '.join(sorted(groups))}."
    svg = Svg(size, size, title, words, "map")
    for i, (_, several) in enumerate(sorted(groups.items())):
        for point in several:
            _shape(svg, at(*point), i)
    _names(svg, {name: at(*np.median(several, axis=0)) for name, several in groups.items()}, groups)
    return svg.markup()


def _names(svg: Svg, positions: dict[str, Point], groups: dict[str, list[Point]]) -> None:
    """Names of the groups at their middles, largest groups first; a name that would cover another is left out."""
    taken: list[tuple[float, float, float]] = []
    for name in sorted(positions, key=lambda name: (-len(groups[name]), name)):
        x, y = positions[name]
        half = 3.6 * len(name)
        if all(abs(y - other_y) > 14 or abs(x - other_x) > half + other for other_x, other_y, other in taken):
            svg.text(x, y + 4, name, "name", "middle")
            taken.append((x, y, half))


def _shape(svg: Svg, position: Point, order: int) -> None:
    (x, y), kind = position, f"group g{order % 8}"
    match order // 2 % 4:
        case 0:
            svg.circle(x, y, 3, kind)
        case 1:
            svg.rect(x - 2.6, y - 2.6, 5.2, 5.2, kind)
        case 2:
            svg.path([(x - 3.3, y + 2.7), (x, y - 3.3), (x + 3.3, y + 2.7)], kind, closed=True)
        case _:
            svg.path([(x - 3.6, y), (x, y - 3.6), (x + 3.6, y), (x, y + 3.6)], kind, closed=True)


def _square(svg: Svg, at: Callable[[float, float], Point]) -> None:
    """The unit square with its diagonal."""
    svg.path([at(0, 1), at(0, 0), at(1, 0)], "axis")
    svg.path([at(0, 0), at(1, 1)], "chance")
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    svg.text(x0, y0 + 16, "0", "tick")
    svg.text(x1, y0 + 16, "1", "tick", "end")
    svg.text(x0 - 6, y0, "0", "tick", "end")
    svg.text(x0 - 6, y1 + 10, "1", "tick", "end")
