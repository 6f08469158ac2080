"""How the C library gives memory back."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)


def keep_freed_memory(device: str = "cpu") -> None:
    """Let a process that trains on a CPU keep what it frees, for what it allocates next (glibc; else nothing happens).

    Each step of training frees and allocates the same large arrays. As delivered, the C library hands each of them back
    to the system and asks for it anew, page by page, which takes up to a quarter of a step on a CPU. The most that the
    process needs at a time does not change.
    """
    if device != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
