"""The one private folder of a server: what was uploaded, what was made of it, and the list of both."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

from ctglip.errors import CTGLIPError
from ctglip.files import user_cache

_SCAN_ID = re.compile(r"[0-9a-f]{16}")


def default_folder() -> Path:
    """Where uploads lie where no other folder is named."""
    return user_cache() / "serve"


def new_scan_id() -> str:
    """A random name that says nothing of what it stands for."""
    return secrets.token_hex(8)


class ServeFolder:
    """The folder and where things lie in it; only its owner can look into it (mode 0700).

    Args:
        root: made where it is not there.

    Attributes:
        jobs: the database of uploads and their steps.

    Raises:
        CTGLIPError: code ``not_private``: it belongs to another user.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_uid != os.getuid():
            raise CTGLIPError(
                f"{self.root} belongs to another user.", code="not_private", fix="Name a folder of your own: --folder."
            )
        self.root.chmod(0o700)
        self.scans.mkdir(mode=0o700, exist_ok=True)
        self._lock: int | None = None

    @property
    def jobs(self) -> Path:
        """The database."""
        return self.root / "jobs.sqlite"

    @property
    def scans(self) -> Path:
        """Holds a folder for each upload."""
        return self.root / "scans"

    def scan(self, scan_id: str) -> Path:
        """Where all of one upload lies.

        Raises:
            CTGLIPError: code ``no_scan``: that is no id.
        """
        if not _SCAN_ID.fullmatch(scan_id):
            raise CTGLIPError("There is no such scan.", code="no_scan", fix="It may have been deleted.")
        return self.scans / scan_id

    def scan_ids(self, before: float) -> list[str]:
        """The uploads whose folders last changed before a time (seconds since 1970); other entries are nobody's."""
        found = []
        for entry in self.scans.iterdir():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                if _SCAN_ID.fullmatch(entry.name) and entry.stat().st_mtime < before:
                    found.append(entry.name)
        return found

    def uploaded(self, scan_id: str, role: str) -> Path:
        """Where the uploaded files of a role (``scan`` or ``masks``) lie."""
        return self.scan(scan_id) / "uploaded" / role

    def encoded(self, scan_id: str, model: str) -> Path:
        """What a model made of an upload."""
        return self.scan(scan_id) / "models" / model

    def pictures(self, scan_id: str) -> Path:
        """Still pictures of an upload, as PNG."""
        return self.scan(scan_id) / "pictures"

    def remove(self, scan_id: str) -> None:
        """Delete all of an upload."""
        shutil.rmtree(self.scan(scan_id), ignore_errors=True)

    def lock(self) -> None:
        """Keep other servers away until this process ends.

        Raises:
            CTGLIPError: code ``in_use``: another server has it.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise CTGLIPError(
                f"Another ctglip serve works in {self.root}.", code="in_use", fix="End it, or name another --folder."
            ) from error
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
