"""How long and how much memory one study may take in this process."""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, _raise_time_up))
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        if hard and sys.__stderr__ is not None:
            stack.callback(faulthandler.cancel_dump_traceback_later)
            faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=sys.__stderr__)
        if _STATUS.is_file():
            soft, most = resource.getrlimit(resource.RLIMIT_DATA)
            stack.callback(resource.setrlimit, resource.RLIMIT_DATA, (soft, most))
            ceilings = [limit for limit in (soft, most) if limit != resource.RLIM_INFINITY]
            allowed = min([_data_bytes() + int(gigabytes * 1e9), *ceilings])
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))
        yield


def _raise_time_up(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TimeUp


def _data_bytes() -> int:
    """Private memory of this process as the limit counts it."""
    status = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(status.get("VmData", "0 kB").split()[0]) * 1024
