"""The label table, read in one way wherever labels are given: evaluation, comparison, fine-tuning, simulated truth.

One row a study; ``study_id``, then a column ``organ:name`` about one organ, or ``name`` about the study. 1 is yes, 0 is
no, an empty cell is not known. Nothing is dropped unnamed: a heading that means nothing, two columns that ask the
same and a value that is no label are errors, all of them in one message.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.cohort import SPLITS
from ctglip.errors import CohortError
from ctglip.table_files import ID, read_table
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary, Side, normalise

RESERVED = (ID, "patient_id", "split")
_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
_WORDS = {"true": 1.0, "false": 0.0}
_LISTED = 8
_NEAR, _SLIP = 0.7, 0.8
"""How alike a name must be to be proposed, and to be taken for a slip where custom names are allowed."""

CustomNames = Literal["refuse", "of_organs", "any"]


@dataclass(frozen=True)
class LabelColumn:
    """What a column asks.

    Attributes:
        heading: as it is written.
        organ: the organ that it is about; None: the study.
        abnormality: name in the dictionary; None where it has none and something else explains the column.
        classes: the values of a multi-class column, in order; empty: yes or no.
    """

    heading: str
    organ: str | None = None
    abnormality: str | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelTable:
    """A label table that was understood.

    Attributes:
        path: its file.
        columns: what is asked.
        study_ids: the rows.
        values: 0 or 1, the number of the class, or NaN where it is not known.
        patients, splits: of studies, where the table has them.
    """

    path: Path
    columns: tuple[LabelColumn, ...]
    study_ids: tuple[str, ...]
    values: Float[np.ndarray, "studies columns"]
    patients: Mapping[str, str]
    splits: Mapping[str, str]

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row of each study."""
        return {study_id: row for row, study_id in enumerate(self.study_ids)}

    def of_studies(self, studies: Sequence[str]) -> Float[np.ndarray, "n columns"]:
        """The values of some studies; NaN for studies without a row."""
        found = np.full((len(studies), len(self.columns)), np.nan)
        for position, study_id in enumerate(studies):
            if (row := self.rows.get(study_id)) is not None:
                found[position] = self.values[row]
        return found


def read_labels(
    path: Path,
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    explained: Mapping[str, tuple[str, ...]] | None = None,
    ignore: Collection[str] = (),
    custom: CustomNames = "refuse",
) -> LabelTable:
    """Read a label table (see ``table_files.read_table`` for the kinds of files).

    Args:
        path: ``study_id``, the questions, optional ``patient_id`` and ``split``.
        organs, abnormalities: what headings mean.
        explained: headings that something else explains, each with its classes (empty: yes or no).
        ignore: columns that are left alone.
        custom: which names that are not in the dictionaries columns may have: none; those with an organ before them
            (``liver:stage``); any.

    Raises:
        CohortError: ``missing_column`` without ids, ``no_labels`` without a question, ``bad_labels`` with all faults:
            ids, headings, values, columns that ask the same.
    """
    explained, table = explained or {}, read_table(path)
    if ID not in table.columns:
        raise CohortError(f"{path} has no column {ID!r}; it has {', '.join(table.columns)}.", code="missing_column")
    faults = _id_faults(table)
    faults += [
        f"the config names the column {name!r}, which is not there"
        for name in (*explained, *ignore)
        if name not in table.columns
    ]
    headings = _Headings(organs, abnormalities, explained, custom)
    read = [headings.column(heading) for heading in table.columns if heading not in {*RESERVED, *ignore}]
    columns = [column for column in read if isinstance(column, LabelColumn)]
    faults += [fault for fault in read if not isinstance(fault, LabelColumn)]
    values = np.full((table.height, len(columns)), np.nan, dtype=np.float32)
    for number, column in enumerate(columns):
        values[:, number], wrong = _values(table, column)
        faults += wrong
    faults += _repeated(columns)
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise CohortError(
            f"{path}: {'; '.join(faults[:_LISTED])}{more}.",
            code="bad_labels",
            fix="Correct the table, or name columns that are no labels in the config (ignore).",
        )
    if not columns:
        raise CohortError(f"{path} has no label column besides {', '.join(table.columns)}.", code="no_labels")
    patients, splits = (
        {str(study): str(value) for study, value in table.select(ID, name).drop_nulls().iter_rows()}
        if name in table.columns
        else {}
        for name in RESERVED[1:]
    )
    return LabelTable(path, tuple(columns), tuple(table[ID].to_list()), values, patients, splits)


def _id_faults(table: pl.DataFrame) -> list[str]:
    faults = []
    if nameless := table[ID].null_count():
        faults.append(f"{nameless} rows have no {ID}")
    counts = Counter(name for name in table[ID].to_list() if name)
    faults += [f"{ID} {name!r} stands in {count} rows" for name, count in counts.items() if count > 1]
    if "split" in table.columns:
        wrong = sorted({str(name) for name in table["split"].drop_nulls().to_list() if name not in SPLITS})
        faults += [f"split {name!r} is none of {', '.join(SPLITS)}" for name in wrong]
    if {"split", "patient_id"} <= set(table.columns):
        rows = table.select("patient_id", "split").drop_nulls().unique()
        counts = Counter(rows["patient_id"].to_list())
        faults += [f"patient {name!r} is in {count} splits" for name, count in sorted(counts.items()) if count > 1]
    return faults


