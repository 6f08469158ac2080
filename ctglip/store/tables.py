"""A store as its readers see it: the tables over all studies, and the studies one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.errors import StoreError
from ctglip.files import LOCK, atomic_path, remove, value_hash
from ctglip.places import check_no_links
from ctglip.store.format import (
    INFO,
    JOURNAL,
    LATER,
    STUDIES,
    TABLES,
    StoreInfo,
    read_info,
    study_ids,
    study_path,
    write_info,
)
from ctglip.store.parts import (
    FULL,
    OPEN,
    divide,
    drop_part,
    drop_strays,
    files_of,
    holds_others,
    is_of_before,
    numbers,
    part_path,
    read_part,
    read_table,
    scan_table,
    size_of,
    sort_table,
    table_path,
    write_part,
)
from ctglip.store.study import StudyReader
from ctglip.table_files import no_formulas
from ctglip.types import PARSER

BATCH = 1000
_FORM = (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError)
"""What rows of another form make a table raise."""


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
            return self.all_splits().join(self.scan("studies").select("study_id").collect(), on="study_id", how="semi")
        return read_table(self.path, name)

    def scan(self, name: str) -> pl.LazyFrame:
        """The same rows in no order, read as far as it is asked for: what to use where there may be a million studies.

        Raises:
            StoreError: unknown or unreadable table.
        """
        return scan_table(self.path, name)

    def all_splits(self) -> pl.DataFrame:
        """``splits.parquet`` as it is, with patients whose studies are not in the store at present."""
        return read_table(self.path, "splits")

    def version(self, *names: str) -> str:
        """Changes whenever one of these tables is written, or the recipe is another. Copies of a store differ."""
        states = [
            (str(file.relative_to(self.path)), file.stat()) for name in names for file in files_of(self.path, name)
        ]
        written = [(name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states]
        return value_hash([self.info.recipe_hash, self.info.findings_from, written])


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
    check_no_links(path, STUDIES, JOURNAL, LOCK, INFO, *(table_path(path, name).name for name in TABLES))
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


def compact(
    store: Store, committed: Mapping[str, str] | pl.DataFrame | None = None, again: Collection[int] = ()
) -> None:
    """Bring the tables in line with the studies, whose rows they repeat.

    Args:
        committed: id -> checksum of the studies that they are to hold, or a table of both, see ``journal.Journal``;
            only the studies that they lack are read. None takes every study in the folder, and reads all of them.
        again: the numbers of parts that are made anew from their studies.

    Studies made with another recipe, and those that cannot be read, are left out (``verify`` names them). Parts in
    which nothing has changed stay as they are; each of the others is replaced by rename.
    """
    ensure_parts(store)
    studies = _committed_studies(store, committed)
    held, broken = _held(store, numbers(store.path) if committed is None else again)
    same = held.join(studies, on=["study_id", "checksum"], how="semi")
    stays = held.join(studies, on="study_id", how="semi")
    counts = held.group_by("part").len().join(same.group_by("part").len("same"), on="part", how="left")
    stale = counts.filter(pl.col("len") != pl.col("same").fill_null(0))["part"].to_list()
    for number in sorted({*stale, *broken}):
        of_part = pl.col("part") == number
        ids, unchanged = stays.filter(of_part)["study_id"], same.filter(of_part)["study_id"]
        _rewrite(store, number, ids.to_list(), [] if number in broken else unchanged.to_list())
    add_studies(store, studies.join(held, on="study_id", how="anti")["study_id"].to_list())
    drop_strays(store.path)
    if not numbers(store.path):
        write_part(store.path, 0, lambda name: frame(name, []))


def add_studies(store: Store, ids: Sequence[str]) -> None:
    """Append studies that the tables do not hold yet, as new parts; those that cannot be read are left out."""
    sizes = {number: size_of(part_path(store.path, "studies", number)) for number in numbers(store.path)}
    empty = [number for number, size in sizes.items() if not size]
    small = [number for number, size in sizes.items() if 0 < size < FULL // 2]
    following = max(sizes, default=-1) + 1
    for chunk in chunks(sorted(ids), FULL):
        fresh = _rows_of(store, chunk)
        if fresh["studies"].is_empty():
            continue
        if len(small) >= OPEN and not empty:
            number, held = small.pop(), fresh
            fresh = {
                name: pl.concat([read_part(store.path, name, number), held[name]], how="diagonal") for name in held
            }
        elif empty:
            number = empty.pop()
        else:
            number, following = following, following + 1
        write_part(store.path, number, fresh.__getitem__)


def chunks(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    """Ids in groups of a size."""
    return (list(ids[start : start + size]) for start in range(0, len(ids), size))


def _rewrite(store: Store, number: int, ids: list[str], unchanged: list[str]) -> None:
    """Write a part anew with some studies, of which those that have changed are read."""
    try:
        old = {name: read_part(store.path, name, number) for name in (TABLES if unchanged else ())}
    except StoreError:
        old, unchanged = {}, []
    changed = sorted(set(ids) - set(unchanged))
    tables = _rows_of(store, changed)
    for name, table in old.items():
        tables[name] = pl.concat([table.filter(pl.col("study_id").is_in(unchanged)), tables[name]], how="diagonal")
    if tables["studies"].is_empty():
        drop_part(store.path, number)
    else:
        write_part(store.path, number, tables.__getitem__)


def _committed_studies(store: Store, committed: Mapping[str, str] | pl.DataFrame | None) -> pl.DataFrame:
    """The studies that the tables are to hold, with their checksums."""
    if isinstance(committed, pl.DataFrame):
        return committed
    known = dict.fromkeys(study_ids(store.path), "") if committed is None else committed
    columns = {"study_id": list(known), "checksum": list(known.values())}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _held(store: Store, again: Collection[int]) -> tuple[pl.DataFrame, set[int]]:
    """The studies that the tables hold, each once, with their checksum (null for those of another recipe) and the
    number of their part; and the parts that are made anew: named, unreadable, or with a table that is missing or holds
    other studies, as a writer leaves it that dies half-way."""
    found = [pl.DataFrame(schema={"study_id": pl.String, "checksum": pl.String, "part": pl.Int64})]
    complete = set.intersection(*(set(numbers(store.path, name)) for name in TABLES if name not in LATER))
    broken = (set(numbers(store.path)) - complete).union(again)
    current = pl.col("recipe_hash") == store.info.recipe_hash
    for number in numbers(store.path):
        try:
            studies = read_part(store.path, "studies", number)
        except StoreError:
            broken.add(number)
            continue
        if number not in broken and holds_others(store.path, number, studies["study_id"]):
            broken.add(number)
        checksum = pl.when(current).then("source_checksum")
        found.append(studies.select("study_id", checksum=checksum, part=pl.lit(number, pl.Int64)))
    held = pl.concat(found)
    once = held.unique("study_id", keep="first", maintain_order=True)
    broken |= set(held.join(once, on=["study_id", "part"], how="anti")["part"])
    return once, broken


def upgrade(store: Store) -> bool:
    """Divide tables that are one file, as they were written before, into parts; returns whether there were any.

    Raises:
        StoreError: ``damaged_table``.
    """
    if not is_of_before(store.path):
        return False
    if table_path(store.path, "studies").is_file():
        ids = read_table(store.path, "studies")["study_id"].to_list()
        parts = dict(enumerate(chunks(ids, FULL)))
    else:
        parts = {n: read_part(store.path, "studies", n)["study_id"].to_list() for n in numbers(store.path)}
    for name in sorted(TABLES, key="studies".__eq__):
        divide(store.path, name, parts)
    return True


def ensure_parts(store: Store) -> None:
    """Divide tables of before into parts. Where one cannot be read, those that are left go: ``compact`` makes them anew
    from the studies."""
    try:
        upgrade(store)
    except StoreError as error:
        if error.code != "damaged_table":
            raise
        for name in sorted(TABLES, key="studies".__ne__):
            if table_path(store.path, name).is_file():
                remove(table_path(store.path, name))


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


def _rows_of(store: Store, ids: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The rows of some studies as tables; those of another recipe and those that cannot be read are left out."""
    try:
        return gather(study for study_id in ids if (study := _current(store, study_id)))
    except _FORM:
        return gather(study for study_id in ids if (study := _current(store, study_id)) and _is_formed(study))


def _is_formed(study: StudyReader) -> bool:
    """Whether a study's rows are such as the tables take."""
    try:
        return bool(gather([study]))
    except _FORM:
        return False


def _current(store: Store, study_id: str) -> StudyReader | None:
    try:
        study = StudyReader(study_path(store.path, study_id), for_rows=True)
    except StoreError:
        return None
    return study if study.attributes.get("recipe_hash") == store.info.recipe_hash else None


def frame(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table with the columns and types of the format."""
    schema = dict(TABLES[name])
    if name == "labels":
        names = sorted({key for row in rows for key in row} - {"study_id"})
        schema |= {key: pl.Int8() for key in names}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(pl.col("source").fill_null(PARSER)) if name == "findings" else table


def write_csv(table: pl.DataFrame, path: Path) -> None:
    """Write a CSV file by rename."""
    with atomic_path(path) as temporary:
        no_formulas(table).write_csv(temporary)
