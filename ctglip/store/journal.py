"""What became of each study: the one answer to whether it is done or failed, with which recipe, and from which input.

``STORE/journal.sqlite`` is the commit point. The folder of studies is brought in line with it (``Journal.settle``), the
tables are made from the studies that it stands for (``tables.compact``), and nothing else keeps such a list. Only who
holds the store writes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl

from ctglip.errors import OutputError, StoreError
from ctglip.files import encodable, one_line, plain_json, remove
from ctglip.store.format import JOURNAL, study_ids, study_path
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure

_SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    study_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    recipe_hash TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    checksum TEXT NOT NULL,
    stage TEXT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    details TEXT NOT NULL,
    seconds TEXT NOT NULL
) WITHOUT ROWID
"""


_ROWS = 50_000
"""Rows that are read at a time."""
_DAMAGE = (
    sqlite3.Error, pl.exceptions.PolarsError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What a file that is no journal makes its readers raise."""
_REMOVE = "Remove it; the next run checks every study against its input again."
_FAILED_AND_THERE = "the journal says that it failed, but its folder is there."
VERSION = 1
"""Of the journal's form; those of before say 0 and are of the same form."""


@dataclass(frozen=True)
class JournalEntry:
    """The last that happened to a study.

    Attributes:
        recipe_hash: the store's when it happened.
        fingerprint: what the input looked like from outside; empty where that is not known.
        checksum: hash of the input that the study in the store was made from; empty when there is none. A failed
            study may have one: its input cannot be read now, and what was made of it earlier is kept.
        failure: why it failed; None for a study that is done.
        seconds: time spent, by stage.
    """

    study_id: str
    recipe_hash: str
    fingerprint: str = ""
    checksum: str = ""
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> Literal["done", "failed"]:
        """Whether the study is in the store as its input says."""
        return "failed" if self.failure else "done"


class _Entries(Mapping[str, JournalEntry]):
    """The entries of a journal, each read when it is asked for."""

    def __init__(self, journal: Journal) -> None:
        self._rows = journal.rows

    def __getitem__(self, study_id: str) -> JournalEntry:
        for row in self._rows("SELECT * FROM studies WHERE study_id = ?", study_id):
            return _entry(*row)
        raise KeyError(study_id)

    def __iter__(self) -> Iterator[str]:
        return (row[0] for row in self._rows("SELECT study_id FROM studies ORDER BY study_id"))

    def __len__(self) -> int:
        return next(self._rows("SELECT COUNT(*) FROM studies"))[0]


class Journal:
    """The journal of a store; use it as a context manager. Nothing of it is kept in memory.

    Attributes:
        entries: every study's last entry, by id.

    Raises:
        StoreError: ``damaged_journal`` when the file is no journal, from whatever reads it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path / JOURNAL
        self._connection = sqlite3.connect(self._path)
        self.entries: Mapping[str, JournalEntry] = _Entries(self)
        try:
            with self._readable():
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreError(
                    f"{self._path} has format version {version}, this program reads {VERSION}.",
                    code="store_version",
                    fix="Use the ctglip version that wrote it.",
                )
            with self._readable():
                self._connection.execute(_SCHEMA)
                if version < VERSION:
                    with suppress(sqlite3.OperationalError):  # a store that is only read stays as it is
                        self._connection.execute(f"PRAGMA user_version = {VERSION}")
                for row in self.rows("SELECT * FROM studies LIMIT 1"):
                    _entry(*row)
        except StoreError:
            self._connection.close()
            raise

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Around what reads the file: it may be anything."""
        try:
            yield
        except _DAMAGE as error:
            raise StoreError(
                f"{self._path} cannot be read: {one_line(error)}.",
                code="damaged_journal",
                fix=_REMOVE,
            ) from error

    def rows(self, statement: str, *values: str) -> Iterator[tuple[Any, ...]]:
        """The answer to a question in SQL, row by row."""
        with self._readable():
            yield from self._connection.execute(statement, values)

    def _table(self, statement: str, *values: str) -> pl.DataFrame:
        """The answer to a question as a table of text."""
        found: list[pl.DataFrame] = []
        with self._readable():
            cursor = self._connection.execute(statement, values)
            schema = {column[0]: pl.String() for column in cursor.description}
            while rows := cursor.fetchmany(_ROWS):
                found.append(pl.DataFrame(rows, schema=schema, orient="row"))
            return pl.concat([pl.DataFrame(schema=schema), *found])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def committed(self) -> dict[str, str]:
        """The studies that the store serves: id -> checksum of the input that each was made from."""
        return dict(self.committed_table().iter_rows())

    def committed_table(self) -> pl.DataFrame:
        """The same as a table of ``study_id`` and ``checksum``, for stores of many studies."""
        return self._table("SELECT study_id, checksum FROM studies WHERE checksum != '' ORDER BY study_id")

    def unserved(self) -> list[str]:
        """The studies that failed and of which the store has nothing from earlier."""
        return [row[0] for row in self.rows("SELECT study_id FROM studies WHERE checksum = '' ORDER BY study_id")]

    def failures(self) -> list[Failure]:
        """The failed studies, by id."""
        rows = self.rows("SELECT * FROM studies WHERE status = 'failed' ORDER BY study_id")
        return [entry.failure for row in rows if (entry := _entry(*row)).failure]

    def record(self, entries: Iterable[JournalEntry]) -> None:
        """Write entries, all or none: the commit point of their studies.

        Raises:
            OutputError: the disk is full, or the journal may not be written.
        """
        fresh = {entry.study_id: entry for entry in entries}
        self._change(
            "INSERT OR REPLACE INTO studies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(one) for one in fresh.values()],
        )

    def _change(self, statement: str, values: list[tuple[str, ...]]) -> None:
        try:
            with self._connection:
                self._connection.executemany(statement, values)
        except sqlite3.OperationalError as error:  # a full disk, or a file that may not be written
            raise OutputError(
                f"{self._path} cannot be written: {one_line(error)}.",
                fix="What was finished is kept: see to the disk, and run the same command again.",
            ) from error

    def forget(self, ids: Iterable[str]) -> None:
        """Drop entries."""
        self._change("DELETE FROM studies WHERE study_id = ?", [(i,) for i in ids])

    def disagreements(self) -> dict[str, str]:
        """The studies on which journal and folder differ, and how, by id; no study is read."""
        present = pl.DataFrame({"study_id": study_ids(self._store.path)}, schema={"study_id": pl.String})
        committed, failed = self.committed_table(), self._table("SELECT study_id FROM studies WHERE checksum = ''")
        known = self._table("SELECT study_id FROM studies")
        others = self._table("SELECT study_id FROM studies WHERE recipe_hash != ?", self._store.info.recipe_hash)
        kinds = (
            (others, "the journal has it with another recipe."),
            (committed.join(present, on="study_id", how="anti"), "the journal has it, but its folder is gone."),
            (present.join(known, on="study_id", how="anti"), "it is not in the journal."),
            (present.join(failed, on="study_id", how="semi"), _FAILED_AND_THERE),
        )
        return {study_id: text for table, text in kinds for study_id in table["study_id"]}

    def settle(self) -> None:
        """Bring journal and folder in line, as it is due after a driver died or files were removed by hand.

        Entries of another recipe, of unusable rows of a cohort table, and of studies that are gone are dropped. A study
        that is not entered was written before its driver died, and is entered if it is as it was written, and else
        removed. One whose input has changed into something that fails is removed: what is outdated is not served.
        """
        recipe_hash = self._store.info.recipe_hash
        outdated = "SELECT study_id FROM studies WHERE recipe_hash != ? OR (status = 'failed' AND stage = 'cohort')"
        self.forget([row[0] for row in self.rows(outdated, recipe_hash)])
        found: list[JournalEntry] = []
        for study_id in self.disagreements():
            path = study_path(self._store.path, study_id)
            if study_id not in self.entries:
                entry = _sound_entry(path)
                if entry is None:
                    remove(path)
                else:
                    found.append(entry)
            elif path.exists():
                remove(path)
            else:
                self.forget([study_id])
        self.record(entry for entry in found if entry.recipe_hash == recipe_hash)


def entry_of(study: StudyReader) -> JournalEntry:
    """The entry of a study that is in the store and not in the journal, by the study's own attributes."""
    return JournalEntry(study.study_id, study.attributes["recipe_hash"], checksum=study.attributes["source_checksum"])


def _sound_entry(path: Path) -> JournalEntry | None:
    """The entry of a study that is not in the journal; None where the study is not as it was written."""
    try:
        study = StudyReader(path)
        return None if study.damage() else entry_of(study)
    except (StoreError, KeyError, OSError):
        return None


def _entry(*row: str) -> JournalEntry:
    try:
        return _read_entry(*row)
    except _DAMAGE as error:
        raise StoreError(
            f"{JOURNAL} cannot be read: {one_line(error)}.", code="damaged_journal", fix=_REMOVE
        ) from error


def _read_entry(
    study_id: str, status: str, recipe_hash: str, fingerprint: str, checksum: str, *rest: str
) -> JournalEntry:
    stage, code, message, details, seconds = rest
    failure = Failure(study_id, stage, code, message, json.loads(details)) if status == "failed" else None
    return JournalEntry(study_id, recipe_hash, fingerprint, checksum, failure, json.loads(seconds))


def _row(entry: JournalEntry) -> tuple[str, ...]:
    failure = entry.failure or Failure(entry.study_id, "", "", "")
    details, seconds = plain_json(failure.details), plain_json(entry.seconds)
    texts = (
        entry.study_id, entry.status, entry.recipe_hash, entry.fingerprint, entry.checksum,
        failure.stage, failure.code, failure.message, details, seconds,
    )  # fmt: skip
    return tuple(map(encodable, texts))
