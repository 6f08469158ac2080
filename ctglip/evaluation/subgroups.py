"""Is the model as good for everybody? The macro AUROC by age, sex, scanner and slice spacing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctglip.evaluation.bootstrap import Interval, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.labels import Labels, PairLabels
from ctglip.evaluation.zero_shot import question

LEAST = 2
_SPACINGS = ((1.5, "< 1.5 mm"), (3.0, "1.5 to < 3 mm"), (5.0, "3 to < 5 mm"), (float("inf"), "5 mm and more"))


@dataclass(frozen=True)
class Subgroup:
    """One group of patients.

    Attributes:
        by, group: e.g. ``"age"`` and ``"60 to 79"``.
        studies, patients: how many.
        pairs: judged in this group: pairs with at least two positives and two negatives in it.
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


def age_band(row: Mapping[str, Any]) -> str | None:
    """Under 20, 20 to 39, 40 to 59, 60 to 79, 80 and over."""
    age = row.get("age")
    if age is None:
        return None
    bands = ((20, "under 20"), (40, "20 to 39"), (60, "40 to 59"), (80, "60 to 79"))
    return next((name for limit, name in bands if age < limit), "80 and over")


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


def subgroups(context: Context) -> tuple[Subgroup, ...]:
    """One entry for each group of each column that the store's studies fill."""
    table = {row["study_id"]: row for row in context.store.table("studies").iter_rows(named=True)}
    found: list[Subgroup] = []
    for by, group_of in COLUMNS.items():
        groups = np.array([group_of(table[instance.study_id]) or "" for instance in context.judged.instances])
        names = sorted({str(name) for name in groups if name})
        if len(names) > 1:
            found += [_judged(context, by, name, groups == name, groups != "") for name in names]
    return tuple(found)


def _judged(context: Context, by: str, name: str, inside: np.ndarray, known: np.ndarray) -> Subgroup:
    here = _within(context.labels, inside)
    here = {pair: labels for pair, labels in here.items() if labels.both(LEAST)}
    others = {pair: labels for pair, labels in _within(context.labels, known & ~inside).items() if pair in here}
    own, rest = _macro(context, here), _macro(context, others)
    rows = np.flatnonzero(inside)
    return Subgroup(
        by=by,
        group=name,
        studies=len({context.judged.instances[row].study_id for row in rows}),
        patients=len(set(context.judged.patients[rows].tolist())),
        pairs=len(here),
        macro_auroc=interval_of(own),
        rest=interval_of(rest),
        difference=interval_of(own - rest),
    )


def _within(labels: Labels, inside: np.ndarray) -> Labels:
    return {pair: PairLabels(k.rows[inside[k.rows]], k.labels[inside[k.rows]]) for pair, k in labels.items()}


def _macro(context: Context, labels: Labels) -> np.ndarray:
    if not labels:
        return np.full(len(context.weights), np.nan)
    asked = []
    for pair, known in sorted(labels.items()):
        instance = {int(row): number for number, row in enumerate(context.labels[pair].rows)}
        scores = context.scores[pair][[instance[int(row)] for row in known.rows]]
        asked.append(question(scores, known, context.judged.patients))
    return macro_draws(asked, context.weights)[1]
