"""Runs side by side, one thread each: what the headline experiments share."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from contextlib import suppress


def tied_to_the_parent() -> None:
    """A worker ends when the experiment does, in whatever way; it counts on one thread."""
    import torch

    from ctglip.parallel import count_on_one_thread
    from ctglip.training.allocator import keep_freed_memory

    torch.set_num_threads(1)
    count_on_one_thread()
    keep_freed_memory()  # as ``pretrain`` does, for what is timed without it
    with suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it was gone before
        os._exit(1)
