"""The quality page of a store (``quality.html``): what came in, what failed and why, what looks odd."""

from __future__ import annotations

from dataclasses import dataclass

from ctglip.pages.parts import Fact, Picture
from ctglip.types import Failure, Severity


@dataclass(frozen=True)
class CheckCount:
    """How many studies one quality check was raised for; ``example`` is one of their ids."""

    code: str
    severity: Severity
    count: int
    meaning: str = ""
    example: str = ""


@dataclass(frozen=True)
class Outlier:
    """A study whose value lies far from the others'."""

    study_id: str
    value: float


@dataclass(frozen=True)
class Distribution:
    """Values of one quantity over the studies; drawn as a histogram with its outliers listed.

    Attributes:
        name: "Liver volume".
        unit: "ml", "mm", "HU" or "".
        values: one number a study; NaN and infinite values are counted, not drawn.
        outliers: the odd ones, oddest first.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    outliers: tuple[Outlier, ...] = ()


@dataclass(frozen=True)
class QualityPage:
    """Everything on the quality page.

    Attributes:
        title: heading; the store's name.
        done: studies in the store.
        failures: studies that did not make it (grouped by stage and code on the page).
        skipped: studies that were done already in an earlier run.
        facts: recipe, spacing, versions, time taken, rate ...
        checks: quality checks with their counts.
        distributions: histograms of spacing, HU, organ volumes.
        montage: mid-slices with mask outlines.
        notes: what the reader must bear in mind, one sentence each.
    """

    title: str
    done: int
    failures: tuple[Failure, ...] = ()
    skipped: int = 0
    facts: tuple[Fact, ...] = ()
    checks: tuple[CheckCount, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    montage: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: QualityPage) -> str:
    """The page as one self-contained HTML document."""
    raise NotImplementedError
