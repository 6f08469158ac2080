"""What became of each study: the one answer to whether it is done or failed, with which recipe, and from which input.

``STORE/journal.sqlite`` is the commit point. The folder of studies is brought in line with it (``Journal.settle``), the
tables are made from the studies that it stands for (``tables.compact``), and nothing else keeps such a list. Only who
holds the store writes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

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


class Journal:
    """The journal of a store; use it as a context manager.

    Attributes:
        entries: every study's last entry, by id.

    Raises:
        StoreError: ``damaged_journal`` when the file is no journal.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        path = store.path / JOURNAL
        self._connection = sqlite3.connect(path)
        try:
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreError(
                    f"{path} has format version {version}, this program reads {VERSION}.",
                    code="store_version",
                    fix="Use the ctglip version that wrote it.",
                )
            self._connection.execute(_SCHEMA)
            if version < VERSION:
                with suppress(sqlite3.OperationalError):  # a store that is only read stays as it is
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")
            rows = self._connection.execute("SELECT * FROM studies ORDER BY study_id").fetchall()
            self.entries: dict[str, JournalEntry] = {row[0]: _entry(*row) for row in rows}
        except StoreError:
            self._connection.close()
            raise
        except (sqlite3.Error, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            self._connection.close()
            raise StoreError(
                f"{path} cannot be read: {one_line(error)}.",
                code="damaged_journal",
                fix="Remove it; the next run checks every study against its input again.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def committed(self) -> dict[str, str]:
        """The studies that the store serves: id -> checksum of the input that each was made from."""
        return {i: entry.checksum for i, entry in self.entries.items() if entry.checksum}

    def failures(self) -> list[Failure]:
        """The failed studies, by id."""
        return [entry.failure for _, entry in sorted(self.entries.items()) if entry.failure]

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
        self.entries |= fresh

    def _change(self, statement: str, values: list[tuple[str, ...]]) -> None:
        try:
            with self._connection:
                self._connection.executemany(statement, values)
        except sqlite3.OperationalError as error:  # a full disk, a place that may not be written
            raise OutputError(
                f"{self._store.path / JOURNAL} cannot be written: {one_line(error)}.",
                fix="What was finished is kept: see to the disk, and run the same command again.",
            ) from error

    def forget(self, ids: Iterable[str]) -> None:
        """Drop entries."""
        ids = list(ids)
        self._change("DELETE FROM studies WHERE study_id = ?", [(i,) for i in ids])
        for study_id in ids:
            self.entries.pop(study_id, None)

    def disagreements(self) -> dict[str, str]:
        """The studies on which journal and folder differ, and how, by id; no study is read."""
        present, committed = set(study_ids(self._store.path)), self.committed().keys()
        others = [i for i, entry in self.entries.items() if entry.recipe_hash != self._store.info.recipe_hash]
        found = dict.fromkeys(others, "the journal has it with another recipe.")
        found |= dict.fromkeys(committed - present, "the journal has it, but its folder is gone.")
        found |= dict.fromkeys(present - self.entries.keys(), "it is not in the journal.")
        found |= dict.fromkeys(
            present & (self.entries.keys() - committed), "the journal says that it failed, but its folder is there."
        )
        return found

    def settle(self) -> None:
        """Bring journal and folder in line, as it is due after a driver died or files were removed by hand.

        Entries of another recipe, of unusable rows of a cohort table, and of studies that are gone are dropped. A study
        that is not entered was written before its driver died, and is entered if it is as it was written, and else
        removed. One whose input has changed into something that fails is removed: what is outdated is not served.
        """
        recipe_hash = self._store.info.recipe_hash
        self.forget(
            [
                study_id
                for study_id, entry in self.entries.items()
                if entry.recipe_hash != recipe_hash or (entry.failure and entry.failure.stage == "cohort")
            ]
        )
        found: list[JournalEntry] = []
        for study_id in self.disagreements():
            path = study_path(self._store.path, study_id)
            if study_id not in self.entries:
                entry = _whole(path)
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


def _whole(path: Path) -> JournalEntry | None:
    """The entry of a study that is not in the journal; None where the study is not as it was written."""
    try:
        study = StudyReader(path)
        return None if study.damage() else entry_of(study)
    except (StoreError, KeyError, OSError):
        return None


def _entry(study_id: str, status: str, recipe_hash: str, fingerprint: str, checksum: str, *rest: str) -> JournalEntry:
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
