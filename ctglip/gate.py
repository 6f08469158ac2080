"""The gate around readers of untrusted files: a caller meets the project's errors alone, whatever a library raised."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ctglip.errors import CTGLIPError
from ctglip.files import is_disk_full, private_name

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def reads(
    kind: type[CTGLIPError], code: str, fix: str = ""
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Around a reader of untrusted files: whatever it raises that is not the project's becomes ``kind`` with ``code``.

    The first path among the arguments names the input. Lack of memory stays what it is, as do interrupts and time
    that is over. Errors of libraries are not quoted: they may hold what headers say of patients.
    """

    def wrap(reader: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """The reader within the gate."""

        @functools.wraps(reader)
        def read(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            try:
                return reader(*args, **options)
            except BaseException as problem:
                if not _of_the_input(problem):
                    raise
                where = _name_of((*args, *options.values()))
                raise kind(f"{where} cannot be read ({_reason(problem)}).", code=code, fix=fix) from problem

        return read

    return wrap


def _of_the_input(problem: BaseException) -> bool:
    """Whether an error is what a broken file makes a library raise; the panics of some are no ``Exception``."""
    if isinstance(problem, (CTGLIPError, MemoryError)) or is_disk_full(problem):
        return False
    return isinstance(problem, Exception) or type(problem).__name__ == "PanicException"


def _reason(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return type(problem).__name__


def _name_of(values: Sequence[Any]) -> str:
    path = next((value for value in values if isinstance(value, Path)), None)
    if path is None:
        return "The input"
    try:
        return private_name(path)
    except (OSError, ValueError):
        return "The input"
