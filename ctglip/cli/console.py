"""What all commands share: one console, one progress bar, one way to end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ctglip.files import plain_json

if TYPE_CHECKING:
    from ctglip.types import Progress as Advance

out = Console()
err = Console(stderr=True)
_LISTED = 20
_STILL = 30.0
"""Seconds after which a stage that goes on without counting is named again."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@contextmanager
def progress(label: str) -> Iterator[Advance]:
    """A progress bar on stderr with rate and time left; quiet lines every tenth where there is no terminal."""
    if not err.is_terminal:
        yield _lines(label)
        return
    with _bar() as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err)


class Stages:
    """The stages of a command that has many: each is named when it begins, and may be counted.

    Where there is no terminal a line is printed for what takes longer than a few seconds: its name, then every tenth of
    what is counted, or the seconds that it has taken, never more than one line in ``every`` seconds.

    Args:
        every: seconds.
    """

    def __init__(self, every: float = 3.0) -> None:
        self._every = every
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._state: tuple[str, float, int, int] = ("", time.monotonic(), 0, 0)
        self._last_line: tuple[str, int, float] = ("", -1, 0.0)
        self._ended = threading.Event()

    def begin(self, name: str) -> None:
        """A stage begins."""
        self._state = (name, time.monotonic(), 0, 0)
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=None)

    def report(self, done: int, total: int) -> None:
        """How far the stage is."""
        name, start, _, _ = self._state
        self._state = (name, start, done, total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Stages:
        if err.is_terminal:
            self._bar = _bar()
            self._bar.start()
        else:
            threading.Thread(target=self._print, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()

    def _print(self) -> None:
        while not self._ended.wait(self._every):
            line = self._line(time.monotonic())
            if line:
                err.print(line, highlight=False, markup=False)

    def _line(self, now: float) -> str:
        """What there is to say now; nothing where it was said already."""
        name, start, done, total = self._state
        before, tenth, when = self._last_line
        passed = 10 * done // total if total else 0
        if not name or (name == before and passed == tenth and now - when < _STILL):
            return ""
        self._last_line = (name, passed, now)
        return f"{name}: {done}/{total}" if total else f"{name}, {now - start:.0f} s"


def _lines(label: str) -> Advance:
    last_tenth, first, start = -1, 0, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_tenth, first
        tenth = 10 * done // max(total, 1)
        first = done if last_tenth < 0 else first
        if tenth > last_tenth:
            last_tenth = tenth
            rate = (done - first) / max(time.monotonic() - start, 1e-9)
            left = f", {rate:.3g}/s, {timedelta(seconds=round((total - done) / rate))} left" if done > first else ""
            err.print(f"{label}: {done}/{total}{left}", highlight=False)

    return report


class _Rate(ProgressColumn):
    """Things done in a second."""

    def render(self, task: Task) -> Text:
        """The rate of late, or nothing."""
        return Text(f"{task.speed:.3g}/s" if task.speed else "")


def result(value: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result: JSON on stdout, or lines for people."""
    if as_json:
        sys.stdout.write(plain_json(value, indent=2) + "\n")
    else:
        out.print(text, soft_wrap=True, highlight=False)


def print_line(text: str) -> None:
    """Print text on stdout as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_note(text: str) -> None:
    """Print text on stderr as it is: progress, and what is said beside a result."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def print_problems(*problems: str) -> None:
    """Name what could not be used, and end with 1 if there was something."""
    for problem in problems[:_LISTED]:
        print_note(problem)
    if len(problems) > _LISTED:
        print_note(f"... and {len(problems) - _LISTED} more.")
    if problems:
        raise typer.Exit(1)