@dataclass(frozen=True)
class _Headings:
    """What headings mean; arguments as in ``read_labels``."""

    organs: OrganDictionary
    abnormalities: AbnormalityDictionary
    explained: Mapping[str, tuple[str, ...]]
    custom: CustomNames

    def column(self, heading: str) -> LabelColumn | str:
        """What a heading asks, or what is wrong with it."""
        meaning = self._meaning(heading)
        if heading in self.explained:
            known = LabelColumn(heading) if isinstance(meaning, str) else meaning
            return LabelColumn(heading, known.organ, known.abnormality, self.explained[heading])
        if isinstance(meaning, LabelColumn) or not heading or self.custom == "refuse":
            return meaning
        head, colon, tail = heading.partition(":")
        organ = self.organs.find(head) if colon else None
        slip = self._nearest(tail if organ else heading, cutoff=_SLIP)
        if self.custom == "any" and not slip:
            return LabelColumn(heading)
        if organ is not None and tail.strip() and not slip and self.abnormalities.find(tail) is None:
            return LabelColumn(heading, organ.name)
        return meaning

    def _meaning(self, heading: str) -> LabelColumn | str:
        """The organ and the abnormality of a heading, by name, display name or synonym; or what is wrong with it."""
        if not heading:
            return "a column has no heading"
        head, colon, tail = heading.partition(":")
        if not colon:
            if (known := self.abnormalities.find(heading)) is not None:
                return LabelColumn(heading, None, known.name)
            if (column := self._with_side(heading)) is not None:
                return column
            what = "names an organ, but no abnormality" if self.organs.find(heading) else "names no abnormality"
            return f"column {heading!r} {what} of the dictionaries{self._suggestion(heading)}"
        organ, known = self.organs.find(head), self.abnormalities.find(tail)
        if organ is None:
            near = self._suggestion(head, of_organs=True)
            return f"column {heading!r}: there is no organ {head.strip()!r} in the dictionary{near}"
        if known is None:
            near = self._suggestion(tail)
            return f"column {heading!r}: there is no abnormality {tail.strip()!r} in the dictionary{near}"
        known = self.abnormalities[self.abnormalities.specialise(known.name, organ.name)]
        if organ.name not in known.organs:
            more = f" and {len(known.organs) - 4} more" if len(known.organs) > 4 else ""
            names = ", ".join(known.organs[:4]) + more
            return f"column {heading!r}: {known.name} is no abnormality of {organ.name}, but of {names}"
        return LabelColumn(heading, organ.name, known.name)

    def _with_side(self, heading: str) -> LabelColumn | None:
        """ "left renal cyst": the side that stands before the name is that of the abnormality's own organ."""
        first, _, rest = normalise(heading).partition(" ")
        known = self.abnormalities.find(rest)
        if first not in get_args(Side) or known is None:
            return None
        organ = self.organs[self.organs.on_side(known.default_organ, cast(Side, first))]
        return LabelColumn(heading, organ.name, known.name) if organ.side == first else None

    def _nearest(self, text: str, of_organs: bool = False, cutoff: float = _NEAR) -> list[str]:
        """Names of the dictionaries that a text may be a slip of, nearest first."""
        entries = list(self.organs.organs.values() if of_organs else self.abnormalities.abnormalities.values())
        phrases = {normalise(word): entry.name for entry in reversed(entries)
                   for word in (*reversed(entry.synonyms), entry.display, entry.name)}  # fmt: skip
        near = difflib.get_close_matches(normalise(text), list(phrases), n=3, cutoff=cutoff)
        return list(dict.fromkeys(phrases[one] for one in near))

    def _suggestion(self, text: str, of_organs: bool = False) -> str:
        near = self._nearest(text, of_organs)
        return f" (Did you mean {', '.join(near)}?)" if near else ""


def _values(table: pl.DataFrame, column: LabelColumn) -> tuple[Float[np.ndarray, " s"], list[str]]:
    """The column as numbers, and what in it is no label."""
    codes = {name: float(number) for number, name in enumerate(column.classes)}
    out = np.full(table.height, np.nan, dtype=np.float32)
    wrong: dict[str, list[str]] = {}
    for row, (study_id, text) in enumerate(table.select(ID, column.heading).iter_rows()):
        if text is None or (text.lower() in _MISSING and text not in codes):
            continue
        value = codes.get(text) if codes else _binary(text)
        if value is None:
            wrong.setdefault(text, []).append(str(study_id))
        else:
            out[row] = value
    expected = ", ".join(column.classes) or "0, 1 or empty"
    hint = "" if codes else " (-1, uncertain, is no label: make it empty, 0 or 1 as your protocol has it)"
    return out, [
        f"column {column.heading!r} holds {text!r} in {len(studies)} studies, first {studies[0]!r}, "
        f"expected {expected}{hint if text in ('-1', '-1.0') else ''}"
        for text, studies in wrong.items()
    ]


def _binary(text: str) -> float | None:
    """0 or 1, with decimals or as true and false; None for anything else."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = float(text.replace(",", ".", 1))
    except ValueError:
        return None
    return value if value in (0.0, 1.0) else None


def _repeated(columns: Sequence[LabelColumn]) -> list[str]:
    """Columns that ask the same, or whose headings differ in case and blanks alone."""
    faults, by_question, by_heading = [], {}, {}
    for column in columns:
        first = by_heading.setdefault(normalise(column.heading), column.heading)
        if column.abnormality is not None and not column.classes:
            first = by_question.setdefault((column.organ, column.abnormality), first)
        if first != column.heading:
            faults.append(f"columns {first!r} and {column.heading!r} ask the same")
    return faults
