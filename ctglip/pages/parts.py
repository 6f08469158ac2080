"""The small values that several pages share: a score with its interval, a fact, a picture, a curve.

Every text is plain text: the templates escape it. A number that is not known is None (NaN is shown the same way, as
a dash), never a made-up 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from ctglip.types import Interval


def known(value: float | None) -> TypeGuard[float]:
    """The value is a finite number."""
    return value is not None and math.isfinite(value)


_TEXT_ROWS = 8


@dataclass(frozen=True)
class Fact:
    """One thing to know, as name and value: ``Fact("Studies", "240", "60 held out")``."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """One outlined structure of a picture: its number in the picture, its name, its colour (``#rrggbb``)."""

    number: int
    name: str
    colour: str


@dataclass(frozen=True)
class Picture:
    """One picture of a page.

    Attributes:
        uri: a ``data:image/png;base64,`` or ``data:image/jpeg;base64,`` URI (``ctglip.pages.pictures`` makes them);
            anything else is refused when the page is rendered, so a page never reaches for the network or the disk.
        alt: what the picture shows, for those who cannot see it; never empty.
        caption: the text below it.
        size: its (width, height) in pixels, or None where not known.
        legend: the outlined structures.
    """

    uri: str
    alt: str
    caption: str = ""
    size: tuple[int, int] | None = None
    legend: tuple[LegendEntry, ...] = ()


@dataclass(frozen=True)
class Control:
    """A control beside the headline score: the same protocol with something taken away.

    Attributes:
        name: short, e.g. ``"Volume only"``.
        explanation: what it is and what it rules out, one sentence.
        score: its macro AUROC.
    """

    name: str
    explanation: str
    score: Interval


@dataclass(frozen=True)
class OrganRecognition:
    """How often an organ's crop is nearest to its own name among all organ names.

    Attributes:
        top1: share of all organ crops named right.
        macro: mean over organs of that share.
        chance: share expected from guessing, or None.
        n: number of organ crops judged.
        organs: number of organ names to choose from.
        note: what to bear in mind when reading it.
    """

    top1: Interval
    macro: Interval
    n: int
    organs: int
    chance: float | None = None
    note: str = ""


@dataclass(frozen=True)
class RecallAt:
    """Share of the queries whose first right one is among the first ``k``; ``chance`` that of a random order."""

    k: int
    recall: Interval
    chance: float | None = None


@dataclass(frozen=True)
class Retrieval:
    """Retrieval in one direction.

    Attributes:
        name: level and direction, e.g. ``"organ: image to text"``.
        queries: how many.
        candidates: ranked for each query, on average.
        median_rank: of the first right one, from 1.
        at: recall at rising k.
    """

    name: str
    queries: int
    candidates: float
    median_rank: float
    at: tuple[RecallAt, ...]


@dataclass(frozen=True)
class Curve:
    """A curve, with a band if low and high are given; all tuples have one length.

    For a ROC curve x is 1 - specificity and y is sensitivity.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of one probability bin: their mean, the share that came true (with interval), and how many."""

    predicted: float
    observed: Interval
    n: int


@dataclass(frozen=True)
class Table:
    """A table under a heading of its own; every cell is text, columns after the first ``words`` hold numbers.

    Attributes:
        key: short and unique on the page, for anchors.
        heading, text: above the table.
        columns: their heads.
        rows: as long as ``columns``.
        words: how many columns from the left hold words.
    """

    key: str
    heading: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def plain_text(self) -> str:
        """The heading and the first rows as plain text, in columns; cells are cut at 40 characters."""
        lines = [tuple(cell[:40] for cell in row) for row in (self.columns, *self.rows[:_TEXT_ROWS])]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        cells = [
            "  ".join(
                cell.ljust(width) if position < self.words else cell.rjust(width)
                for position, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in lines
        ]
        more = [f"({len(self.rows) - _TEXT_ROWS} more rows)"] if len(self.rows) > _TEXT_ROWS else []
        return "\n".join(["", self.heading, *cells, *more])


@dataclass(frozen=True)
class Link:
    """A link to another page of the same folder: a relative path such as ``"report.html"``.

    Anything that is not such a path (a scheme, a leading slash, ``..``) is refused when the page is rendered.
    """

    href: str
    text: str
    description: str = ""
