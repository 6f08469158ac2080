"""Forest plots, histograms, bars and legend signs as inline SVG.

Each has a title and a description for screen readers, says in words what it shows, and never tells things apart by
colour alone. A value that is not known is left out and said to be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from ctglip.pages.parts import known
from ctglip.pages.svg import Anchor, Svg, coordinate
from ctglip.pages.wording import interval, number, plain
from ctglip.types import Interval


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot: a diamond for a summary, a square for a control, a disc for a pair."""

    label: str
    score: Interval
    kind: Literal["summary", "control", "pair"] = "pair"
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """What a forest plot is drawn on: from low to high, a tick at every step, and a dashed line at ``middle``.

    Attributes:
        name: of the dashed line.
        ends: what the left and the right end mean.
    """

    low: float
    high: float
    step: float
    middle: float
    name: str
    ends: tuple[str, str] = ("", "")


def shares_axis(rows: Sequence[ForestRow]) -> Axis:
    """An axis for AUROCs: up to 1, chance at 0.5."""
    ends = [v for r in rows for v in (r.score.value, r.score.low) if known(v)]
    low = max(0.0, min(0.4, math.floor(min(ends, default=0.4) * 10) / 10))
    return Axis(low, 1.0, 0.1, 0.5, "chance")


def differences_axis(rows: Sequence[ForestRow], sides: tuple[str, str] = ("", "")) -> Axis:
    """An axis for differences, as far to the left as to the right; ``sides`` say what left and right mean."""
    ends = [abs(v) for r in rows for v in (r.score.value, r.score.low, r.score.high) if known(v)]
    step = 0.05 if max(ends, default=0.1) <= 0.2 else 0.1 if max(ends) <= 0.5 else 0.25
    reach = max(1, math.ceil(max(ends, default=step) / step - 1e-9)) * step
    return Axis(-reach, reach, step, 0.0, "no difference", sides)


def forest(
    rows: Sequence[ForestRow],
    title: str,
    heading: str = "AUROC",
    note_heading: str = "",
    *,
    axis: Axis | None = None,
    narrow: bool = False,
) -> Markup:
    """Scores with their intervals, one below the other, and a dashed line at chance.

    Args:
        rows: from top to bottom; a gap is left where the kind changes.
        title: what is shown.
        heading: what the score is.
        note_heading: what the notes are.
        axis: for AUROCs by default.
        narrow: for small screens, with the words above the marks and without notes.
    """
    left, width, step = (8.0, 320.0, 44.0) if narrow else (_label_width(rows), 360.0, 26.0)
    top = 34.0 if narrow else 44.0
    axis = axis or shares_axis(rows)
    gaps = sum(a.kind != b.kind for a, b in itertools.pairwise(rows))
    bottom = top + step * len(rows) + 14 * gaps
    total = left + width + (12 if narrow else 260 if note_heading else 170)

    def at(value: float) -> float:
        return left + (value - axis.low) / (axis.high - axis.low) * width

    svg = Svg(total, bottom + 40, title, _forest_words(rows, heading), "forest narrow" if narrow else "forest wide")
    if narrow:
        svg.text(total, 18, heading, "head", "end")
    else:
        svg.text(left + width + 16, 22, f"{heading} (95 % interval)", "head")
        svg.text(total, 22, note_heading, "head", "end")
    _axis(svg, axis, at, top, bottom)
    y, before = top + step / 2, rows[0].kind if rows else "pair"
    for row in rows:
        y += 14 if row.kind != before else 0
        before = row.kind
        if narrow:
            svg.text(0, y - 5, _short(row.label, 42), f"label {row.kind}")
            svg.text(total, y - 5, number(row.score.value), f"value {row.kind}", "end")
        else:
            svg.text(left - 14, y + 4, _short(row.label), f"label {row.kind}", "end")
            svg.text(left + width + 16, y + 4, _score_text(row.score), f"value {row.kind}")
            svg.text(total, y + 4, row.note, "tick", "end")
        _mark(svg, row, at, y + 9 if narrow else y)
        y += step
    return svg.markup()


def _axis(svg: Svg, axis: Axis, at: Callable[[float], float], top: float, bottom: float) -> None:
    digits = 1 if axis.step in (0.1, 0.5) else 2
    for tick in axis.low + axis.step * np.arange(round((axis.high - axis.low) / axis.step) + 1):
        middle = abs(tick - axis.middle) < axis.step / 100
        svg.line(at(tick), top - 10, at(tick), bottom, "chance" if middle else "grid")
        svg.text(at(tick), bottom + 18, number(0.0 if middle and not axis.middle else tick, digits), "tick", "middle")
    svg.text(at(axis.middle), bottom + 34, axis.name, "tick", "middle")
    for text, position, anchor in zip(axis.ends, (axis.low, axis.high), ("start", "end"), strict=True):
        if text:
            svg.text(at(position), bottom + 34, _short(text, 20), "tick", anchor)


