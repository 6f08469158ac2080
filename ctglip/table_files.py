"""Tables as people write them: CSV in any of its dialects, Excel, parquet; every cell is text.

The content decides what a file is, not its name. Nothing is guessed where two readings differ: headings that stand
twice, lines with more or fewer cells than headings, and ids that were stored as decimal numbers are errors.
"""

from __future__ import annotations

import contextlib
import csv
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ctglip.errors import CohortError
from ctglip.gate import reads
from ctglip.limits import MOST_TABLE_BYTES, read_at_most, unzipped
from ctglip.resources import require

SEPARATORS = (",", ";", "\t")
ID = "study_id"
_LISTED = 5
_HEADINGS = 20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LIKE_FORMULA = r"^[=+\-@\t\r]"
_FEW_NULS = 0.01
"""The part of a text that may be NUL: a cell or two that are broken, which is for the reader of rows to refuse."""
_EXCEL = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@reads(CohortError, "bad_table")
def read_table(path: Path) -> pl.DataFrame:
    """Read a table with every column as text, blanks around cells taken away, empty cells as null.

    Text may be separated by commas, semicolons or tabs, in UTF-8, UTF-16 or Latin-1 (Windows-1252), with or without a
    byte order mark, gzipped or not. Of a workbook the sheet that has a column ``study_id`` is read, else its first.

    Raises:
        CohortError: ``no_table``; ``bad_table``: unreadable or empty, cells and headings do not match, or ids are
            decimal numbers; ``repeated_column``: a heading stands twice.
        MissingExtraError: a workbook, without ``ctglip[excel]``.
    """
    if not path.is_file():
        raise CohortError(f"There is no table {path}.", code="no_table", fix="Check the path.")
    try:
        content = read_at_most(path, MOST_TABLE_BYTES, CohortError)
        if content[:2] == b"\x1f\x8b":
            content = unzipped(content, MOST_TABLE_BYTES, str(path), CohortError)
        if content[:4] == b"PAR1":
            return _from_parquet(path, content)
        rows = _sheet(path, content) if content.startswith(_EXCEL) else _text_rows(path, content)
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CohortError(f"{path} cannot be read as a table: {first}.", code="bad_table") from error
    return _table(path, rows)


def require_columns(path: Path, table: pl.DataFrame, names: Sequence[str], fix: str) -> None:
    """Refuse a table without some columns.

    Raises:
        CohortError: ``missing_column``, which names those of ``names`` that are missing and all that are there.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        listed = ", ".join(table.columns[:_HEADINGS]) + (", ..." if len(table.columns) > _HEADINGS else "")
        message = f"{path} has no column {', '.join(map(repr, missing))}; it has {listed}."
        raise CohortError(message, code="missing_column", fix=fix)


def _from_parquet(path: Path, content: bytes) -> pl.DataFrame:
    table = pl.read_parquet(io.BytesIO(content))
    names = [name.strip() for name in table.columns]
    _check_headings(path, names)
    table = table.rename(dict(zip(table.columns, names, strict=True)))
    if ID in names and table[ID].dtype.is_float():
        raise CohortError(
            f"{path}: the column {ID!r} holds decimal numbers, so leading zeros are lost.",
            code="bad_table",
            fix="Store ids as text.",
        )
    return table.select(pl.all().cast(pl.String)).select(pl.all().str.strip_chars().replace("", None))


def _table(path: Path, rows: Sequence[tuple[int, list[str]]]) -> pl.DataFrame:
    """Numbered lines, the first of them the headings, as a table."""
    if not rows:
        raise CohortError(f"{path} is empty.", code="bad_table", fix="Give it a line of headings.")
    (_, names), *body = rows
    names = [name.strip() for name in names]
    while names and not names[-1] and all(len(cells) < len(names) or not cells[-1].strip() for _, cells in body):
        names = names[:-1]  # separators at the ends of lines
        body = [(number, cells[: len(names)]) for number, cells in body]
    _check_headings(path, names)
    wrong = [(number, len(cells)) for number, cells in body if len(cells) != len(names)]
    if wrong:
        examples = ", ".join(f"line {number} has {count}" for number, count in wrong[:_LISTED])
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise CohortError(
            f"{path} has {len(names)} columns, but {examples}{more}.",
            code="bad_table",
            fix="Put cells that hold the separator, or a line break, in quotation marks.",
        )
    columns = {name: [_plain(cells[position]) for _, cells in body] for position, name in enumerate(names)}
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def _plain(cell: str) -> str | None:
    """A cell's text, without the apostrophe of ``no_formulas``."""
    text = cell.strip()
    return (text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text) or None


def no_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """A table for CSV whose texts no spreadsheet takes for a formula: an apostrophe stands before those that begin
    like one, and are no number. ``read_table`` takes it away again."""
    return table.with_columns(
        pl.when(pl.col(name).str.contains(_LIKE_FORMULA) & pl.col(name).cast(pl.Float64, strict=False).is_null())
        .then("'" + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name, kind in table.schema.items()
        if kind == pl.String
    )


def _check_headings(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        examples = ", ".join(repr(name) for name in twice[:_LISTED])
        raise CohortError(
            f"{path}: the heading {examples} stands in several columns." if "" not in twice
            else f"{path} has several columns without a heading.",
            code="repeated_column",
            fix="Give each column a heading of its own.",
        )  # fmt: skip


def _text_rows(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank."""
    text = _decoded(content)
    if text.count("\0") > _FEW_NULS * len(text) or "\0" in text[: text.find("\n")]:
        raise CohortError(f"{path} is no table of text, Excel or parquet.", code="bad_table", fix="Write it as CSV.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]


def _decoded(content: bytes) -> str:
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    sample = content[:200]
    if sample[1::2].count(0) > len(sample) / 4 or sample[::2].count(0) > len(sample) / 4:
        return content.decode("utf-16-le" if sample[1::2].count(0) > sample[::2].count(0) else "utf-16-be")
    for encoding in ("utf-8-sig", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return content.decode("latin-1")


def _separator(text: str) -> str:
    """The separator that makes most headings of the first line, a heading ``study_id`` among them if one does."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def headings(separator: str) -> tuple[bool, int]:
        cells = next(csv.reader([first], delimiter=separator), [])
        return ID in [cell.strip() for cell in cells], len(cells)

    return max(SEPARATORS, key=headings)


def _sheet(path: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The rows of a workbook's sheet; whole numbers are written without a point."""
    calamine = require("python_calamine", extra="excel")
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = {
            name: workbook.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in workbook.sheet_names
        }
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise CohortError(f"{path} cannot be read as a workbook: {error}.", code="bad_table") from error
    found = {name: _numbered(rows) for name, rows in sheets.items()}
    found = {name: rows for name, rows in found.items() if rows}
    with_ids = [name for name, rows in found.items() if ID in [cell.strip() for cell in rows[0][1]]]
    if len(with_ids) > 1:
        raise CohortError(
            f"{path}: the sheets {', '.join(map(repr, with_ids))} have a column {ID!r}.",
            code="bad_table",
            fix="Leave one of them in the workbook.",
        )
    return found[with_ids[0]] if with_ids else next(iter(found.values()), [])


def _numbered(rows: Sequence[Sequence[object]]) -> list[tuple[int, list[str]]]:
    cells = [(number, [_cell(value) for value in row]) for number, row in enumerate(rows, start=1)]
    return [(number, row) for number, row in cells if any(cell.strip() for cell in row)]


def _cell(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
