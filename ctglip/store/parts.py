"""The tables of a store on disk; nothing outside this room knows how they lie.

::

    STORE/organs.parquet/part-000000.parquet

Each table is a folder of parts. The parts of one number hold the rows of the same studies in every table, sorted by
``study_id``, and no study is in two. The part of ``studies`` is written last: a part of another table whose number
``studies`` lacks is of a writer that died, and is not read. New studies get new parts; a part is only replaced, by
rename, and never merged into another, so that no reader meets a study twice or misses one.

A table that is one file, as it was written before, is read as if it were one part. ``splits.parquet`` is one file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path

import polars as pl

from ctglip.errors import StoreError
from ctglip.files import atomic_path, remove
from ctglip.gate import reads
from ctglip.store.format import LATER, SPLITS_SCHEMA, TABLES
from ctglip.types import PARSER

FULL = 2000
"""Studies of a full part."""
OPEN = 16
"""Parts that may be less than half full. Once there are so many, new studies go into the last of them, so that a
store of n studies has at most n / 1000 + 16 parts, and adding to it rewrites at most one."""
_FIX = "Run: ctglip store verify STORE --repair"
_NUMBER = re.compile(r"part-(\d{6,})\.parquet")
_ROW_GROUP = 100_000
_STUDIES = "studies"


def table_path(root: Path, name: str) -> Path:
    """Where a table is: a folder of parts, of ``splits`` a file."""
    return root / f"{name}.parquet"


def part_path(root: Path, name: str, number: int) -> Path:
    """Where a part of a table is."""
    return table_path(root, name) / f"part-{number:06d}.parquet"


def schema_of(name: str) -> Mapping[str, pl.DataType]:
    """The columns of a table.

    Raises:
        StoreError: there is no such table.
    """
    schema = SPLITS_SCHEMA if name == "splits" else TABLES.get(name)
    if schema is None:
        raise StoreError(f"A store has no table {name!r}; it has {', '.join((*TABLES, 'splits'))}.", code="no_table")
    return schema


def numbers(root: Path, name: str = _STUDIES) -> list[int]:
    """The numbers of a table's parts, in order."""
    folder = table_path(root, name)
    try:
        found = (_NUMBER.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
        return sorted(int(one[1]) for one in found if one)
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}.", code="unreadable") from error


def is_of_before(root: Path) -> bool:
    """Whether tables are single files, as they were written before."""
    return any(table_path(root, name).is_file() for name in TABLES)


def files_of(root: Path, name: str) -> list[Path]:
    """The files that a table is read from: those of the studies that the table ``studies`` has.

    Raises:
        StoreError: ``damaged_table`` where a part is missing; ``unreadable``.
    """
    path = table_path(root, name)
    try:
        if path.is_file():
            return [path]
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.", code="unreadable") from error
    if name == "splits":
        return []
    listed = numbers(root)  # before the table's own, which a writer adds first
    there = set(numbers(root, name))
    if table_path(root, _STUDIES).is_file():  # an upgrade that was cut short
        listed = sorted(there)
    lacking = [number for number in listed if number not in there]
    if lacking and not (name in LATER and not there):
        raise StoreError(
            f"{path} cannot be read: it lacks {part_path(root, name, lacking[0]).name}.", code="damaged_table", fix=_FIX
        )
    return [part_path(root, name, number) for number in listed if number in there]


def read_table(root: Path, name: str) -> pl.DataFrame:
    """A table over all studies, sorted by ``study_id``; empty when nothing was written yet.

    Raises:
        StoreError: unknown or unreadable table.
    """
    schema = schema_of(name)
    found = [read_parquet(path, name) for path in files_of(root, name)]
    table = pl.concat(found, how="diagonal") if found else pl.DataFrame(schema=dict(schema))
    return sort_table(name, table)


def scan_table(root: Path, name: str) -> pl.LazyFrame:
    """A table over all studies in no order, read as far as it is asked for; empty when nothing was written yet.

    Raises:
        StoreError: unknown table, or a part that is missing or unreadable.
    """
    schema = dict(schema_of(name))
    found = [_scan(path, name) for path in files_of(root, name)]
    return pl.concat(found, how="diagonal") if found else pl.LazyFrame(schema=schema)


@reads(StoreError, "damaged_table", _FIX)
def _scan(path: Path, name: str) -> pl.LazyFrame:
    frame = pl.scan_parquet(path)
    return frame.select(_columns(name, frame.collect_schema()))


def stamp(root: Path) -> tuple[float, ...]:
    """What changes whenever a table does."""
    found: list[float] = []
    for name in (*TABLES, "splits"):
        path = table_path(root, name)
        files = [path] if path.is_file() else sorted(path.glob("part-*.parquet"))
        found += [len(files), *(file.stat().st_mtime for file in files)]
    return tuple(found)


def read_part(root: Path, name: str, number: int, low: str | None = None, high: str | None = None) -> pl.DataFrame:
    """The rows of a table that one of its parts holds, of the studies from ``low`` to before ``high``; none where the
    table came later and the part is not there. A table that is one file is its only part.

    Raises:
        StoreError: ``damaged_table``.
    """
    path = table_path(root, name) if table_path(root, name).is_file() else part_path(root, name, number)
    if name in LATER and not path.is_file():
        return pl.DataFrame(schema=TABLES[name])
    if low is None and high is None:
        return read_parquet(path, name)
    return _read_between(path, name, low, high)


