"""One writer a store: a lock that the operating system takes back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctglip.errors import StoreError

LOCK = ".lock"


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the store ``root`` for writing.

    Raises:
        StoreError: ``store_in_use`` when another process holds it.
    """
    with (root / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"Another process is writing to {root}.", code="store_in_use", fix="Wait until it has finished."
            ) from error
        yield
