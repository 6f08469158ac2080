"""The label table of a fine-tuning: what each column asks, which organs answer it, and what is known of each study.

One row a study; a column ``organ:name`` asks about that organ, a column ``name`` about the study and is read from all
organs that can have it. Nothing is dropped in silence: what cannot be used is a fault that stops, or a ``Problem`` that
is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.cohort import SPLITS, read_table
from ctglip.errors import CohortError, VocabularyError
from ctglip.finetune.settings import ALL, ColumnSettings
from ctglip.inference.questions import parse_question
from ctglip.inference.scoring import Dictionaries

STUDY = "study"
"""In place of an organ: the whole image."""
RESERVED = ("study_id", "patient_id", "split")
_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
_MISSING = frozenset({"nan", "na", "null", "none"})
_SHOWN = 8


@dataclass(frozen=True)
class Task:
    """One column.

    Attributes:
        column: its heading.
        organs: the organs that answer it; one: the label is that organ's. ``STUDY``: the whole image answers.
        abnormality: name in the dictionary, where the column has one.
        classes: of a multi-class column; empty: the answer is yes or no.
        about: the organs that it asks about, where the whole image answers.
    """

    column: str
    organs: tuple[str, ...]
    abnormality: str | None = None
    classes: tuple[str, ...] = ()
    about: tuple[str, ...] = ()

    @property
    def asks(self) -> tuple[tuple[str, str], ...]:
        """The (organ, abnormality) that texts are made of; none where the column names no abnormality."""
        return tuple((organ, self.abnormality) for organ in self.about or self.organs if self.abnormality)

    @property
    def width(self) -> int:
        """Numbers that a head gives for it."""
        return len(self.classes) or 1


@dataclass(frozen=True)
class Problem:
    """Something of the input that could not be used, and what became of it.

    Attributes:
        code: ``unknown_study``, ``no_labels``, ``one_class``, ``no_organ``, ``unreadable``, ``few_labels``.
        subject: a study or a column.
        message: one sentence.
    """

    code: str
    subject: str
    message: str


@dataclass(frozen=True)
class LabelTable:
    """A label table that was understood.

    Attributes:
        tasks: the columns.
        study_ids: the rows.
        values: 0 or 1, the number of the class, or NaN where it is not known.
        patients, splits: of studies, where the table says them.
    """

    tasks: tuple[Task, ...]
    study_ids: tuple[str, ...]
    values: Float[np.ndarray, "s t"]
    patients: Mapping[str, str]
    splits: Mapping[str, str]


def read_labels(
    path: Path,
    dictionaries: Dictionaries,
    organs: Sequence[str],
    columns: Mapping[str, ColumnSettings] | None = None,
    ignore: Sequence[str] = (),
    whole: bool = False,
) -> LabelTable:
    """Read and understand a label table (CSV or parquet).

    Args:
        path: ``study_id``, then one column for each question; optional ``patient_id`` and ``split``.
        dictionaries: what names mean.
        organs: the organs that can be read.
        columns: what the dictionaries do not know.
        ignore: columns that are left alone.
        whole: every column is read from the whole image, whether its name says something or not.

    Raises:
        CohortError: all faults of the table in one message: ids, columns that mean nothing, values that are no answer.
    """
    columns = columns or {}
    table = read_table(path)
    if "study_id" not in table.columns:
        raise CohortError(f"{path} has no column 'study_id'; it has {', '.join(table.columns)}.", code="missing_column")
    faults = _id_faults(table)
    faults += [f"the config names the column {name!r}, which is not there" for name in (*columns, *ignore)
               if name not in table.columns]  # fmt: skip
    tasks: list[Task] = []
    for name in table.columns:
        if name not in RESERVED and name not in ignore:
            said = columns.get(name)
            found = _whole_task(name, said, dictionaries) if whole else _task(name, said, dictionaries, organs)
            if isinstance(found, str):
                faults.append(found)
            else:
                tasks.append(found)
    values = np.full((table.height, len(tasks)), np.nan, dtype=np.float32)
    for number, task in enumerate(tasks):
        values[:, number], wrong = _answers(table, task)
        faults += wrong
    faults += _clashes(tasks)
    _refuse(path, faults)
    if not tasks:
        raise CohortError(f"{path} has no label column beside {', '.join(table.columns)}.", code="no_labels")
    given = {name: _given(table, name) for name in ("patient_id", "split")}
    return LabelTable(tuple(tasks), tuple(table["study_id"].to_list()), values, given["patient_id"], given["split"])


def _id_faults(table: pl.DataFrame) -> list[str]:
    faults = []
    nameless = int(table["study_id"].null_count())
    if nameless:
        faults.append(f"{nameless} rows have no study_id")
    counts = Counter(name for name in table["study_id"].to_list() if name)
    faults += [f"study_id {name!r} stands in {count} rows" for name, count in counts.items() if count > 1]
    if "split" in table.columns:
        wrong = sorted({str(name) for name in table["split"].drop_nulls().to_list() if name not in SPLITS})
        faults += [f"split {name!r} is none of {', '.join(SPLITS)}" for name in wrong]
    if {"split", "patient_id"} <= set(table.columns):
        rows = table.select("patient_id", "split").drop_nulls().unique()
        counts = Counter(rows["patient_id"].to_list())
        faults += [f"patient {name!r} is in {count} splits" for name, count in sorted(counts.items()) if count > 1]
    return faults


def _task(name: str, said: ColumnSettings | None, dictionaries: Dictionaries, organs: Sequence[str]) -> Task | str:
    """The column as a task, or what is wrong with it."""
    if said is not None and said.organs:
        wanted = tuple(organs) if said.organs == (ALL,) else said.organs
        unknown = [organ for organ in wanted if organ not in dictionaries.organs]
        if unknown:
            return f"column {name!r}: there is no organ {unknown[0]!r} in the dictionary"
        abnormality = said.abnormality
    else:
        try:
            wanted, abnormality = _meaning(name, dictionaries, organs)
        except VocabularyError as error:
            fix = "give it organs in the config (columns), or ignore it"
            return f"column {name!r} names no organ and no abnormality of the dictionaries ({error.fix} Or {fix}.)"
        abnormality = said.abnormality if said is not None and said.abnormality else abnormality
    if abnormality is not None and abnormality not in dictionaries.abnormalities:
        return f"column {name!r}: there is no abnormality {abnormality!r} in the dictionary"
    readable = tuple(organ for organ in wanted if organ in organs)
    if not readable:
        shown = ", ".join(wanted[:4])
        return f"column {name!r} is about {shown}, and the model or the store has none of them"
    return Task(name, readable, abnormality, said.classes if said is not None else ())


def _whole_task(name: str, said: ColumnSettings | None, dictionaries: Dictionaries) -> Task | str:
    """The column as a task of the whole image: any heading will do, one that means something can start from text."""
    found = _task(name, said, dictionaries, dictionaries.organs.names)
    classes = said.classes if said is not None else ()
    if isinstance(found, str):
        return found if said is not None and (said.organs or said.abnormality) else Task(name, (STUDY,), None, classes)
    return Task(name, (STUDY,), found.abnormality, classes, found.organs if found.abnormality else ())


def _meaning(name: str, dictionaries: Dictionaries, organs: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Organs and abnormality of a heading.

    Raises:
        VocabularyError: it says nothing.
    """
    head, colon, tail = name.partition(":")
    organ = dictionaries.organs.find(head) if colon else None
    if organ is not None:
        known = dictionaries.abnormalities.find(tail)
        return (organ.name,), dictionaries.abnormalities.specialise(known.name, organ.name) if known else None
    known = dictionaries.abnormalities.find(name)
    if known is not None:
        return known.organs, known.name
    question = parse_question(name, dictionaries, organs)
    if question.abnormality is None:
        raise VocabularyError(f"{name!r} names no abnormality.", fix=f"Write {question.organs[0]}:NAME.")
    return question.organs, question.abnormality


