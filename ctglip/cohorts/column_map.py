"""Data sets whose tables need no code: a YAML map (``configs/cohorts``) says, column by column, what ours hold.

Nothing is made up: what a public table does not say stays empty.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ctglip.cohort import OPTIONAL, REQUIRED
from ctglip.cohorts.base import Card, CohortCells, CohortReader, CohortTables, Localization
from ctglip.cohorts.disk import Disk
from ctglip.config import Settings, load_settings
from ctglip.cxr.views import view_of
from ctglip.errors import CohortError
from ctglip.files import check_id
from ctglip.types import Region
from ctglip.vocabulary.abnormalities import load_abnormalities

_SLOT = re.compile(r"\{([^{}:]+)(?::(\d+))?\}")
_LISTED = 12


class Cell(Settings):
    """How one of our cells is made.

    Attributes:
        text: with ``{Their column}`` filled in, ``{Their column:2}`` its first 2 characters; empty when one is empty.
        pattern: regular expression that the filled text must hold, else the cell is empty.
        to: what the cell holds then, ``{1}`` being the pattern's first group.
        values: what single values become; a value that is not named stays.
        lenient: an empty column leaves a gap, not an empty cell.
    """

    text: str
    pattern: str | None = None
    to: str = "{0}"
    values: dict[str, str | None] = Field(default_factory=dict)
    lenient: bool = False


class Join(Settings):
    """A second table, looked up row by row.

    Attributes:
        table: its file; where it is not there its columns stay empty.
        on: text over the first table -> column of this one.
        header: its column names, where the file has none.
        add: further columns with one value for all its rows.
    """

    table: str
    on: dict[str, str]
    header: tuple[str, ...] = ()
    separator: str | None = None
    add: dict[str, str] = Field(default_factory=dict)


class ListLabels(Settings):
    """Labels written as one list a row.

    Attributes:
        column: where the list is.
        separator: between its items; None for a Python list such as ``['a', 'b']``.
        names: our label -> their words for it. What is not listed is absent (0).
    """

    column: str
    separator: str | None = None
    names: dict[str, tuple[str, ...]]


class BoxColumns(Settings):
    """Boxes in columns, several rows a radiograph: left, top, width, height in pixels."""

    region: str
    x: str
    y: str
    width: str
    height: str


class CohortMap(Settings):
    """How a public table is read.

    Attributes:
        card: what the data set is.
        expects: tables that it comes with beside one of ``tables``, each by its names.
        tables: file -> split of its rows, or None; a file that is not there is passed over.
        header, separator: for files without a header; what is between cells, where it is not found by itself.
        joins: further files.
        where: column -> values; other rows are left out.
        columns: our column -> text with their columns in braces, or a ``Cell``.
        labels: our label -> their column, with ``label_values`` saying what its values mean.
        lists: labels written as one list.
        lost: their labels that have none of ours -> why.
        boxes: boxes written into the rows.
    """

    kind: Literal["cohort_map"] = "cohort_map"
    card: Card
    expects: tuple[tuple[str, ...], ...] = ()
    tables: dict[str, str | None]
    header: tuple[str, ...] = ()
    separator: str | None = None
    joins: tuple[Join, ...] = ()
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    columns: dict[str, str | Cell]
    labels: dict[str, str | Cell] = Field(default_factory=dict)
    label_values: dict[str, int | None] = Field(default_factory=lambda: {"1": 1, "1.0": 1, "0": 0, "0.0": 0})
    lists: tuple[ListLabels, ...] = ()
    lost: dict[str, str] = Field(default_factory=dict)
    boxes: BoxColumns | None = None


class ColumnMapReader(CohortReader):
    """Reads a data set by its column map.

    Args:
        file: the map, or the name of a shipped one such as ``cohorts/openi``.
    """

    def __init__(self, file: str | Path) -> None:
        self.name = Path(file).stem
        self.map = load_settings(CohortMap, file)

    @property
    def card(self) -> Card:
        """What the data set is."""
        return self.map.card

    def expects(self, settings: Any) -> tuple[tuple[str, ...], ...]:
        """The tables that the map names as those of the set."""
        del settings
        return self.map.expects

    def read(self, disk: Disk, settings: Any) -> CohortTables:
        """The data set in our form. Radiographs with several rows (boxes) become one study: its labels are 1 where any
        row says so.

        Raises:
            CohortError: ``no_table``, ``bad_table``, ``bad_columns`` (a map that names unknown columns) or ``bad_id``.
        """
        del settings
        return _Reading(disk, self.map).run()


class _Reading:
    """One reading of one data set."""

    def __init__(self, disk: Disk, mapping: CohortMap) -> None:
        self.disk, self.map = disk, mapping
        self.found = CohortTables(lost=dict(mapping.lost))
        self.unnamed: Counter[str] = Counter()
        self.columns: set[str] = set()

    def run(self) -> CohortTables:
        """Every table's rows, as the map has them."""
        unknown = sorted(set(self.map.columns) - {*REQUIRED, *OPTIONAL})
        missing = sorted({*REQUIRED} - set(self.map.columns))
        if unknown or missing:
            raise CohortError(f"The map has unknown columns {unknown} and lacks {missing}.", code="bad_columns")
        there = [(name, split) for name, split in self.map.tables.items() if self.disk.has(name)]
        if not there:
            names = ", ".join(self.map.tables)
            raise CohortError(
                f"{self.disk.root} has none of the tables {names}.", code="no_table", fix="Check the folder."
            )
        for name, _ in there:
            self._check_columns(name)
        for name, split in there:
            for theirs in self._joined(name):
                if all(theirs.get(column) in values for column, values in self.map.where.items()):
                    self._take(theirs, split)
        self.found.lost |= {
            item: f"in no label's list ({count} rows)" for item, count in self.unnamed.most_common(_LISTED)
        }
        if len(self.unnamed) > _LISTED:
            self.found.facts.append(f"{len(self.unnamed)} words of the label lists mean none of our labels.")
        return self.found

    def _check_columns(self, name: str) -> None:
        """The ids and the image are made of columns that the table has."""
        names = {column for cell in map(self.map.columns.get, REQUIRED) for column in _slots(cell)}
        self.disk.table(name, columns=sorted(names), header=self.map.header, separator=self.map.separator)

    def _joined(self, name: str) -> list[CohortCells]:
        first = self.disk.table(name, header=self.map.header, separator=self.map.separator)
        self.columns = {*first.columns}
        rows = first.to_dicts()
        for join in self.map.joins:
            if not self.disk.has(join.table):
                continue
            others: dict[tuple[str | None, ...], CohortCells] = {}
            keys = () if join.header else tuple(join.on.values())
            table = self.disk.table(join.table, columns=keys, header=join.header, separator=join.separator)
            for other in table.to_dicts():
                others.setdefault(tuple(other.get(column) for column in join.on.values()), other | dict(join.add))
            for row in rows:
                other = others.get(tuple(_filled(text, row, {}, False) for text in join.on), {})
                row |= {column: value for column, value in other.items() if column not in row}
            self.columns |= {*table.columns}
        self._check_labels(name)
        return rows

    def _check_labels(self, name: str) -> None:
        """Labels are made of columns that one of the tables has; the table that would bring them may be lacking."""
        wanted = {*(f"{{{cell}}}" if isinstance(cell, str) else cell.text for cell in self.map.labels.values()),
                  *(f"{{{entry.column}}}" for entry in self.map.lists)}  # fmt: skip
        lacking = sorted({column for text in wanted for column in _slots(text)} - self.columns)
        if lacking and not self.disk.first_lacking(self.map.expects):
            raise CohortError(
                f"{self.disk.root / name} and the tables beside it have no column {', '.join(map(repr, lacking))}; "
                f"they have {', '.join(sorted(self.columns))}.",
                code="missing_column",
                fix="Is it the table of another version?",
            )

    def _take(self, theirs: CohortCells, split: str | None) -> None:
        ours = {name: _cell(cell, theirs) for name, cell in self.map.columns.items()}
        study_id = ours["study_id"]
        if not study_id or not ours["image"]:
            return
        check_id(study_id)
        ours["image"] = self._image(str(ours["image"]))
        if "view" in ours:
            ours["view"] = view_of(ours["view"])
        if split is not None and not ours.get("split"):
            ours["split"] = split
        labels = self._labels(theirs)
        if study_id not in self.found.labels:
            self.found.rows.append(ours)
            self.found.labels[study_id] = labels
        else:
            self.found.labels[study_id] = stronger(self.found.labels[study_id], labels)
        if self.map.boxes is not None and (box := _box(theirs, self.map.boxes)) is not None:
            self.found.regions.setdefault(study_id, []).append(box)
            edges = (box.row0, box.row1, box.column0, box.column1)
            known = box.name if box.name in load_abnormalities() else None
            self.found.localization.append(Localization(study_id, box.name, known, edges))

    def _image(self, name: str) -> str:
        """The path itself; with ``**/`` in it, wherever below the folder the file lies."""
        if "**/" not in name:
            return name
        top, file = name.split("**/", 1)
        return min((path for path in self.disk.paths(file) if path.startswith(top)), default=top + file)

    def _labels(self, theirs: CohortCells) -> dict[str, int | None]:
        labels: dict[str, int | None] = {}
        for name, cell in self.map.labels.items():
            value = _cell(cell if isinstance(cell, Cell) else f"{{{cell}}}", theirs)
            labels[name] = self.map.label_values.get(value or "")
        for entry in self.map.lists:
            text = theirs.get(entry.column)
            items = None if text is None else _items(text, entry.separator)
            for name, words in entry.names.items():
                labels[name] = None if items is None else int(any(word.lower() in items for word in words))
            if items:
                named = {word.lower() for words in (*entry.names.values(), self.map.lost) for word in words}
                self.unnamed.update(items - named)
        return labels