@reads(StoreError, "damaged_table", _FIX)
def _read_between(path: Path, name: str, low: str | None, high: str | None) -> pl.DataFrame:
    frame = _scan(path, name)
    frame = frame if low is None else frame.filter(pl.col("study_id") >= low)
    return (frame if high is None else frame.filter(pl.col("study_id") < high)).collect()


@reads(StoreError, "damaged_table", _FIX)
def read_parquet(path: Path, name: str) -> pl.DataFrame:
    """A file of a table, its columns of the types that the format has; files of before have fewer columns.

    Raises:
        StoreError: ``damaged_table``.
    """
    table = pl.read_parquet(path)
    return table.select(_columns(name, table.schema))


def _columns(name: str, found: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """All columns that a table is to have, from those that a file has."""
    if "study_id" not in found:
        raise ValueError("study_id")
    schema = schema_of(name)
    columns = [
        (pl.col(column) if column in found else pl.lit(None)).cast(kind).alias(column)
        for column, kind in schema.items()
    ]
    if name == "findings":  # those of a store that was made before they had a source are the parser's
        columns[-1] = columns[-1].fill_null(PARSER)
    return [*columns, *(pl.col(column) for column in found if column not in schema)]


def holds_others(root: Path, number: int, study_ids: pl.Series) -> bool:
    """Whether a table's part of a number has rows of other studies than these, or cannot be read."""
    try:
        return any(not _ids_in(root, name, number).is_in(study_ids.implode()).all() for name in TABLES)
    except StoreError:
        return True


@reads(StoreError, "damaged_table", _FIX)
def _ids_in(root: Path, name: str, number: int) -> pl.Series:
    path = part_path(root, name, number)
    if name in LATER and not path.is_file():
        return pl.Series(dtype=pl.String())
    return pl.scan_parquet(path).select(pl.col("study_id").unique()).collect().to_series()


@reads(StoreError, "damaged_table", _FIX)
def size_of(path: Path) -> int:
    """The rows of a file of a table, from its footer.

    Raises:
        StoreError: ``damaged_table``.
    """
    return pl.scan_parquet(path).select(pl.len()).collect().item()


def sort_table(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of ``study_id`` (kept within a study), the columns of ``labels`` by name."""
    if name == "labels":
        used = sorted(c for c in table.columns if c != "study_id" and table[c].null_count() < table.height)
        table = table.select("study_id", *used)
    return table if table["study_id"].is_sorted() else table.sort("study_id", maintain_order=True)


def write_part(root: Path, number: int, table: Callable[[str], pl.DataFrame]) -> None:
    """Write the parts of one number, table after table, ``studies`` last: it tells which studies the parts hold, and a
    writer that dies half-way must not have said so yet."""
    for name in sorted(TABLES, key=_STUDIES.__eq__):
        content = sort_table(name, table(name))
        if name == "labels":
            content = _with_all_labels(root, number, content)
        write_parquet(content, part_path(root, name, number), root)


def _with_all_labels(root: Path, number: int, content: pl.DataFrame) -> pl.DataFrame:
    """A part of ``labels`` with the columns that all of them have; where it has others, they get these first."""
    others = [part_path(root, "labels", other) for other in numbers(root, "labels") if other != number]
    names = {*content.columns} - {"study_id"}
    known = _labels_in(others[-1]) if others else set[str]()
    if not names <= known:
        names = names.union(*map(_labels_in, others))
        for path in others:
            with suppress(StoreError):  # a part that cannot be read is made anew from its studies
                write_parquet(_with_labels(read_parquet(path, "labels"), names), path, root)
    return _with_labels(content, names | known)


def _labels_in(path: Path) -> set[str]:
    """The labels that a part has columns for; none where it cannot be read."""
    try:
        return set(_scan(path, "labels").collect_schema()) - {"study_id"}
    except StoreError:
        return set()


def _with_labels(table: pl.DataFrame, names: Set[str]) -> pl.DataFrame:
    columns = [pl.col(name) if name in table.columns else pl.lit(None, pl.Int8).alias(name) for name in sorted(names)]
    return table.select("study_id", *columns)


def write_parquet(table: pl.DataFrame, path: Path, folder: Path | None = None) -> None:
    """Write a parquet file by rename; equal tables give equal bytes.

    Args:
        folder: that of the unfinished file, on the same disk; that of ``path`` when None. A table's folder holds
            nothing but its parts at any time, since other readers take all that is in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, folder) as temporary:
        _write(table, temporary)


def _write(table: pl.DataFrame, path: Path) -> None:
    table.rechunk().write_parquet(path, compression="zstd", compression_level=3, row_group_size=_ROW_GROUP)


def drop_part(root: Path, number: int) -> None:
    """Remove the parts of one number, that of ``studies`` first."""
    for name in sorted(TABLES, key=_STUDIES.__ne__):
        remove(part_path(root, name, number))


def drop_strays(root: Path) -> None:
    """Remove parts that ``studies`` lacks: their writer died before it had written all."""
    known = set(numbers(root))
    for name in TABLES:
        for number in set(numbers(root, name)) - known:
            remove(part_path(root, name, number))


def divide(root: Path, name: str, parts: Mapping[int, list[str]]) -> None:
    """Turn a table that is one file into parts, each of the studies named; one that is not one file stays as it is.

    Raises:
        StoreError: ``damaged_table``.
    """
    path = table_path(root, name)
    if not path.is_file():
        return
    table = sort_table(name, read_parquet(path, name))
    with atomic_path(path) as folder:
        folder.mkdir()
        for number, ids in (parts or {0: []}).items():
            _write(table.filter(pl.col("study_id").is_in(ids)), folder / part_path(root, name, number).name)
