"""Ctrl-C in two steps: the first asks the run to stop, the second stops it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Stop = Callable[[], bool]
_STOPPING = b"\nStopping when the studies at work are done; press Ctrl-C again to stop at once.\n"


def never() -> bool:
    """A run that nobody asks to stop."""
    return False


@contextmanager
def stop_on_first_signal() -> Iterator[Stop]:
    """Within, the first SIGINT makes the yielded function true, and each later one raises KeyboardInterrupt.

    Nothing is torn apart by the first: no call into Ray, no transaction. Signals reach the main thread alone; elsewhere
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    stopping = threading.Event()

    def ask(number: int, where: FrameType | None) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        os.write(2, _STOPPING)  # a signal must not enter a stream that is being written to

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stopping.is_set
    finally:
        signal.signal(signal.SIGINT, before)
