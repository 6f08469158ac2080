"""``ctglip pretrain``: train a model on a store; one process, several under ``torchrun``, or workers of Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ctglip.cli.console import Report, err, progress, result


def pretrain(
    store: Annotated[Path, typer.Argument(help="The store to train on.")],
    run: Annotated[Path, typer.Argument(help="The run's folder: pairs.html, metrics.jsonl, checkpoints/, model/.")],
    config: Annotated[Path, typer.Option(help="Config file, or a shipped name such as demo/pretrain.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last checkpoint; loop.steps may be more than before.")
    ] = False,
    launch: Annotated[str, typer.Option(help="local (alone or under torchrun), or ray for Ray Train.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Workers of Ray Train, a GPU each where there are GPUs.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Pretrain a model on a store.

    On the N GPUs of a machine: torchrun --standalone --nproc-per-node N -m ctglip pretrain STORE RUN --config FILE.

    SIGTERM and Ctrl-C save a checkpoint after the current step and end with 143 and 130; --resume goes on from there.
    Studies that cannot be read are left out and named at the end, and the exit code is 1.
    """
    from ctglip.config import load_settings
    from ctglip.training.callbacks import Callbacks, Stopped
    from ctglip.training.launch import failed_studies
    from ctglip.training.launch import pretrain as run_pretraining
    from ctglip.training.recipe import PretrainConfig

    settings = load_settings(PretrainConfig, config, changes or ())
    first = os.environ.get("RANK", "0") == "0"
    with ExitStack() as around:
        shown = _Stages(around) if first else None
        stop = around.enter_context(_signals()) if launch == "local" else None
        callbacks = Callbacks(
            progress=shown.training if shown else None,
            preparing=shown.preparing if shown else None,
            stop=stop.asked if stop else None,
            message=_show if first else None,
        )
        try:
            model = run_pretraining(store, run, settings, resume, launch, workers=workers, callbacks=callbacks)
        except Stopped as stopped:
            around.close()
            if first:
                saved = f"after step {stopped.step}, which is saved" if stopped.step else "before the first step"
                err.print(f"ctglip: stopped {saved}; add --resume to go on.", highlight=False)
            raise typer.Exit(128 + (stop.number if stop else signal.SIGTERM)) from None
    if first:
        failed = failed_studies(run)
        result({"run": str(run), "model": str(model), "failed": failed}, as_json, f"The model is in {model}.")
        if failed:
            named = f"Left out, because they cannot be read ({len(failed)}): {', '.join(failed)}."
            err.print(
                f"{named} Run: ctglip store verify {store} --repair", markup=False, highlight=False, soft_wrap=True
            )
            raise typer.Exit(1)


def _show(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


class _Stages:
    """One bar after the other: cutting crops, embedding texts, training steps."""

    def __init__(self, around: ExitStack) -> None:
        self._bars = around.enter_context(ExitStack())
        self._now = ""
        self._report: Report | None = None

    def preparing(self, what: str, done: int, of: int) -> None:
        """Show a stage."""
        if what != self._now:
            self._bars.close()
            self._now, self._report = what, self._bars.enter_context(progress(what))
        assert self._report is not None
        self._report(done, of)

    def training(self, done: int, of: int) -> None:
        """Show the steps."""
        self.preparing("Training steps", done, of)


class _Stop:
    """Whether a signal came that asks to end, and which."""

    def __init__(self) -> None:
        self.number = 0

    def asked(self) -> bool:
        """A signal came."""
        return self.number != 0


@contextmanager
def _signals() -> Iterator[_Stop]:
    """SIGTERM and Ctrl-C are noted for the loop to end in good order; a second one ends at once."""
    stop = _Stop()

    def note(number: int, _: FrameType | None) -> None:
        if stop.asked():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
