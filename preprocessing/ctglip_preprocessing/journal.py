"""What was done and what failed, study by study: the file that makes a run resumable. Only the driver writes it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctglip.errors import StoreError
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
_COLUMNS = (
    "study_id", "status", "recipe_hash", "fingerprint", "checksum", "stage", "code", "message", "details", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class JournalEntry:
    """The last that happened to a study.

    Attributes:
        status: ``done`` or ``failed``.
        recipe_hash: the store's when it happened.
        fingerprint: what the input looked like from outside, see ``stages.ingest.fingerprint``.
        checksum: hash of the input that the study in the store was made from; empty when there is none. A failed
            study may have one: its input cannot be read now, and what was made of it earlier is kept.
        stage, code, message, details: of a failure; empty otherwise.
        seconds: time spent, by stage.
    """

    study_id: str
    status: str
    recipe_hash: str
    fingerprint: str = ""
    checksum: str = ""
    stage: str = ""
    code: str = ""
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failure(self) -> Failure:
        """The entry as a failure."""
        return Failure(self.study_id, self.stage, self.code, self.message, self.details)


class Journal:
    """The journal of one store.

    Raises:
        StoreError: ``damaged_journal`` when the file is no journal.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        try:
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{path} cannot be read: {error}.",
                code="damaged_journal",
                fix="Remove it; the next run checks every study against its input again.",
            ) from error

    def entries(self) -> dict[str, JournalEntry]:
        """All entries by study_id."""
        rows = self._connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM studies ORDER BY study_id")  # noqa: S608
        found = (dict(zip(_COLUMNS, row, strict=True)) for row in rows)
        parsed = (row | {key: json.loads(row[key]) for key in ("details", "seconds")} for row in found)
        return {row["study_id"]: JournalEntry(**row) for row in parsed}

    def record(self, entries: Iterable[JournalEntry]) -> None:
        """Write entries, all or none: the commit point of their studies."""
        rows = [
            [
                json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict) else value
                for value in (getattr(entry, name) for name in _COLUMNS)
            ]
            for entry in entries
        ]
        marks = ", ".join("?" * len(_COLUMNS))
        with self._connection:
            self._connection.executemany(f"INSERT OR REPLACE INTO studies VALUES ({marks})", rows)  # noqa: S608

    def forget(self, study_ids: Iterable[str]) -> None:
        """Drop entries."""
        with self._connection:
            self._connection.executemany("DELETE FROM studies WHERE study_id = ?", [(i,) for i in study_ids])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
