"""The quality page of a store (``quality.html``): what came in, what failed and why, what looks odd."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ctglip.pages.document import render_template
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
class OrganAgreement:
    """How far given findings and the parser's agree on one organ.

    Attributes:
        organ: display name.
        studies: studies in which both speak of it.
        same: studies for which both call it the same: abnormal, uncertain or normal.
        kappa: Cohen's, of these three; None where both call it one and the same in every study.
        other: studies in which both call it abnormal, by other abnormalities.
    """

    organ: str
    studies: int
    same: int
    kappa: float | None
    other: int


@dataclass(frozen=True)
class Disagreement:
    """One organ of one study that two sources read differently: who gave it, what each reads, and from what."""

    study_id: str
    organ: str
    source: str
    given: str
    parser: str
    given_sentences: tuple[str, ...] = ()
    parser_sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceAgreement:
    """Given findings beside the parser's.

    Attributes:
        counting: which of them count.
        compared, studies: studies that were compared, of those with given findings.
    """

    counting: str
    compared: int
    studies: int
    organs: tuple[OrganAgreement, ...]
    examples: tuple[Disagreement, ...]


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
        sources: how far given findings agree with the parser's; None where none were given.
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
    sources: SourceAgreement | None = None
    montage: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: QualityPage) -> str:
    """The page as one self-contained HTML document."""
    total = page.done + len(page.failures)
    return render_template("quality.html", page=page, total=total, groups=_grouped(page.failures))


@dataclass(frozen=True)
class _Group:
    """Failures of one stage and code: how many, and the first of them."""

    code: str
    stage: str
    count: int
    example: str
    message: str


def _grouped(failures: tuple[Failure, ...]) -> list[_Group]:
    """Failures by stage and code, most frequent first."""
    counts = Counter((failure.stage, failure.code) for failure in failures)
    first = {(failure.stage, failure.code): failure for failure in reversed(failures)}
    return [
        _Group(code, stage, number, first[stage, code].study_id, first[stage, code].message)
        for (stage, code), number in counts.most_common()
    ]
