"""What all commands share: one console, one progress bar, one way to end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

out = Console()
err = Console(stderr=True)
_LISTED = 20

Report = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """A progress bar on stderr with rate and time left; quiet lines every tenth where there is no terminal."""
    if not err.is_terminal:
        yield _lines(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str) -> Report:
    shown, first, start = -1, 0, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown, first
        tenth = 10 * done // max(total, 1)
        first = done if shown < 0 else first
        if tenth > shown:
            shown = tenth
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
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        out.print(text, soft_wrap=True, highlight=False)


def told(*problems: str) -> None:
    """Name what could not be used, and end with 1 if there was something."""
    for problem in problems[:_LISTED]:
        err.print(problem, markup=False, highlight=False, soft_wrap=True)
    if len(problems) > _LISTED:
        err.print(f"... and {len(problems) - _LISTED} more.", markup=False, highlight=False)
    if problems:
        raise typer.Exit(1)
