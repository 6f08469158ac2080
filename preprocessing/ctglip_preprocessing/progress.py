"""How a run goes, for the person who waits: rate, failures by reason, time left."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ctglip_preprocessing.driver import Watch
from ctglip_preprocessing.executor import CaseResults

LINE_EVERY_S = 30.0


def watching(console: Console) -> Watch:
    """A live bar on a terminal; elsewhere a line at every tenth, and at least every half minute."""
    return partial(_bar if console.is_terminal else _lines, console)


def _bar(console: Console, results: CaseResults, total: int) -> CaseResults:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failures]}"),
    )
    tally = _Tally()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Preprocessing", total=total, rate="", failures="")
        for result in tally.count(results):
            yield result
            bar.update(task, completed=tally.finished, rate=tally.rate, failures=tally.failures)


def _lines(console: Console, results: CaseResults, total: int) -> CaseResults:
    tally, tenth, last_line = _Tally(), 0, time.monotonic()
    for result in tally.count(results):
        yield result
        now = time.monotonic()
        if 10 * tally.finished // total <= tenth and now - last_line < LINE_EVERY_S:
            continue
        tenth, last_line = 10 * tally.finished // total, now
        left = (now - tally.start) / tally.finished * (total - tally.finished)
        failures = f"; failed: {tally.failures}" if tally.reasons else ""
        line = f"Preprocessing: {tally.finished}/{total}, {tally.rate}, {left:.0f} s left{failures}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Tally:
    """Counts results as they pass."""

    def __init__(self) -> None:
        self.finished = 0
        self.reasons: Counter[str] = Counter()
        self.start = time.monotonic()

    def count(self, results: CaseResults) -> CaseResults:
        for result in results:
            self.finished += 1
            if result.failure is not None:
                self.reasons[result.failure.code] += 1
            yield result

    @property
    def rate(self) -> str:
        return f"{60 * self.finished / max(time.monotonic() - self.start, 1e-6):.0f} studies/min"

    @property
    def failures(self) -> str:
        return ", ".join(f"{count} {code}" for code, count in self.reasons.most_common(4))
