"""The training loop: batch, step; a line of numbers now and then, a checkpoint now and then, an end at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from ctglip.config import Settings
from ctglip.data.loading import Batches, prefetched
from ctglip.objectives.base import Objective
from ctglip.training.checkpoint import Training, save_checkpoint
from ctglip.training.distributed import DistributedContext
from ctglip.training.health import Collapse
from ctglip.training.optim import OptimSettings, set_learning_rate
from ctglip.training.step import Stepper, rows_of
from ctglip.training.tracking import Metrics, Track

SCORE = "val_macro_auroc"
"""The number of a validation that says which checkpoint is the best."""


class LoopSettings(Settings):
    """How long, on what, and how often something is written.

    Attributes:
        steps: optimiser steps of the whole run.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints; the last step is always one.
        keep: checkpoints that are kept: the last so many, and the best besides.
        validate_every: steps between validations; 0 validates at the end alone.
        release: the weights of the last step, or those of the best validation.
        device: ``auto`` takes a GPU where there is one.
        autocast: bfloat16 in the forward pass (GPUs).
        compile: compile the encoder (``torch.compile``); the first steps are slow.
        threads: torch threads on a CPU; 0 leaves torch's own choice.
        workers: worker processes that make batches; 0 makes them in the process that trains, beside a GPU's work in a
            thread.
        micro_batch: images that a process encodes at a time, for batches that do not fit its memory; the gradient is
            that of the whole batch (GradCache), for about a third more time.
        ema: decay of the weights' moving average, which is then what is validated and released; 0 keeps none.
        tensorboard: write event files besides ``metrics.jsonl``.
        gradient_norms: log how hard each loss pulls at the features.
        collapse_after: stop when embeddings have been collapsed for so many steps; 0 never stops.
        pairs: samples on the page that shows what is learned (``pairs.html``); 0 writes none.
    """

    steps: int = Field(default=1000, ge=1)
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    keep: int = Field(default=2, ge=1)
    validate_every: int = Field(default=0, ge=0)
    release: Literal["last", "best"] = "last"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    autocast: bool = False
    compile: bool = False
    threads: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    micro_batch: int | None = Field(default=None, ge=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    tensorboard: bool = True
    gradient_norms: bool = False
    collapse_after: int = Field(default=500, ge=0)
    pairs: int = Field(default=12, ge=0)


class Stopped(Exception):
    """Training was asked to stop; ``step`` steps are done and saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"Stopped after step {step}; a checkpoint was saved.")
        self.step = step

    def __reduce__(self) -> tuple[object, ...]:
        return (Stopped, (self.step,))


@dataclass(frozen=True)
class Around:
    """What a loop talks to while it runs; all of it may be missing.

    Attributes:
        validate: numbers to log at validation steps and at the end; called on rank 0.
        progress: called with (steps done, steps).
        track: another tracker, called with each line of the metrics.
        stop: asked after each step whether to save and end.
        studies: the studies of a step's batch, by which a message names them.
    """

    validate: Callable[[], dict[str, float]] | None = None
    progress: Callable[[int, int], None] | None = None
    track: Track | None = None
    stop: Callable[[], bool] | None = None
    studies: Callable[[int], Sequence[str]] | None = None


def train(
    training: Training,
    batches: Batches,
    start: int,
    run: Path,
    loop: LoopSettings,
    optim: OptimSettings,
    seed: int = 0,
    ranks: DistributedContext | None = None,
    around: Around | None = None,
) -> None:
    """Train from step ``start`` to the end, writing metrics and checkpoints into the run.

    Args:
        training: objective (model, losses and temperatures, on its device), optimiser, average.
        batches: this rank's slice of the batch of a step; made while the step before it is computed.
        start: steps already done.
        seed: of what is random inside of the model.
        ranks: this process among those that train together; rank 0 writes.

    Raises:
        ModelError: code ``not_finite`` or ``collapsed``: names the step and its studies.
        Stopped: ``around.stop`` said so; the state is saved.
    """
    ranks, around = ranks or DistributedContext(), around or Around()
    assert isinstance(training.objective, Objective)
    step = Stepper(training, ranks, loop.micro_batch, loop.autocast, optim.clip, loop.gradient_norms)
    write = _Writer(training, run, loop, ranks, around, start)
    training.objective.train()
    coming = prefetched(batches, start, loop.steps, loop.workers, ahead=ranks.device != "cpu")
    try:
        for done, (batch, waited) in zip(range(start, loop.steps), coming, strict=True):
            ranks.seed(seed, done)
            training.objective.progress = done / loop.steps
            rate = set_learning_rate(training.optimizer, done, loop.steps, optim)
            look = (done + 1) % loop.log_every == 0 or done + 1 == loop.steps
            values = step(batch, done, look, lambda done=done: _studies(around, done))
            if training.ema is not None:
                training.ema.update(training.objective, done)
            write.after(done + 1, {**values, "lr": rate} if look else {}, waited, rows_of(batch))
    finally:
        coming.close()
        write.close()


class _Writer:
    """What is written after a step: numbers, validation, checkpoint; and whether to go on."""

    def __init__(
        self, training: Training, run: Path, loop: LoopSettings, ranks: DistributedContext, around: Around, start: int
    ) -> None:
        self.training, self.run, self.loop, self.ranks, self.around = training, run, loop, ranks, around
        self.metrics = Metrics(run, start, loop.tensorboard, around.track) if ranks.first else None
        self.collapse = Collapse(loop.collapse_after)
        self.clock, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def after(self, done: int, values: dict[str, float], waited: float, rows: int) -> None:
        """Log, validate, save, report, and stop where it is asked for."""
        loop, last = self.loop, done == self.loop.steps
        self.waited, self.steps = self.waited + waited, self.steps + 1
        if values:
            self._log(done, values, rows)
        score = None
        if last or (loop.validate_every and done % loop.validate_every == 0):
            score = self._validate(done)
        stop = self.around.stop is not None and self.ranks.any(self.around.stop())
        if (score is not None or stop or last or done % loop.checkpoint_every == 0) and self.ranks.first:
            save_checkpoint(self.run / "checkpoints", done, self.training, score, loop.keep)
        if self.around.progress and self.ranks.first:
            self.around.progress(done, loop.steps)
        if stop and not last:
            raise Stopped(done)

    def close(self) -> None:
        """Close what is open."""
        if self.metrics:
            self.metrics.close()

    def _log(self, done: int, values: dict[str, float], rows: int) -> None:
        seconds, steps = time.perf_counter() - self.clock, max(self.steps, 1)
        speed = {
            "seconds": seconds,
            "data_wait_s": self.waited / steps,
            "rows_per_s": rows * self.ranks.world * steps / max(seconds, 1e-9),
        }
        if self.metrics:
            self.metrics.write(done, {**values, **speed})
        self._restart()
        self.collapse.check(done, values, rows, _studies(self.around, done - 1))

    def _validate(self, done: int) -> float | None:
        """The validation's score; None where there is none, and on other ranks than the first."""
        values: dict[str, float] = {}
        if self.around.validate and self.metrics:
            with self.training.averaged():
                values = self.around.validate()
            self.metrics.write(done, values)
        self.ranks.wait()
        self._restart()
        return values.get(SCORE)

    def _restart(self) -> None:
        self.clock, self.waited, self.steps = time.perf_counter(), 0.0, 0


def _studies(around: Around, step: int) -> Sequence[str]:
    return around.studies(step) if around.studies else ()