def _answers(table: pl.DataFrame, task: Task) -> tuple[Float[np.ndarray, " s"], list[str]]:
    """The column as numbers, and what in it is no answer."""
    codes = {name: float(number) for number, name in enumerate(task.classes)} if task.classes else _BINARY
    out = np.full(table.height, np.nan, dtype=np.float32)
    wrong: dict[str, list[str]] = {}
    for row, (study_id, text) in enumerate(table.select("study_id", task.column).iter_rows()):
        if text is None or text.lower() in _MISSING:
            continue
        if text in codes:
            out[row] = codes[text]
        else:
            wrong.setdefault(text, []).append(str(study_id))
    expected = ", ".join(task.classes) if task.classes else "0, 1 or empty (or name its classes in the config)"
    faults = [
        f"column {task.column!r} holds {text!r} in {len(studies)} studies, first {studies[0]!r}, expected {expected}"
        for text, studies in wrong.items()
    ]
    return out, faults


def _clashes(tasks: Sequence[Task]) -> list[str]:
    """Two columns that ask the same of the same organs."""
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    faults = []
    for task in tasks:
        if task.abnormality is not None and not task.classes:
            first = seen.setdefault(task.asks, task.column)
            if first != task.column:
                faults.append(f"columns {first!r} and {task.column!r} ask the same")
    return faults


def _refuse(path: Path, faults: Sequence[str]) -> None:
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CohortError(
            f"{path}: {'; '.join(faults[:_SHOWN])}{more}.", code="bad_labels", fix="Correct the table or the config."
        )


def _given(table: pl.DataFrame, name: str) -> dict[str, str]:
    if name not in table.columns:
        return {}
    return {str(study): str(value) for study, value in table.select("study_id", name).drop_nulls().iter_rows()}
