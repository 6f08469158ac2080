"""How long and how much memory one study may take in this process."""

from __future__ import annotations

import faulthandler
import math
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

GRACE_S = 30.0
_STATUS = Path("/proc/self/status")


class TimeUp(BaseException):
    """A study's time is over. No ``Exception``, so that no library swallows it."""


@contextmanager
def limits(seconds: float, gigabytes: float, hard: bool) -> Iterator[None]:
    """Raise ``TimeUp`` after ``seconds``, ``MemoryError`` beyond ``gigabytes`` more than the process has now.

    Args:
        hard: end the whole process ``GRACE_S`` later when it is stuck where no interrupt reaches it (a dead network
            drive, a loop in C). Only for worker processes.

    Time can be kept in the main thread alone, memory on Linux alone; elsewhere those limits do not hold.
    """
    with _deadline(seconds), _watchdog(seconds + GRACE_S if hard else math.inf), _memory(gigabytes):
        yield


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, where: FrameType | None) -> None:  # noqa: ARG001
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    if math.isinf(seconds) or sys.__stderr__ is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _memory(gigabytes: float) -> Iterator[None]:
    if not _STATUS.is_file():
        yield
        return
    soft, most = resource.getrlimit(resource.RLIMIT_DATA)
    bytes_allowed = _data_bytes() + int(gigabytes * 1e9)
    ceilings = [limit for limit in (soft, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([bytes_allowed, *ceilings]), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, most))


def _data_bytes() -> int:
    """Private memory of this process as the limit counts it."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