def _mark(svg: Svg, row: ForestRow, at: Callable[[float], float], y: float) -> None:
    value, low, high = row.score.value, row.score.low, row.score.high
    if known(low) and known(high):
        svg.line(at(low), y, at(high), y, f"interval {row.kind}")
        for end in (low, high):
            svg.line(at(end), y - 4, at(end), y + 4, f"interval {row.kind}")
    if not known(value):
        return
    x = at(value)
    if row.kind == "summary":
        svg.path([(x - 8, y), (x, y - 8), (x + 8, y), (x, y + 8)], "mark summary", closed=True)
    elif row.kind == "control":
        svg.rect(x - 5, y - 5, 10, 10, "mark control")
    else:
        svg.circle(x, y, 4.5, "mark pair")


def _label_width(rows: Sequence[ForestRow]) -> float:
    return 24 + 7.1 * max((len(_short(row.label)) for row in rows), default=10)


def _short(label: str, most: int = 46) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _score_text(score: Interval) -> str:
    if not known(score.value):
        return "not computable"
    return f"{number(score.value)} ({interval(score)})" if interval(score) else number(score.value)


def _forest_words(rows: Sequence[ForestRow], heading: str) -> str:
    return f"{heading}: " + "; ".join(f"{row.label} {_score_text(row.score)}" for row in rows) + "."


def bar(value: float, middle: float | None = None, width: int = 120) -> Markup:
    """A small bar from 0 to 1, beside a number that says the same (so it is hidden from screen readers).

    Args:
        value: length of the bar, clipped to 0..1.
        middle: where to draw a tick, or None.
        width: in pixels.
    """
    filled = width * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    tick = "" if middle is None else _tick(width * middle)
    return Markup(  # noqa: S704  (numbers only)
        f'<svg class="bar" viewBox="0 0 {width} 12" width="{width}" height="12" aria-hidden="true">'
        f'<rect class="track" x="0" y="2" width="{width}" height="8" rx="2"/>'
        f'<rect class="fill" x="0" y="2" width="{coordinate(filled)}" height="8" rx="2"/>{tick}</svg>'
    )


def _tick(x: float) -> str:
    return f'<line class="middle" x1="{coordinate(x)}" y1="0" x2="{coordinate(x)}" y2="12"/>'


def swatch(number: int, colour: str) -> Markup:
    """A legend's sign: the number of the outline on its colour, dark like the picture's ground."""
    if len(colour) != 7 or colour[0] != "#" or not all(c in "0123456789abcdefABCDEF" for c in colour[1:]):
        raise ValueError(f"A colour is written #rrggbb, found {colour!r}.")
    return Markup(  # noqa: S704  (a number and a checked colour)
        f'<svg class="swatch" viewBox="0 0 22 18" width="22" height="18" aria-hidden="true">'
        f'<rect x="1" y="1" width="20" height="16" rx="3" fill="#101418" stroke="{colour}" stroke-width="1.5"/>'
        f'<text x="11" y="13" text-anchor="middle" fill="{colour}">{int(number)}</text></svg>'
    )


def histogram(values: Sequence[float], name: str, unit: str = "", marked: Sequence[float] = ()) -> Markup:
    """How often which value occurs; values marked (outliers) are triangles below the axis.

    Args:
        values: NaN and infinite ones are left out.
        name: of the quantity.
        unit: of the quantity.
        marked: values to point at.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    left, top, width, height = 44.0, 14.0, 300.0, 120.0
    if not finite.size:
        svg = Svg(360, 60, f"{name}: no values", "There is nothing to draw.", "histogram")
        svg.text(180, 34, "no values", "tick", "middle")
        return svg.markup()
    low, high = float(finite.min()), float(finite.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(np.ceil(2 * finite.size ** (1 / 3)), 5, 40))
    counts, _ = np.histogram(finite, bins=bins, range=(low, high))
    words = (
        f"{finite.size} values from {plain(finite.min())} to {plain(finite.max())} {unit}, "
        f"median {plain(float(np.median(finite)))}."
    )
    svg = Svg(360, top + height + 40, f"Distribution of {name}", words, "histogram")
    most = max(int(counts.max()), 1)
    for tick in {0, most}:
        y = top + height * (1 - tick / most)
        svg.line(left, y, left + width, y, "grid")
        svg.text(left - 6, y + 4, f"{tick:,}", "tick", "end")
    step = width / bins
    for i, frequency in enumerate(counts):
        tall = height * frequency / most
        if frequency:
            svg.rect(left + i * step + 0.5, top + height - tall, step - 1, tall, "fill")

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * width

    for value in marked:
        if low <= value <= high:
            x, y = at(value), top + height + 3
            svg.path([(x - 4, y + 7), (x, y), (x + 4, y + 7)], "outlier", closed=True)
    anchors: tuple[Anchor, ...] = ("start", "middle", "end")
    for value, anchor in zip((low, (low + high) / 2, high), anchors, strict=True):
        if finite.min() == finite.max() and anchor != "middle":
            continue
        svg.text(at(value), top + height + 26, plain(value) + (f" {unit}" if unit else ""), "tick", anchor)
    return svg.markup()
