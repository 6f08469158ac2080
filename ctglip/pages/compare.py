"""The page of a comparison of two models on the same patients."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ctglip.pages import plots
from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, known
from ctglip.pages.wording import p_value
from ctglip.types import Interval


@dataclass(frozen=True)
class ComparedRow:
    """One (organ, abnormality) of both models; display names.

    Attributes:
        first, second: AUROC of each model.
        difference: second minus first, with its paired interval.
        p_value, adjusted: two-sided, before and after Holm's correction; None where they cannot be computed.
        positives, n: judged.
    """

    organ: str
    abnormality: str
    first: Interval
    second: Interval
    difference: Interval
    p_value: float | None
    adjusted: float | None
    positives: int
    n: int


@dataclass(frozen=True)
class ComparePage:
    """Everything on the page.

    Attributes:
        title: heading.
        first, second: names of the models.
        split, label_source: what was judged.
        macro: macro AUROC of each, and the difference (second minus first).
        p_value: of the macro difference.
        rows: the pairs judged for both.
        facts, notes: what the reader must know.
    """

    title: str
    first: str
    second: str
    split: str
    label_source: str
    macro: tuple[Interval, Interval, Interval]
    p_value: float | None
    rows: tuple[ComparedRow, ...]
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: ComparePage) -> str:
    """The page as one self-contained HTML document."""
    return render_template("compare.html", page=page, forest=_forest(page), verdict=_verdict(page))


def _verdict(page: ComparePage) -> str:
    low, high = page.macro[2].low, page.macro[2].high
    if not known(low) or not known(high):
        return ""
    if low <= 0 <= high:
        return "The two cannot be told apart on these patients: the interval of the difference holds 0."
    better = page.second if low > 0 else page.first
    return f"{better} is better on these patients: the interval of the difference does not hold 0."


def _forest(page: ComparePage) -> Markup:
    ranked = sorted(page.rows, key=lambda r: r.difference.value if known(r.difference.value) else 0.0, reverse=True)
    rows = [plots.ForestRow("Macro average", page.macro[2], "summary", p_value(page.p_value))]
    rows += [
        plots.ForestRow(f"{row.organ} · {row.abnormality}", row.difference, "pair", p_value(row.adjusted))
        for row in ranked
    ]
    title = f"AUROC of {page.second} minus {page.first}"
    axis = plots.differences_axis(rows, (f"{page.first} better", f"{page.second} better"))
    return plots.forest(rows, title, "Difference", "adjusted p", axis=axis) + plots.forest(
        rows, title, "Difference", axis=axis, narrow=True
    )
