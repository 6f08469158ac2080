"""What a user is told when a command fails: one line, never a traceback."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from pathlib import Path

from ctglip.errors import CTGLIPError
from ctglip.files import error_chain, is_disk_full

USERS, OURS = 2, 70
"""Exit codes: a fault of the input or of the machine, and one of the program."""
TRACEBACK = "CTGLIP_TRACEBACK"
"""Set in the environment, tracebacks are printed."""
_SHOWN = 300
_LOST = re.compile(r"\bgloo\b|\bNCCL\b|Connection (?:closed|reset) by peer", re.IGNORECASE)
"""What the libraries under torch.distributed say when a rank has gone."""
_SYSTEM = {
    FileNotFoundError: "is not there",
    PermissionError: "may not be read or written: permission denied",
    IsADirectoryError: "is a folder, expected a file",
    NotADirectoryError: "is no folder",
    FileExistsError: "is there already",
}


def failure(error: Exception) -> tuple[str, int]:
    """The line for an error, and the exit code. Of a fault of the program the traceback goes to a file."""
    if isinstance(error, CTGLIPError):
        return _with_code(error), USERS
    if is_disk_full(error):
        return "no space is left on the disk; what was finished is kept. Make room and go on.", USERS
    for one in error_chain(error):
        if (known := _known(one)) is not None:
            return known, USERS
    return f"{_line(error)} This is a fault of ctglip{_report_file(error)}.", OURS


def _with_code(error: CTGLIPError) -> str:
    """The line for a fault of the input, with the code that ``ctglip explain`` takes, where it has one of its own."""
    return str(error) if error.code == error.default_code else f"{error} [{error.code}]"


def _known(error: BaseException) -> str | None:
    """The line for what machines and files do; None for what only a mistake of ours does."""
    name = type(error).__name__
    if isinstance(error, CTGLIPError):
        return _with_code(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or name == "ArrayMemoryError":
        return "memory ran out; what was finished is kept. Use fewer workers, or smaller batches."
    if name == "OutOfMemoryError":
        return "the GPU's memory ran out. Use a smaller batch, or set loop.micro_batch."
    if name in ("BrokenProcessPool", "BrokenExecutor") or "DataLoader worker" in str(error):
        return "a worker process was killed, most often because memory ran out. Use fewer workers, and go on."
    if name in ("DistBackendError", "DistNetworkError", "DistStoreError") or _LOST.search(str(error)):
        return (
            "another of the processes that train together has ended or answers no more; what was saved is kept. Start "
            "all of them again with --resume."
        )
    if name == "SafetensorError":
        return f"a safetensors file is broken or cut off ({_line(error)}) Copy it again."
    if name in ("UnpicklingError", "BadZipFile", "EOFError"):
        return f"a file is broken or cut off ({_line(error)}) Copy it again."
    return None


def _of_system(error: OSError) -> str:
    what = next((text for kind, text in _SYSTEM.items() if isinstance(error, kind)), None)
    reason = (error.strerror or _line(error)).rstrip(".")
    if error.filename is None:
        return f"{reason}." if what is None else f"a file {what} ({reason})."
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"{path} {what}." if what else f"{path}: {reason}."


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}".rstrip(": .") + "."


def _report_file(error: BaseException) -> str:
    """Where the traceback is, in words."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="ctglip-error-", suffix=".txt", delete=False) as stream:
            traceback.print_exception(error, file=stream)
    except OSError:
        return f"; set {TRACEBACK}=1 to see where"
    return f", please report it with {Path(stream.name)}"
