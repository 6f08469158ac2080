"""Is the model as good for everybody? The macro AUROC by age, sex, scanner and slice spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ctglip.evaluation.bootstrap import Question, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.results import PartResult, format_difference, interval_cells
from ctglip.inference.scoring import Dictionaries, Pair
from ctglip.pages.parts import Table
from ctglip.types import Interval

FEWEST = 2
_AGES = ((20, "under 20"), (40, "20 to 39"), (60, "40 to 59"), (80, "60 to 79"), (float("inf"), "80 and over"))
_SPACINGS = ((1.5, "< 1.5 mm"), (3.0, "1.5 to < 3 mm"), (5.0, "3 to < 5 mm"), (float("inf"), "5 mm and more"))


@dataclass(frozen=True)
class Subgroup:
    """One group of patients.

    Attributes:
        by, group: e.g. ``"age"`` and ``"60 to 79"``.
        studies, patients: how many.
        pairs: with at least two positives and two negatives in this group.
        macro_auroc: over those pairs.
        rest: macro AUROC of the same pairs over everybody else; None where that cannot be computed.
        difference: group minus rest, draw by draw.
    """

    by: str
    group: str
    studies: int
    patients: int
    pairs: int
    macro_auroc: Interval
    rest: Interval
    difference: Interval


@dataclass(frozen=True)
class Subgroups(PartResult):
    """The groups of every division."""

    groups: tuple[Subgroup, ...]

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """A row a group, with its difference from everybody else."""
        if not self.groups:
            return ()
        table = Table(
            "subgroups",
            "Groups of patients",
            "Macro AUROC within each group, and the difference from everybody else over the same pairs.",
            ("Group", "By", "Patients", "Pairs", "Macro AUROC", "95 % interval", "Minus the rest"),
            tuple(
                (g.group, g.by, f"{g.patients:,}", f"{g.pairs:,}", *interval_cells(g.macro_auroc),
                 format_difference(g.difference))
                for g in self.groups
            ),
            words=2,
        )  # fmt: skip
        return (table,)


def age_band(row: Mapping[str, Any]) -> str | None:
    """Under 20, 20 to 39, 40 to 59, 60 to 79, 80 and over."""
    age = row.get("age")
    return None if age is None else next((name for limit, name in _AGES if age < limit), _AGES[-1][1])


def slice_spacing(row: Mapping[str, Any]) -> str | None:
    """Distance of the source's slices (z), in bands; None where the source's grid is unknown."""
    spacing = row.get("source_spacing_mm")
    return None if not spacing else next(name for limit, name in _SPACINGS if spacing[2] < limit)


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "age": age_band,
    "sex": lambda row: row.get("sex"),
    "scanner": lambda row: row.get("scanner"),
    "slice spacing": slice_spacing,
    "view": lambda row: row.get("view"),
}
"""How the patients are divided; a division that gives one group alone is left out."""


def subgroups(context: Context) -> Subgroups:
    """One entry for each group of each column that the store's studies fill."""
    studies = {row["study_id"]: row for row in context.store.table("studies").iter_rows(named=True)}
    found: list[Subgroup] = []
    for by, group_of in COLUMNS.items():
        groups = np.array([group_of(studies[instance.study_id]) or "" for instance in context.split.instances])
        names = sorted({str(name) for name in groups if name})
        if len(names) > 1:
            found += [_subgroup(context, by, name, groups == name, groups != "") for name in names]
    return Subgroups(tuple(found))


def _subgroup(
    context: Context, by: str, name: str, inside: Bool[np.ndarray, " rows"], known: Bool[np.ndarray, " rows"]
) -> Subgroup:
    questions = _questions(context, inside)
    questions = {pair: q for pair, q in questions.items() if FEWEST <= q.labels.sum() <= len(q.labels) - FEWEST}
    others = {pair: q for pair, q in _questions(context, known & ~inside).items() if pair in questions}
    group, rest = _macro(context, questions), _macro(context, others)
    rows = np.flatnonzero(inside)
    return Subgroup(
        by=by,
        group=name,
        studies=len({context.split.instances[row].study_id for row in rows}),
        patients=len(set(context.split.patients[rows].tolist())),
        pairs=len(questions),
        macro_auroc=interval_of(group),
        rest=interval_of(rest),
        difference=interval_of(group - rest),
    )


def _questions(context: Context, inside: Bool[np.ndarray, " rows"]) -> dict[Pair, Question]:
    """Each evaluated pair over some of the organs."""
    found = {}
    for pair, known in sorted(context.labels.items()):
        rows = inside[known.rows]
        patients = context.split.patients[known.rows[rows]]
        found[pair] = Question(known.labels[rows], context.scores[pair][rows], patients)
    return found


def _macro(context: Context, questions: Mapping[Pair, Question]) -> Float[np.ndarray, " draws"]:
    if not questions:
        return np.full(len(context.weights), np.nan)
    return macro_draws(list(questions.values()), context.weights)[1]
