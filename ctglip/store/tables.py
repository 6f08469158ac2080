"""A store as its readers see it: the tables over all studies, and the studies one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.errors import StoreError
from ctglip.files import LOCK, atomic_path
from ctglip.gate import reads
from ctglip.places import check_no_links
from ctglip.store.format import (
    INFO,
    JOURNAL,
    LATER,
    SPLITS_SCHEMA,
    STUDIES,
    TABLES,
    StoreInfo,
    read_info,
    study_ids,
    study_path,
    write_info,
)
from ctglip.store.study import StudyReader
from ctglip.table_files import no_formulas
from ctglip.types import PARSER

ROW_GROUP = 100_000
BATCH = 1000


class Store:
    """A store that exists. ``Store.open(path)`` reads one, ``create_store`` makes one."""

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self.info = info
        self._readers = lru_cache(maxsize=64)(self._reader)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.path, self.info))

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store.

        Raises:
            StoreError: ``not_a_store``, ``bad_store_info`` or ``store_version``.
        """
        return cls(Path(path), read_info(Path(path)))

    @property
    def study_ids(self) -> list[str]:
        """Ids of the studies in the tables, sorted."""
        return self.table("studies")["study_id"].to_list()

    def study(self, study_id: str) -> StudyReader:
        """A study's reader; the last 64 are kept open.

        Raises:
            StoreError: ``no_study`` or ``damaged_study``.
        """
        return self._readers(study_id)

    def _reader(self, study_id: str) -> StudyReader:
        return StudyReader(study_path(self.path, study_id))

    def table(self, name: str) -> pl.DataFrame:
        """A table over all studies: one of ``TABLES`` or ``splits``. Empty when nothing was written yet.

        ``splits.parquet`` also remembers patients whose studies are not in the store at present; they are left out.

        Raises:
            StoreError: unknown or unreadable table.
        """
        if name == "splits":
            return self.all_splits().join(self.table("studies"), on="study_id", how="semi")
        return self._read(name)

    def all_splits(self) -> pl.DataFrame:
        """``splits.parquet`` as it is, with patients whose studies are not in the store at present."""
        return self._read("splits")

    def _read(self, name: str) -> pl.DataFrame:
        schema = SPLITS_SCHEMA if name == "splits" else TABLES.get(name)
        if schema is None:
            known = ", ".join((*TABLES, "splits"))
            raise StoreError(f"A store has no table {name!r}; it has {known}.", code="no_table")
        path = table_path(self.path, name)
        try:
            there = path.is_file()
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}.", code="unreadable") from error
        return _with_source(name, read_parquet(path, schema)) if there else pl.DataFrame(schema=schema)


