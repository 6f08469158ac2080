"""From a table of their labels to ours, by a reader's YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import polars as pl

from ctglip.cohorts.base import CohortTables, ReaderData

StudyLabels = dict[str, dict[str, int | None]]
_MISSING = ("", "nan", "na", "none", "null")


def labels_of(
    table: pl.DataFrame, key: str, data: ReaderData, tables: CohortTables, other: Collection[str] = ()
) -> StudyLabels:
    """Our labels by the table's key. What has none of ours is listed in ``tables.lost``, odd values in its facts.

    Args:
        table: a row a study, or several; all text.
        key: the column of ids; rows of one id are joined, 1 where any says so.
        data: what their columns mean.
        tables: where to say what is lost.
        other: columns that hold no labels.
    """
    known = {column for label in data.labels for column in data.columns_of(label)}
    for column in table.columns:
        if column not in known and column != key and column not in other:
            tables.lost.setdefault(column, data.lost.get(column, "a column that is not known here"))
    absent = sorted(known - set(table.columns))
    if absent:
        tables.facts.append(f"The label table has no column {', '.join(map(repr, absent[:5]))}: unknown there.")
    columns = {label: [c for c in data.columns_of(label) if c in table.columns] for label in data.labels}
    columns = {label: theirs for label, theirs in columns.items() if theirs}
    _note_odd_values(table, {c for theirs in columns.values() for c in theirs}, data, tables)
    values = {k: v for k, v in data.label_values.items() if v is not None}
    ours = [
        pl.max_horizontal(pl.col(c).replace_strict(values, default=None, return_dtype=pl.Int8) for c in theirs).alias(
            label
        )
        for label, theirs in columns.items()
    ]
    joined = table.filter(pl.col(key).is_not_null()).select(pl.col(key).alias("\0key"), *ours)
    rows = joined.group_by("\0key", maintain_order=True).agg(pl.all().max()).to_dicts()
    return {row.pop("\0key"): row for row in rows}


def _note_odd_values(table: pl.DataFrame, columns: Collection[str], data: ReaderData, tables: CohortTables) -> None:
    odd: Counter[str] = Counter()
    for name in columns:
        for value, count in table[name].drop_nulls().value_counts().iter_rows():
            if value not in data.label_values and value.lower() not in _MISSING:
                odd[value] += count
    if odd:
        listed = ", ".join(f"{value!r} ({count} times)" for value, count in odd.most_common(5))
        tables.facts.append(f"Values of the label table that are no label stay unknown: {listed}.")
