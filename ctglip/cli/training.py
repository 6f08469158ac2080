"""What the commands that train share: bars, messages, and signals that end a training in good order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from ctglip.cli.console import err, print_note, progress

if TYPE_CHECKING:
    from ctglip.training.callbacks import Callbacks
    from ctglip.types import Progress


@contextmanager
def training_callbacks(label: str, signals: bool = True) -> Iterator[Callbacks]:
    """Bars on the first process of those that train together, one after the other; SIGTERM and Ctrl-C end with 143 and
    130 after the current step.

    Args:
        label: what is counted while it trains.
        signals: answer them here.

    Raises:
        typer.Exit: training was stopped.
    """
    from ctglip.training.callbacks import Callbacks, Stopped

    first = os.environ.get("RANK", "0") == "0"
    with ExitStack() as open_bars:
        bars = _Bars(open_bars) if first else None
        stop = open_bars.enter_context(_signals()) if signals else None
        callbacks = Callbacks(
            progress=(lambda done, of: bars.show(label, done, of)) if bars else None,
            preparing=bars.show if bars else None,
            stop=stop.requested if stop else None,
            message=print_note if first else None,
        )
        try:
            yield callbacks
        except Stopped as stopped:
            open_bars.close()
            if first:
                saved = f"after step {stopped.step}, which is saved" if stopped.step else "before the first step"
                err.print(f"ctglip: stopped {saved}; add --resume to go on.", highlight=False)
            raise typer.Exit(128 + (stop.number if stop else signal.SIGTERM)) from None


class _Bars:
    """One bar after the other."""

    def __init__(self, stack: ExitStack) -> None:
        self._bars = stack.enter_context(ExitStack())
        self._label = ""
        self._report: Progress | None = None

    def show(self, label: str, done: int, of: int) -> None:
        """Show how far something is."""
        if label != self._label:
            self._bars.close()
            self._label, self._report = label, self._bars.enter_context(progress(label))
        assert self._report is not None
        self._report(done, of)


class _Stop:
    """Whether a signal came that asks to end, and which."""

    def __init__(self) -> None:
        self.number = 0

    def requested(self) -> bool:
        """A signal came."""
        return self.number != 0


@contextmanager
def _signals() -> Iterator[_Stop]:
    """SIGTERM and Ctrl-C are noted for the loop to end in good order; a second one ends at once."""
    stop = _Stop()

    def note(number: int, _: FrameType | None) -> None:
        if stop.requested():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
