"""The list of uploads and of what is being done with them: SQLite in WAL mode, shared by the server and its worker.

It holds random ids, states, times of this machine, counts, and the words of checks; nothing that a header or a file
name says. A server that ends in the middle of a step finds the upload in the queue again when it starts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctglip.errors import CTGLIPError

JobState = Literal["uploading", "queued", "running", "choose", "ready", "failed", "cancelled"]
STEPS = ("read", "check", "segment", "encode")
ENDED = ("choose", "ready", "failed", "cancelled")
"""States in which nothing happens until somebody does something."""
MOST_ATTEMPTS = 2
"""How often a scan that ended the worker is tried."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS scans (
  id TEXT PRIMARY KEY, state TEXT NOT NULL, created REAL NOT NULL, queued REAL, ended REAL,
  version INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, kind TEXT NOT NULL DEFAULT 'upload',
  about TEXT NOT NULL DEFAULT '{}', error TEXT, choice INTEGER
);
CREATE TABLE IF NOT EXISTS steps (
  scan TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, started REAL NOT NULL, seconds REAL,
  note TEXT NOT NULL DEFAULT '', PRIMARY KEY (scan, name), FOREIGN KEY (scan) REFERENCES scans (id) ON DELETE CASCADE
);
"""


@dataclass(frozen=True)
class JobStep:
    """One step of what is done with an upload; ``seconds`` that it has taken, or took."""

    name: str
    state: Literal["running", "done", "failed"]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Job:
    """An upload and what was done with it.

    Attributes:
        id: random.
        state: see ``JobState``; ``choose``: it holds several series, and one is to be chosen.
        created: when the upload began, seconds since 1970.
        version: counts the changes.
        kind: ``upload``, or ``stored``: a study of the server's store.
        ahead: how many are before it in the queue.
        about: what is known of it: counts of files, series to choose from, checks, organs.
        error: ``message``, ``code`` and ``fix`` of what went wrong.
        choice: number of the chosen series in ``about``'s list.
        steps: in their order, as far as they have begun.
    """

    id: str
    state: JobState
    created: float
    version: int
    kind: str = "upload"
    ahead: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    choice: int | None = None
    steps: tuple[JobStep, ...] = ()


class JobStore:
    """The database of one server.

    Args:
        path: of the file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
        path.chmod(0o600)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=NORMAL")
            yield connection
        finally:
            connection.close()

    def _change(self, scan_id: str, assignments: str, *values: Any, among: tuple[str, ...] = ()) -> bool:
        """Set columns of an upload, in one of some states; whether there was one."""
        where = f" AND state IN ({', '.join('?' * len(among))})" if among else ""
        with self._open() as connection:
            done = connection.execute(
                f"UPDATE scans SET {assignments}, version = version + 1 WHERE id = ?{where}",  # noqa: S608  constants
                (*values, scan_id, *among),
            )
            return done.rowcount > 0

    def add(self, scan_id: str, kind: str = "upload", about: dict[str, Any] | None = None) -> None:
        """A new upload."""
        with self._open() as connection:
            connection.execute(
                "INSERT INTO scans (id, state, created, kind, about) VALUES (?, 'uploading', ?, ?, ?)",
                (scan_id, time.time(), kind, json.dumps(about or {})),
            )

    def get(self, scan_id: str) -> Job:
        """One upload.

        Raises:
            CTGLIPError: code ``no_scan``.
        """
        with self._open() as connection:
            row = connection.execute("SELECT * FROM scans WHERE id = ?", (scan_id,)).fetchone()
            if row is None:
                raise CTGLIPError("There is no such scan.", code="no_scan", fix="It may have been deleted.")
            return _job(connection, row)

    def all(self) -> list[Job]:
        """Every upload, the newest first."""
        with self._open() as connection:
            rows = connection.execute("SELECT * FROM scans ORDER BY created DESC, id").fetchall()
            return [_job(connection, row) for row in rows]

    def count(self, *states: JobState) -> int:
        """How many uploads are in some states."""
        with self._open() as connection:
            marks = ", ".join("?" * len(states))
            found = connection.execute(f"SELECT count(*) FROM scans WHERE state IN ({marks})", states)  # noqa: S608
            return int(found.fetchone()[0])

    def queue(self, scan_id: str, choice: int | None = None) -> bool:
        """Put an upload at the end of the queue; False where it is there already, or is being read."""
        return self._change(
            scan_id, "state = 'queued', queued = ?, error = NULL, choice = coalesce(?, choice), attempts = 0",
            time.time(), choice, among=("uploading", "choose", "failed", "cancelled"),
        )  # fmt: skip

    def claim(self) -> Job | None:
        """Take the upload that has waited longest; None where none waits."""
        with self._open() as connection:
            row = connection.execute(
                "UPDATE scans SET state = 'running', version = version + 1, attempts = attempts + 1 WHERE id = "
                "(SELECT id FROM scans WHERE state = 'queued' ORDER BY queued, id LIMIT 1) RETURNING *"
            ).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM steps WHERE scan = ?", (row["id"],))
            return _job(connection, row)

    def running(self) -> Job | None:
        """The upload that the worker has."""
        with self._open() as connection:
            row = connection.execute("SELECT * FROM scans WHERE state = 'running'").fetchone()
            return None if row is None else _job(connection, row)

    def begin(self, scan_id: str, name: str) -> None:
        """A step begins, and the one before it is done."""
        now = time.time()
        with self._open() as connection:
            connection.execute(
                "UPDATE steps SET state = 'done', seconds = ? - started WHERE scan = ? AND state = 'running'",
                (now, scan_id),
            )
            connection.execute(
                "INSERT OR REPLACE INTO steps (scan, name, state, started) VALUES (?, ?, 'running', ?)",
                (scan_id, name, now),
            )
        self._change(scan_id, "state = state")

    def note(self, scan_id: str, name: str, note: str) -> None:
        """Say something of a step."""
        with self._open() as connection:
            connection.execute("UPDATE steps SET note = ? WHERE scan = ? AND name = ?", (note, scan_id, name))
        self._change(scan_id, "state = state")

    def tell(self, scan_id: str, **about: Any) -> None:
        """Add to what is known of an upload."""
        self._change(scan_id, "about = json_patch(about, ?)", json.dumps(about))

    def end(self, scan_id: str, state: JobState, error: CTGLIPError | None = None) -> bool:
        """An upload is no longer worked on; False where it was cancelled or deleted meanwhile."""
        now = time.time()
        said = None
        if error is not None:
            said = json.dumps({"message": error.message, "code": error.code, "fix": error.fix})
        with self._open() as connection:
            connection.execute(
                "UPDATE steps SET state = ?, seconds = ? - started WHERE scan = ? AND state = 'running'",
                ("failed" if state == "failed" else "done", now, scan_id),
            )
        return self._change(scan_id, "state = ?, ended = ?, error = ?", state, now, said, among=("running",))

    def cancel(self, scan_id: str) -> bool:
        """Work on an upload no longer; False where there is nothing to stop."""
        return self._change(
            scan_id, "state = 'cancelled', ended = ?", time.time(), among=("queued", "running", "choose", "uploading")
        )

    def give_up(self, scan_id: str) -> None:
        """The worker ended in the middle of an upload: it is tried again, but not for ever."""
        with self._open() as connection:
            row = connection.execute("SELECT attempts FROM scans WHERE id = ?", (scan_id,)).fetchone()
        if row is not None and row["attempts"] >= MOST_ATTEMPTS:
            self.end(
                scan_id,
                "failed",
                CTGLIPError(
                    "The process that reads scans ended over this one, most likely for want of memory.",
                    code="worker_ended",
                    fix="Give a smaller scan, or a machine with more memory.",
                ),
            )
        else:
            self._change(scan_id, "state = 'queued'", among=("running",))

    def resume(self) -> int:
        """What was being worked on when a server ended waits again, in its old place; how many these are."""
        with self._open() as connection:
            done = connection.execute(
                "UPDATE scans SET state = 'queued', attempts = 0, version = version + 1 WHERE state = 'running'"
            )
            return done.rowcount

    def delete(self, scan_id: str) -> bool:
        """Forget an upload."""
        with self._open() as connection:
            return connection.execute("DELETE FROM scans WHERE id = ?", (scan_id,)).rowcount > 0

    def older_than(self, seconds: float) -> list[str]:
        """Uploads that were begun so long ago and are not being read."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT id FROM scans WHERE created < ? AND state != 'running'", (time.time() - seconds,)
            )
            return [row["id"] for row in rows]


def _job(connection: sqlite3.Connection, row: sqlite3.Row) -> Job:
    steps = connection.execute("SELECT * FROM steps WHERE scan = ? ORDER BY started", (row["id"],)).fetchall()
    ahead = 0
    if row["state"] == "queued":
        waiting = "SELECT count(*) FROM scans WHERE state = 'running' OR (state = 'queued' AND queued < ?)"
        ahead = connection.execute(waiting, (row["queued"],)).fetchone()[0]
    now = time.time()
    return Job(
        id=row["id"],
        state=row["state"],
        created=row["created"],
        version=row["version"],
        kind=row["kind"],
        ahead=ahead,
        about=json.loads(row["about"]),
        error=None if row["error"] is None else json.loads(row["error"]),
        choice=row["choice"],
        steps=tuple(
            JobStep(one["name"], one["state"], round(one["seconds"] or now - one["started"], 3), one["note"])
            for one in steps
        ),
    )