@reads(StoreError, "damaged_table", "Run: ctglip store verify STORE --repair")
def read_parquet(path: Path, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """A table of a store as it is, its columns of the types that the format has; tables of before have fewer columns.

    Raises:
        StoreError: ``damaged_table``.
    """
    table = pl.read_parquet(path)
    if "study_id" not in table.columns:
        raise ValueError("study_id")
    return table.cast({name: schema[name] for name in table.columns if name in schema})


def table_path(root: Path, name: str) -> Path:
    """Where a table is."""
    return root / f"{name}.parquet"


def create_store(path: Path, info: StoreInfo) -> Store:
    """Make an empty store, or take up an existing one that was made with the same recipe (or holds no study yet).

    Raises:
        StoreError: ``not_a_store`` when ``path`` is a file, or a folder with other things in it; ``other_recipe`` when
            it holds studies of another recipe, which the new one would hide.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and not (path / INFO).is_file() and any(path.iterdir())):
        raise StoreError(
            f"{path} exists and is not a store.", code="not_a_store", fix="Name a new or empty folder as the store."
        )
    check_no_links(path, STUDIES, JOURNAL, LOCK, INFO)
    if (path / INFO).is_file():
        _check_recipe(path, read_info(path), info)
    (path / STUDIES).mkdir(parents=True, exist_ok=True)
    write_info(path, info)
    return Store(path, info)


def _check_recipe(path: Path, stored: StoreInfo, info: StoreInfo) -> None:
    held = len(study_ids(path)) if stored.recipe_hash != info.recipe_hash else 0
    if not held:
        return
    before, now = (
        {"modality": one.modality, **one.recipe, **{f"dictionary of {k}": v for k, v in one.dictionaries.items()}}
        for one in (stored, info)
    )
    names = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    changes = "; ".join(f"{name} {before.get(name)}, now {now.get(name)}" for name in names[:4])
    raise StoreError(
        f"{path} holds {held} {'study' if held == 1 else 'studies'} made with another recipe ({changes}"
        f"{'; ...' if len(names) > 4 else ''}).",
        code="other_recipe",
        fix="Name a new folder as the store, or give the settings that this one was made with; to make all its studies "
        "anew, remove it first.",
    )


def compact(store: Store, committed: Mapping[str, str] | None = None) -> None:
    """Bring the tables in line with the studies, whose rows they repeat.

    Args:
        committed: id -> checksum of the studies that they are to hold, see ``journal.Journal.committed``; only the
            studies that they lack are read. None takes every study in the folder, and reads all of them.

    Studies made with another recipe, and those that cannot be read, are left out (``verify`` names them). The tables
    are sorted by ``study_id`` and each is replaced by rename: the same studies give the same bytes.
    """
    held = {} if committed is None else _held(store)
    if committed is None:
        committed = dict.fromkeys(study_ids(store.path), "")
    elif held == committed and table_path(store.path, "studies").is_file():
        return
    added = [study_id for study_id, checksum in committed.items() if held.get(study_id) != checksum]
    unchanged = list(committed.keys() - set(added))
    fresh = gather(study for study_id in sorted(added) if (study := _current(store, study_id)))

    def merged(name: str) -> pl.DataFrame:
        if not unchanged:
            return fresh[name]
        old = store.table(name).filter(pl.col("study_id").is_in(unchanged))
        return sort_table(name, pl.concat([old, fresh[name]], how="diagonal"))

    write_tables(store, merged)


def _held(store: Store) -> dict[str, str]:
    """The studies that the tables hold, id -> checksum (empty for those of another recipe); none where a table is
    missing or damaged."""
    try:
        needed = [name for name in TABLES if name not in LATER]
        if any(store.table(name).is_empty() and not table_path(store.path, name).is_file() for name in needed):
            return {}
    except StoreError:
        return {}
    rows = store.table("studies").select("study_id", "source_checksum", "recipe_hash").iter_rows()
    return {i: checksum if recipe == store.info.recipe_hash else "" for i, checksum, recipe in rows}


def gather(studies: Iterable[StudyReader]) -> dict[str, pl.DataFrame]:
    """The rows of studies as tables, sorted.

    A thousand studies at a time: as Python values their rows take several times the room.
    """
    frames: dict[str, list[pl.DataFrame]] = {name: [frame(name, [])] for name in TABLES}
    studies = iter(studies)
    while batch := list(islice(studies, BATCH)):
        for name, found in frames.items():
            found.append(frame(name, [row for study in batch for row in study.rows(name)]))
    return {name: sort_table(name, pl.concat(found, how="diagonal")) for name, found in frames.items()}


def _current(store: Store, study_id: str) -> StudyReader | None:
    try:
        study = StudyReader(study_path(store.path, study_id))
    except StoreError:
        return None
    return study if study.attributes.get("recipe_hash") == store.info.recipe_hash else None


def frame(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table with the columns and types of the format."""
    schema = dict(TABLES[name])
    if name == "labels":
        names = sorted({key for row in rows for key in row} - {"study_id"})
        schema |= {key: pl.Int8() for key in names}
    return _with_source(name, pl.DataFrame(rows, schema=schema, orient="row"))


def _with_source(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Findings with their source; those of a store that was made before they had one are the parser's."""
    if name != "findings":
        return table
    known = pl.col("source") if "source" in table.columns else pl.lit(None, pl.String)
    return table.with_columns(known.fill_null(PARSER).alias("source"))


def sort_table(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of ``study_id`` (kept within a study), the columns of ``labels`` by name."""
    if name == "labels":
        used = sorted(c for c in table.columns if c != "study_id" and table[c].null_count() < table.height)
        table = table.select("study_id", *used)
    return table.sort("study_id", maintain_order=True)


def write_tables(store: Store, table: Callable[[str], pl.DataFrame]) -> None:
    """Write the tables by rename, one after the other, ``studies`` last: it tells which studies the tables hold, and a
    writer that dies half-way must not have said so yet."""
    for name in sorted(TABLES, key="studies".__eq__):
        write_parquet(table(name), table_path(store.path, name))


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a parquet file by rename; equal tables give equal bytes."""
    with atomic_path(path) as temporary:
        table.rechunk().write_parquet(temporary, compression="zstd", compression_level=3, row_group_size=ROW_GROUP)


def write_csv(table: pl.DataFrame, path: Path) -> None:
    """Write a CSV file by rename."""
    with atomic_path(path) as temporary:
        no_formulas(table).write_csv(temporary)
