"""Public radiograph tables to our cohort and label tables: each is a small YAML map (``configs/cohorts``).

A map names the table's files and says, column by column, what ours hold. Nothing is made up: what a public table does
not say stays empty.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from ctglip.cohort import OPTIONAL, REQUIRED
from ctglip.config import Settings
from ctglip.cxr.views import view_of
from ctglip.errors import CohortError
from ctglip.files import atomic_path, check_id
from ctglip.types import Region

PublicRow = dict[str, str | None]
_SLOT = re.compile(r"\{([^{}:]+)(?::(\d+))?\}")


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
    separator: str = ","
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
        source: where it is to be had, and under which terms.
        tables: file -> split of its rows, or None; a file that is not there is passed over.
        header, separator: for files without a header, or not separated by commas.
        joins: further files.
        where: column -> values; other rows are left out.
        columns: our column -> text with their columns in braces, or a ``Cell``.
        labels: our label -> their column, with ``label_values`` saying what its values mean.
        lists: labels written as one list.
        boxes: boxes written into the rows.
    """

    kind: Literal["cohort_map"] = "cohort_map"
    source: str
    tables: dict[str, str | None]
    header: tuple[str, ...] = ()
    separator: str = ","
    joins: tuple[Join, ...] = ()
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    columns: dict[str, str | Cell]
    labels: dict[str, str | Cell] = Field(default_factory=dict)
    label_values: dict[str, int | None] = Field(default_factory=lambda: {"1": 1, "1.0": 1, "0": 0, "0.0": 0})
    lists: tuple[ListLabels, ...] = ()
    boxes: BoxColumns | None = None


@dataclass
class PublicTables:
    """A public table in our form: rows of the cohort, labels and boxes by study."""

    rows: list[PublicRow] = field(default_factory=list)
    labels: dict[str, dict[str, int | None]] = field(default_factory=dict)
    regions: dict[str, list[Region]] = field(default_factory=dict)


def read_public(folder: Path, mapping: CohortMap) -> PublicTables:
    """Read a public table from the folder that it was unpacked into.

    Radiographs with several rows (boxes) become one study: its labels are 1 where any row says so.

    Raises:
        CohortError: ``no_table``, ``bad_table``, ``bad_columns`` (a map that names unknown columns) or ``bad_id``.
    """
    unknown = sorted(set(mapping.columns) - {*REQUIRED, *OPTIONAL})
    missing = sorted({*REQUIRED} - set(mapping.columns))
    if unknown or missing:
        raise CohortError(f"The map has unknown columns {unknown} and lacks {missing}.", code="bad_columns")
    found = PublicTables()
    index: dict[str, Path] = {}
    there = [(name, split) for name, split in mapping.tables.items() if (folder / name).is_file()]
    if not there:
        names = ", ".join(mapping.tables)
        raise CohortError(f"{folder} has none of the tables {names}.", code="no_table", fix="Check the folder.")
    for name, split in there:
        for theirs in _joined(folder, name, mapping):
            if all(theirs.get(column) in values for column, values in mapping.where.items()):
                _take(theirs, split, mapping, folder, index, found)
    return found


def write_public(folder: Path, mapping: CohortMap, out: Path) -> tuple[Path, PublicTables]:
    """Write ``OUT/cohort.csv``, ``labels.csv`` and ``regions/`` (where there are any); paths become absolute.

    Returns:
        The cohort table's path, and what it holds.
    """
    tables = read_public(folder, mapping)
    for study_id, regions in tables.regions.items():
        _write(out / "regions" / f"{study_id}.csv", pl.DataFrame([region.columns() for region in regions]))
    for row in tables.rows:
        for name in ("image", "masks", "report_path"):
            if row.get(name):
                row[name] = str((folder / str(row[name])).resolve())
        if row["study_id"] in tables.regions:
            row["regions"] = f"regions/{row['study_id']}.csv"
    names = [name for name in (*REQUIRED, *OPTIONAL) if any(row.get(name) for row in tables.rows)]
    cohort = pl.DataFrame({name: [row.get(name) for row in tables.rows] for name in names})
    _write(out / "cohort.csv", cohort)
    if labels := _label_table(tables):
        _write(out / "labels.csv", pl.DataFrame(labels))
    return out / "cohort.csv", tables


