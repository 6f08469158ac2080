"""The page of a comparison of two models on the same patients."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from ctglip.pages import plots
from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, known
from ctglip.pages.wording import format_interval, p_value
from ctglip.types import Interval

LEVEL = 0.05


@dataclass(frozen=True)
class ComparedPair:
    """One (organ, abnormality) of both models.

    Attributes:
        first, second: AUROC of each model.
        difference: second minus first, with its paired interval.
        p_value, adjusted: two-sided, before and after Holm's correction; None where they cannot be computed.
        positives, n: organs with the abnormality, and all that have a label.
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
class Comparison:
    """Two models compared.

    Attributes:
        first, second: the runs.
        split, label_source: what was evaluated.
        patients: how many.
        macro_first, macro_second, macro_difference: over the pairs evaluated for both; second minus first.
        p_value: of the macro difference.
        pairs: each pair; ``adjusted`` is Holm's over all of them.
        notes: what the reader must bear in mind.
        problems: what of the label table could not be used.
    """

    first: str
    second: str
    split: str
    label_source: str
    patients: int
    macro_first: Interval
    macro_second: Interval
    macro_difference: Interval
    p_value: float | None
    pairs: tuple[ComparedPair, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def title(self) -> str:
        """The page's heading."""
        return f"{self.second} against {self.first}"

    @property
    def differing(self) -> int:
        """How many pairs differ after Holm's correction."""
        return sum(pair.adjusted is not None and pair.adjusted < LEVEL for pair in self.pairs)

    def headline(self) -> str:
        """The result in two lines."""
        p = "unknown" if self.p_value is None else "< 0.001" if self.p_value < 0.001 else f"{self.p_value:.3f}"
        return (
            f"Macro AUROC {format_interval(self.macro_second)} against {format_interval(self.macro_first)}: difference "
            f"{format_interval(self.macro_difference)}, p {p}, {self.patients} patients of the split {self.split}.\n"
            f"{self.differing} of {len(self.pairs)} pairs differ after Holm's correction."
        )


def render(found: Comparison) -> str:
    """The page as one self-contained HTML document."""
    differing = f"{found.differing} of {len(found.pairs)}", f"adjusted p below {LEVEL:g}"
    facts = Fact("Patients", str(found.patients)), Fact("Pairs that differ", *differing)
    verdict = _verdict(found)
    return render_template("compare.html", page=found, facts=facts, forest=_forest(found), verdict=verdict)


def _verdict(found: Comparison) -> str:
    low, high = found.macro_difference.low, found.macro_difference.high
    if not known(low) or not known(high):
        return ""
    if low <= 0 <= high:
        return "The two cannot be told apart on these patients: the interval of the difference holds 0."
    better = found.second if low > 0 else found.first
    return f"{better} is better on these patients: the interval of the difference does not hold 0."


def _forest(found: Comparison) -> Markup:
    ranked = sorted(found.pairs, key=lambda r: r.difference.value if known(r.difference.value) else 0.0, reverse=True)
    rows = [plots.ForestRow("Macro average", found.macro_difference, "summary", p_value(found.p_value))]
    rows += [
        plots.ForestRow(f"{row.organ} · {row.abnormality}", row.difference, "pair", p_value(row.adjusted))
        for row in ranked
    ]
    title = f"AUROC of {found.second} minus {found.first}"
    axis = plots.differences_axis(rows, (f"{found.first} better", f"{found.second} better"))
    return plots.forest(rows, title, "Difference", "adjusted p", axis=axis) + plots.forest(
        rows, title, "Difference", axis=axis, narrow=True
    )
