"""The columns of a fine-tuning's label table as targets: what each asks, and which organs answer it.

A column ``organ:name`` asks about that organ, a column ``name`` about the study and is read from all organs that can
have it. Nothing is dropped in silence: what cannot be used is a fault that stops, or a ``UnusedInput`` that is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctglip.errors import CohortError
from ctglip.inference.scoring import Dictionaries
from ctglip.labels import LabelColumn, LabelTable, read_labels
from ctglip.tasks.settings import ALL, ColumnSettings

STUDY = "study"
"""In place of an organ: the whole image."""


@dataclass(frozen=True)
class Target:
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
    def organ_pairs(self) -> tuple[tuple[str, str], ...]:
        """The (organ, abnormality) that texts are made of; none where the column names no abnormality."""
        return tuple((organ, self.abnormality) for organ in self.about or self.organs if self.abnormality)

    @property
    def width(self) -> int:
        """Numbers that a head gives for it."""
        return len(self.classes) or 1


@dataclass(frozen=True)
class UnusedInput:
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
class TargetTable:
    """A label table and what its columns ask.

    Attributes:
        targets: one for each column.
        labels: the table.
    """

    targets: tuple[Target, ...]
    labels: LabelTable


def read_targets(
    path: Path,
    dictionaries: Dictionaries,
    organs: Sequence[str],
    columns: Mapping[str, ColumnSettings] | None = None,
    ignore: Sequence[str] = (),
    global_image: bool = False,
) -> TargetTable:
    """Read a label table (``labels.read_labels``), and lay its columns on organs.

    Args:
        path: the table.
        dictionaries: what names mean.
        organs: the organs that can be read.
        columns: what the dictionaries do not know.
        ignore: columns that are left alone.
        global_image: every column is read from the whole image, whether its name says something or not.

    Raises:
        CohortError: all faults of the table in one message, see ``labels.read_labels``; or of its columns: organs that
            the dictionary or the model does not have, columns that ask the same.
    """
    columns = columns or {}
    explained = {name: settings.classes for name, settings in columns.items()}
    accepted = "any" if global_image else "of_organs"
    table = read_labels(path, dictionaries.organs, dictionaries.abnormalities, explained, ignore, accepted)
    faults: list[str] = []
    targets: list[Target] = []
    for column in table.columns:
        settings = columns.get(column.heading)
        found = (
            _image_target(column, settings, dictionaries)
            if global_image
            else _organ_target(column, settings, dictionaries, organs)
        )
        if isinstance(found, str):
            faults.append(found)
        else:
            targets.append(found)
    faults += _clashes(targets)
    if faults:
        raise CohortError(f"{path}: {'; '.join(faults)}.", code="bad_labels", fix="Correct the table or the config.")
    return TargetTable(tuple(targets), table)


def _organ_target(
    column: LabelColumn, settings: ColumnSettings | None, dictionaries: Dictionaries, organs: Sequence[str]
) -> Target | str:
    """The column as a target, or what is wrong with it."""
    name, abnormality = column.heading, column.abnormality
    if settings is not None and settings.organs:
        named = tuple(organs) if settings.organs == (ALL,) else settings.organs
        unknown = [organ for organ in named if organ not in dictionaries.organs]
        if unknown:
            return f"column {name!r}: there is no organ {unknown[0]!r} in the dictionary"
        abnormality = settings.abnormality
    else:
        abnormality = settings.abnormality if settings is not None and settings.abnormality else abnormality
        if column.organ is not None:
            named = (column.organ,)
        elif abnormality is not None and abnormality in dictionaries.abnormalities:
            named = dictionaries.abnormalities[abnormality].organs
        elif abnormality is None:
            return f"column {name!r} names no abnormality of the dictionaries: give it organs in the config (columns)"
        else:
            named = ()
    if abnormality is not None and abnormality not in dictionaries.abnormalities:
        return f"column {name!r}: there is no abnormality {abnormality!r} in the dictionary"
    readable = tuple(organ for organ in named if organ in organs)
    if not readable:
        listed = ", ".join(named[:4])
        return (
            f"column {name!r} is about {listed}, and the model or the store has none of them: leave it out (ignore), "
            "or say in the config (columns) which organs it is read from, [all] for all that the model has learned"
        )
    return Target(name, readable, abnormality, column.classes)


def _image_target(column: LabelColumn, settings: ColumnSettings | None, dictionaries: Dictionaries) -> Target | str:
    """The column as a target of the whole image: any heading will do, one that means something can start from text."""
    found = _organ_target(column, settings, dictionaries, dictionaries.organs.names)
    if isinstance(found, str):
        explained = settings is not None and (settings.organs or settings.abnormality)
        return found if explained else Target(column.heading, (STUDY,), None, column.classes)
    return Target(
        column.heading, (STUDY,), found.abnormality, column.classes, found.organs if found.abnormality else ()
    )


def _clashes(targets: Sequence[Target]) -> list[str]:
    """Two columns that ask the same of the same organs."""
    first_column: dict[tuple[tuple[str, str], ...], str] = {}
    faults = []
    for target in targets:
        if target.abnormality is not None and not target.classes:
            first = first_column.setdefault(target.organ_pairs, target.column)
            if first != target.column:
                faults.append(f"columns {first!r} and {target.column!r} ask the same")
    return faults
