"""How a run goes, for the person who waits: rate, failures by reason, time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ctglip_preprocessing.case import CaseResult
from ctglip_preprocessing.driver import Watch

LINE_EVERY_S = 30.0


class _Tally(Watch):
    """Counts results and puts them in words."""

    def __init__(self) -> None:
        self.total = 0
        self.finished = 0
        self.reasons: Counter[str] = Counter()
        self.start = time.monotonic()

    def begin(self, total: int, up_to_date: int) -> None:  # noqa: ARG002
        self.total = total
        self.start = time.monotonic()

    def advance(self, result: CaseResult) -> None:
        self.finished += 1
        if result.failure is not None:
            self.reasons[result.failure.code] += 1

    @property
    def rate(self) -> str:
        per_minute = 60 * self.finished / max(time.monotonic() - self.start, 1e-6)
        return f"{per_minute:.0f} studies/min" if self.finished else ""

    @property
    def failures(self) -> str:
        return ", ".join(f"{count} {code}" for code, count in self.reasons.most_common(4))


class _Bar(_Tally):
    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("Preprocessing", total=None, rate="", failures="")

    def begin(self, total: int, up_to_date: int) -> None:
        super().begin(total, up_to_date)
        self._bar.update(self._task, total=total)

    def advance(self, result: CaseResult) -> None:
        """Move the bar."""
        super().advance(result)
        self._bar.update(self._task, completed=self.finished, rate=self.rate, failures=self.failures)


class _Lines(_Tally):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._tenth = 0
        self._last_line = time.monotonic()

    def advance(self, result: CaseResult) -> None:
        """A line for every tenth of the work, and now and then between."""
        super().advance(result)
        tenth, now = 10 * self.finished // max(self.total, 1), time.monotonic()
        if tenth <= self._tenth and now - self._last_line < LINE_EVERY_S:
            return
        self._tenth, self._last_line = tenth, now
        left = (now - self.start) / self.finished * (self.total - self.finished)
        failures = f"; failed: {self.failures}" if self.reasons else ""
        self._console.print(
            f"Preprocessing: {self.finished}/{self.total}, {self.rate}, {left:.0f} s left{failures}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A live bar on a terminal; elsewhere a line at every tenth, and at least every half minute."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failures]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)