def stronger(first: Mapping[str, int | None], second: Mapping[str, int | None]) -> dict[str, int | None]:
    """Labels of one study from two rows: 1 where either says so, unknown where neither knows."""
    found: dict[str, int | None] = {}
    for name in {**first, **second}:
        known = [value for value in (first.get(name), second.get(name)) if value is not None]
        found[name] = max(known) if known else None
    return found


def _slots(cell: str | Cell | None) -> list[str]:
    text = cell.text if isinstance(cell, Cell) else cell or ""
    return [match.group(1) for match in _SLOT.finditer(text)]


def _cell(cell: str | Cell, theirs: Mapping[str, str | None]) -> str | None:
    if isinstance(cell, str):
        return _filled(cell, theirs, {}, False)
    text = _filled(cell.text, theirs, {}, cell.lenient)
    if text is not None and cell.pattern is not None:
        match = re.search(cell.pattern, text)
        groups = {} if match is None else {str(n): g for n, g in enumerate((match.group(), *match.groups()))}
        text = None if match is None else _filled(cell.to, {}, groups, False)
    return cell.values.get(text or "", text)


def _filled(text: str, theirs: Mapping[str, str | None], groups: Mapping[str, str | None], lenient: bool) -> str | None:
    """The text with its slots filled; None when one is empty and that is not allowed."""
    parts: list[str] = []
    at = 0
    for match in _SLOT.finditer(text):
        name, length = match.group(1), match.group(2)
        value = groups.get(name) if groups else theirs.get(name)
        if not value and not lenient:
            return None
        parts += [text[at : match.start()], (value or "")[: int(length)] if length else (value or "")]
        at = match.end()
    return ("".join(parts) + text[at:]).strip() or None


def _items(text: str, separator: str | None) -> set[str] | None:
    if separator is not None:
        return {item.strip().lower() for item in text.split(separator)}
    try:
        return {str(item).strip().lower() for item in ast.literal_eval(text)}
    except (ValueError, SyntaxError, TypeError):
        return None


def _box(theirs: CohortCells, boxes: BoxColumns) -> Region | None:
    try:
        x, y, width, height = (
            float(theirs.get(name) or "nan") for name in (boxes.x, boxes.y, boxes.width, boxes.height)
        )
    except ValueError:
        return None
    return pixel_box(boxes.region, x, y, x + width, y + height)


def pixel_box(name: str, left: float, top: float, right: float, bottom: float) -> Region | None:
    """A box of whole pixels around edges; None where they are not finite or enclose nothing."""
    if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
        return None
    return Region(name, math.floor(top), math.ceil(bottom), math.floor(left), math.ceil(right))
