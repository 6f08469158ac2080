"""All that the web application works with."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError
from ctglip.serve.asking import Asking
from ctglip.serve.folder import ServeFolder, new_scan_id
from ctglip.serve.jobs import JobStore
from ctglip.serve.security import Guard
from ctglip.serve.uploads import Intake, UploadLimits

_DAY_H = 24.0
_MINUTE_S = 60.0


@dataclass
class Serving:
    """All that the application works with.

    Attributes:
        folder, jobs: of the server.
        asking: answers questions.
        limits: of uploads.
        guard: of requests.
        keep_hours: after which uploads are deleted; None: never.
        store: whose studies can be opened, or None.
    """

    folder: ServeFolder
    jobs: JobStore
    asking: Asking
    limits: UploadLimits
    guard: Guard
    keep_hours: float | None = _DAY_H
    store: Path | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.intake = Intake(self.limits)

    def new_scan(self, kind: str = "upload", about: dict[str, Any] | None = None) -> str:
        """The id of a new upload.

        Raises:
            CTGLIPError: code ``busy``: there are too many.
        """
        if len(self.jobs.all()) >= self.limits.kept:
            raise CTGLIPError(f"There are {self.limits.kept} scans.", code="busy", fix="Delete some.")
        scan_id = new_scan_id()
        self.folder.scan(scan_id).mkdir(mode=0o700)
        self.jobs.add(scan_id, kind, about)
        return scan_id

    def check_queue(self) -> None:
        """There is room for another upload to wait.

        Raises:
            CTGLIPError: code ``busy``: there is none.
        """
        if self.jobs.count("queued") >= self.limits.queued:
            raise CTGLIPError(f"{self.limits.queued} scans wait already.", code="busy", fix="Try again later.")

    def delete(self, scan_id: str) -> bool:
        """Delete an upload and all that was made of it."""
        folder = self.folder.scan(scan_id)
        known = self.jobs.delete(scan_id)
        self.asking.forget(scan_id)
        self.intake.forget(folder / "uploaded")
        self.folder.remove(scan_id)
        return known

    def tidy(self) -> None:
        """Delete uploads that are older than they are kept, and what is left of others."""
        if self.keep_hours is not None:
            for scan_id in self.jobs.older_than(self.keep_hours * 3600):
                self.delete(scan_id)
        there = self.folder.scan_ids(time.time() - _MINUTE_S)
        known = {job.id for job in self.jobs.all()}
        for scan_id in there:
            if scan_id not in known:
                self.folder.remove(scan_id)