def _label_table(tables: PublicTables) -> dict[str, list[Any]]:
    names = sorted({name for labels in tables.labels.values() for name in labels})
    if not names:
        return {}
    ids = list(tables.labels)
    return {"study_id": ids, **{name: [tables.labels[i].get(name) for i in ids] for name in names}}


def _write(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.write_csv(temporary)


def _read(path: Path, header: tuple[str, ...], separator: str) -> list[PublicRow]:
    try:
        table = pl.read_csv(
            path, infer_schema=False, separator=separator, has_header=not header, truncate_ragged_lines=True
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} cannot be read as a table: {error}.", code="bad_table") from error
    names = header or tuple(name.strip() for name in table.columns)
    table = table[:, : len(names)].rename(dict(zip(table.columns, names, strict=False)))
    return table.select(pl.all().str.strip_chars().replace("", None)).to_dicts()


def _joined(folder: Path, name: str, mapping: CohortMap) -> list[PublicRow]:
    rows = _read(folder / name, mapping.header, mapping.separator)
    for join in mapping.joins:
        if not (folder / join.table).is_file():
            continue
        others: dict[tuple[str | None, ...], PublicRow] = {}
        for other in _read(folder / join.table, join.header, join.separator):
            others.setdefault(tuple(other.get(column) for column in join.on.values()), other | dict(join.add))
        for row in rows:
            other = others.get(tuple(_filled(text, row, {}, False) for text in join.on), {})
            row |= {column: value for column, value in other.items() if column not in row}
    return rows


def _take(
    theirs: PublicRow, split: str | None, mapping: CohortMap, folder: Path, index: dict[str, Path], found: PublicTables
) -> None:
    ours = {name: _cell(cell, theirs) for name, cell in mapping.columns.items()}
    study_id = ours["study_id"]
    if not study_id or not ours["image"]:
        return
    check_id(study_id)
    ours["image"] = _image(str(ours["image"]), folder, index)
    if "view" in ours:
        ours["view"] = view_of(ours["view"])
    if split is not None and not ours.get("split"):
        ours["split"] = split
    labels = _labels(theirs, mapping)
    if study_id not in found.labels:
        found.rows.append(ours)
        found.labels[study_id] = labels
    else:
        before = found.labels[study_id]
        found.labels[study_id] = {name: _stronger(before.get(name), value) for name, value in labels.items()}
    if mapping.boxes is not None and (box := _box(theirs, mapping.boxes)) is not None:
        found.regions.setdefault(study_id, []).append(box)


def _stronger(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known) if known else None


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


def _image(name: str, folder: Path, index: dict[str, Path]) -> str:
    """The path itself; with ``**/`` in it, wherever below the folder the file lies."""
    if "**/" not in name:
        return name
    top, file = name.split("**/", 1)
    if not index:
        index.update(
            {path.name: path.relative_to(folder) for path in sorted((folder / top).rglob("*")) if path.is_file()}
        )
    return str(index.get(file, Path(top) / file))


def _labels(theirs: PublicRow, mapping: CohortMap) -> dict[str, int | None]:
    labels: dict[str, int | None] = {}
    for name, cell in mapping.labels.items():
        value = _cell(cell if isinstance(cell, Cell) else f"{{{cell}}}", theirs)
        labels[name] = mapping.label_values.get(value or "")
    for entry in mapping.lists:
        text = theirs.get(entry.column)
        items = None if text is None else _items(text, entry.separator)
        for name, words in entry.names.items():
            labels[name] = None if items is None else int(any(word.lower() in items for word in words))
    return labels


def _items(text: str, separator: str | None) -> set[str] | None:
    if separator is not None:
        return {item.strip().lower() for item in text.split(separator)}
    try:
        return {str(item).strip().lower() for item in ast.literal_eval(text)}
    except (ValueError, SyntaxError, TypeError):
        return None


def _box(theirs: PublicRow, boxes: BoxColumns) -> Region | None:
    try:
        x, y, width, height = (
            float(theirs.get(name) or "nan") for name in (boxes.x, boxes.y, boxes.width, boxes.height)
        )
    except ValueError:
        return None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        return None
    return Region(boxes.region, math.floor(y), math.ceil(y + height), math.floor(x), math.ceil(x + width))
