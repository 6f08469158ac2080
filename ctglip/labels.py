"""The label table, read in one way wherever labels are handed in: evaluation, comparison, fine-tuning, simulated truth.

One row a study; ``study_id``, then a column ``organ:name`` about one organ, or ``name`` about the study. 1 is yes, 0 is
no, an empty cell is not known. Nothing is dropped in silence: a heading that means nothing, two columns that ask the
same and a value that is no label are errors, all of them in one message.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.cohort import SPLITS
from ctglip.errors import CohortError
from ctglip.table_files import ID, read_table
from ctglip.vocabulary.abnormalities import Abnormality, AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary, Side, normalise

RESERVED = (ID, "patient_id", "split")
_MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
_WORDS = {"true": 1.0, "false": 0.0}
_SHOWN = 8
_NEAR, _SLIP = 0.7, 0.8
"""How alike a name must be to be proposed, and to be taken for a slip where names of one's own are allowed."""

Own = Literal["refuse", "of_organs", "any"]


@dataclass(frozen=True)
class LabelColumn:
    """What a column asks.

    Attributes:
        heading: as it is written.
        organ: the organ that it is about; None: the study.
        abnormality: name in the dictionary; None where it has none and something else says what the column means.
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
        patients, splits: of studies, where the table says them.
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
    own: Own = "refuse",
) -> LabelTable:
    """Read a label table (see ``table_files.read_table`` for the kinds of files).

    Args:
        path: ``study_id``, the questions, optional ``patient_id`` and ``split``.
        organs, abnormalities: what headings mean.
        explained: headings that something else explains, each with its classes (empty: yes or no).
        ignore: columns that are left alone.
        own: which names of their own columns may have: none; those with an organ before them (``liver:stage``); any.

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
    columns: list[LabelColumn] = []
    for heading in table.columns:
        if heading in RESERVED or heading in ignore:
            continue
        found = _column(heading, organs, abnormalities, explained, own)
        if isinstance(found, str):
            faults.append(found)
        else:
            columns.append(found)
    values = np.full((table.height, len(columns)), np.nan, dtype=np.float32)
    for number, column in enumerate(columns):
        values[:, number], wrong = _values(table, column)
        faults += wrong
    faults += _clashes(columns)
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CohortError(
            f"{path}: {'; '.join(faults[:_SHOWN])}{more}.",
            code="bad_labels",
            fix="Correct the table, or name columns that are no labels in the config (ignore).",
        )
    if not columns:
        raise CohortError(f"{path} has no label column beside {', '.join(table.columns)}.", code="no_labels")
    patients, splits = (_given(table, name) for name in RESERVED[1:])
    return LabelTable(path, tuple(columns), tuple(table[ID].to_list()), values, patients, splits)


def _id_faults(table: pl.DataFrame) -> list[str]:
    faults = []
    nameless = int(table[ID].null_count())
    if nameless:
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


def _column(
    heading: str,
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    explained: Mapping[str, tuple[str, ...]],
    own: Own,
) -> LabelColumn | str:
    """What a heading asks, or what is wrong with it."""
    found = _meaning(heading, organs, abnormalities)
    if heading in explained:
        known = LabelColumn(heading) if isinstance(found, str) else found
        return LabelColumn(heading, known.organ, known.abnormality, explained[heading])
    if isinstance(found, str) and heading and own != "refuse":
        head, colon, tail = heading.partition(":")
        organ = organs.find(head) if colon else None
        near = _nearest(tail if organ else heading, organs, abnormalities, cutoff=_SLIP)
        if own == "any" and not near:
            return LabelColumn(heading)
        if organ is not None and tail.strip() and not near and abnormalities.find(tail) is None:
            return LabelColumn(heading, organ.name)
    return found


def _meaning(heading: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> LabelColumn | str:
    """The organ and the abnormality of a heading, by name, display name or synonym; or what is wrong with it."""
    if not heading:
        return "a column has no heading"
    head, colon, tail = heading.partition(":")
    if not colon:
        if (known := abnormalities.find(heading)) is not None:
            return LabelColumn(heading, None, known.name)
        if (sided := _sided(heading, organs, abnormalities)) is not None:
            return sided
        what = "names an organ, but no abnormality" if organs.find(heading) else "names no abnormality"
        return f"column {heading!r} {what} of the dictionaries{_did_you_mean(heading, organs, abnormalities)}"
    organ, known = organs.find(head), abnormalities.find(tail)
    if organ is None:
        near = _did_you_mean(head, organs, abnormalities, of_organs=True)
        return f"column {heading!r}: there is no organ {head.strip()!r} in the dictionary{near}"
    if known is None:
        near = _did_you_mean(tail, organs, abnormalities)
        return f"column {heading!r}: there is no abnormality {tail.strip()!r} in the dictionary{near}"
    known = abnormalities[abnormalities.specialise(known.name, organ.name)]
    if organ.name not in known.organs:
        return f"column {heading!r}: {known.name} is no abnormality of {organ.name}, but of {_listed(known)}"
    return LabelColumn(heading, organ.name, known.name)


def _sided(heading: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> LabelColumn | None:
    """ "left renal cyst": the side that stands before the name is that of the abnormality's own organ."""
    first, _, rest = normalise(heading).partition(" ")
    sides: list[Side] = [side for side in get_args(Side) if side == first]
    known = abnormalities.find(rest)
    if not sides or known is None:
        return None
    organ = organs[organs.on_side(known.default_organ, sides[0])]
    return LabelColumn(heading, organ.name, known.name) if organ.side == first else None


def _listed(known: Abnormality) -> str:
    more = f" and {len(known.organs) - 4} more" if len(known.organs) > 4 else ""
    return ", ".join(known.organs[:4]) + more


def _nearest(
    text: str,
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    of_organs: bool = False,
    cutoff: float = _NEAR,
) -> list[str]:
    """Names of the dictionaries that a text may be a slip of, nearest first."""
    entries = list(organs.organs.values() if of_organs else abnormalities.abnormalities.values())
    phrases = {normalise(word): entry.name for entry in reversed(entries)
               for word in (*reversed(entry.synonyms), entry.display, entry.name)}  # fmt: skip
    near = difflib.get_close_matches(normalise(text), list(phrases), n=3, cutoff=cutoff)
    return list(dict.fromkeys(phrases[one] for one in near))


def _did_you_mean(
    text: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary, of_organs: bool = False
) -> str:
    near = _nearest(text, organs, abnormalities, of_organs)
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
    return out, [
        f"column {column.heading!r} holds {text!r} in {len(studies)} studies, first {studies[0]!r}, "
        f"expected {expected}{_hint(text) if not codes else ''}"
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


def _hint(text: str) -> str:
    if text in ("-1", "-1.0"):
        return " (-1, uncertain, is no label: make it empty, 0 or 1 as your protocol says)"
    return ""


def _clashes(columns: Sequence[LabelColumn]) -> list[str]:
    """Columns that ask the same, or whose headings differ in case and blanks alone."""
    faults, asked, written = [], {}, {}
    for column in columns:
        name = normalise(column.heading)
        first = written.setdefault(name, column.heading)
        if column.abnormality is not None and not column.classes:
            first = asked.setdefault((column.organ, column.abnormality), first)
        if first != column.heading:
            faults.append(f"columns {first!r} and {column.heading!r} ask the same")
    return faults


def _given(table: pl.DataFrame, name: str) -> dict[str, str]:
    if name not in table.columns:
        return {}
    return {str(study): str(value) for study, value in table.select(ID, name).drop_nulls().iter_rows()}
