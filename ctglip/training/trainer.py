"""The trainer: batch after batch, a line of numbers now and then, a checkpoint now and then, an end at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ctglip.config import Settings
from ctglip.data.loading import Batches, prefetched
from ctglip.objectives.base import Objective, StepContext
from ctglip.training.callbacks import AUROC, BestWeights, Callbacks, Stopped
from ctglip.training.checkpoint import CHECKPOINTS, TrainingState, load_checkpoint, save_checkpoint
from ctglip.training.distributed import DistributedContext
from ctglip.training.ema import EMA
from ctglip.training.health import Collapse
from ctglip.training.optim import OptimSettings, build_optimizer, set_learning_rate
from ctglip.training.precision import Precision, PrecisionName
from ctglip.training.schedule import Duration, Length, counted
from ctglip.training.step import Stepper, rows_of
from ctglip.training.trackers import TrackerName, open_trackers
from ctglip.training.tracking import Metrics


class LoopSettings(Settings):
    """How long, on what, and how often something is written.

    Attributes:
        steps: optimiser steps of the whole run; or its epochs, from which they follow for a store.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps (or epochs) between checkpoints; the last step is always one.
        keep: checkpoints that are kept: the last so many.
        validate_every: steps (or epochs) between validations; 0 validates at the end alone.
        validation_studies: studies of the split val that are asked about, drawn once where there are more.
        score: what says which weights are the best: the ``auroc`` of zero-shot answers on the split val, or the
            objective's ``loss`` there.
        release: the weights of the last step, or those of the best validation (checkpoints hold both).
        patience: validations without a better one before training ends early; 0 never does.
        device: ``auto`` takes a GPU where there is one.
        precision: of the forward pass: ``fp32``, ``bf16`` (on GPUs; a CPU counts in float32), or ``fp16`` with a
            scaled loss (GPUs).
        compile: compile the encoder (``torch.compile``); the first steps are slow.
        threads: torch threads on a CPU; 0 leaves torch's own choice.
        workers: worker processes that make batches, and read images for validation; 0 makes them in the process that
            trains, beside a GPU's work in a thread.
        micro_batch: images that a process encodes at a time, for batches that do not fit its memory; the gradient is
            that of the whole batch (GradCache), for about a third more time.
        ema: decay of the weights' moving average, which is then what is validated and released; 0 keeps none.
        trackers: told what ``metrics.jsonl`` is told: ``tensorboard``, ``wandb``, ``mlflow``.
        collapse_after: stop when embeddings have been collapsed for so many steps; 0 never stops.
        pairs: samples on the page that shows what is learned (``pairs.html``); 0 writes none.
    """

    steps: Length = Field(default=1000, union_mode="left_to_right")
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: Length = Field(default=250, union_mode="left_to_right")
    keep: int = Field(default=2, ge=1)
    validate_every: Length = Field(default=0, union_mode="left_to_right")
    validation_studies: int = Field(default=300, ge=1)
    score: Literal["auroc", "loss"] = "auroc"
    release: Literal["last", "best"] = "last"
    patience: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: PrecisionName = "fp32"
    compile: bool = False
    threads: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    micro_batch: int | None = Field(default=None, ge=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    collapse_after: int = Field(default=500, ge=0)
    pairs: int = Field(default=12, ge=0)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.validate_every else {"patience": "validate_every is 0"}
        return found if self.compares else {**found, "score": "no weights are compared (release, patience)"}

    @property
    def compares(self) -> bool:
        """Validations decide which weights are kept, or when training ends."""
        return self.release == "best" or self.patience > 0

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        steps, saves, validates = self.steps, self.checkpoint_every, self.validate_every
        negative = any(isinstance(one, int) and one < 0 for one in (steps, saves, validates))
        if negative or not (steps and saves):
            raise ValueError("steps and checkpoint_every are at least 1, validate_every is at least 0")
        if isinstance(steps, Duration) and not steps.epochs:
            raise ValueError("steps is a number, or {epochs: N}")
        return self


class Trainer:
    """Trains an objective: pretraining, fine-tuning and segmentation are runs of it.

    Args:
        objective: model, losses and temperatures, on its device.
        optim: optimizer and schedule.
        loop: how long, and how often something is written.
        folder: of ``metrics.jsonl`` and ``checkpoints/``; None writes nothing.
        seed: of what is random inside of the model.
        context: this process among those that train together; rank 0 writes.
        callbacks: what to call.
        validate: numbers of a validation, called by every rank.
        score: the one that says which weights are best: higher is better, but of ``val_loss``.
        studies: names of the studies of a step's batch, for messages.

    Attributes:
        state: all that training changes.
        steps: steps done.
        total: steps of the run.
    """

    def __init__(
        self,
        objective: Objective,
        optim: OptimSettings,
        loop: LoopSettings,
        folder: Path | None,
        *,
        seed: int = 0,
        context: DistributedContext | None = None,
        callbacks: Callbacks | None = None,
        validate: Callable[[], dict[str, float]] | None = None,
        score: str = AUROC,
        studies: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.objective, self.optim, self.loop, self.folder, self.seed = objective, optim, loop, folder, seed
        self.context, self.callbacks = context or DistributedContext(), callbacks or Callbacks()
        self.validate, self.studies = validate, studies or (lambda _: ())
        self.state = TrainingState(
            objective,
            build_optimizer(objective, optim),
            EMA(objective, loop.ema) if loop.ema else None,
            BestWeights(objective, score, loop.patience) if loop.compares else None,
            Precision(loop.precision, self.context.device),
        )
        self.steps, self.total = 0, counted(loop.steps)
        self._metrics: Metrics | None = None
        self._clock, self._waited, self._timed = time.perf_counter(), 0.0, 0

    def resume(self) -> int:
        """Go on from the newest whole checkpoint of the folder, where there is one; returns its step.

        Raises:
            ModelError: see ``load_checkpoint``.
        """
        if self.folder is not None:
            send = self.callbacks.send if self.context.first else None
            self.steps = load_checkpoint(self.folder / CHECKPOINTS, self.state, send)
        return self.steps

    def run(self, batches: Batches) -> None:
        """Train to the end, or until patience is at its end.

        Args:
            batches: this rank's slice of the batch of a step; made while the step before it is computed.

        Raises:
            ModelError: code ``not_finite`` or ``collapsed``: names the step and its studies.
            Stopped: ``callbacks.stop`` asked for it; the state is saved.
        """
        loop, state, context, start = self.loop, self.state, self.context, self.steps
        step = Stepper(state, context, loop.micro_batch, self.optim)
        if self.folder is not None and context.first:
            trackers = open_trackers(loop.trackers, self.folder, start, self.callbacks.send)
            self._metrics = Metrics(self.folder, start, trackers, self.callbacks.metrics, self.callbacks.send)
        collapse = Collapse(loop.collapse_after)
        self.objective.train()
        if state.best is not None and not state.best.validations:
            self._validate(start)
        coming = prefetched(batches, start, self.total, loop.workers, ahead=context.device != "cpu")
        self._restart_clock()
        try:
            while self.steps < self.total and not self._exhausted():
                batch, waited = next(coming)
                done = self.steps
                context.seed(self.seed, done)
                rate = set_learning_rate(state.optimizer, done, self.total, self.optim)
                log = (done + 1) % loop.log_every == 0 or done + 1 == self.total
                values = step(batch, StepContext(self.seed, done, done / self.total), log, self.studies)
                if state.ema is not None:
                    state.ema.update(self.objective, done)
                self.steps, self._waited, self._timed = done + 1, self._waited + waited, self._timed + 1
                if log:
                    rows = rows_of(batch)
                    self._log({**values, "lr": rate}, rows)
                    collapse.check(self.steps, values, rows, self.studies(done))
                self._after_step()
        finally:
            coming.close()
            if self._metrics:
                self._metrics.close()

    @contextmanager
    def released(self) -> Iterator[None]:
        """For a while the objective holds the weights to release: the best, the average, or the last ones. The best
        ones stay."""
        if self.loop.release == "best" and self.state.best is not None and self.state.best.validations:
            self.state.best.restore()
            yield
        else:
            with self.state.averaged():
                yield

    def _after_step(self) -> None:
        """Validate, save and report where it is time; stop where it is asked for."""
        loop, done, last = self.loop, self.steps, self.steps == self.total
        every = counted(loop.validate_every)
        if last or (every and done % every == 0):
            self._validate(done)
        stop = self.callbacks.stop is not None and self.context.any(self.callbacks.stop())
        save = stop or last or self._exhausted() or done % counted(loop.checkpoint_every) == 0
        if save and self.context.first and self.folder is not None:
            save_checkpoint(self.folder / CHECKPOINTS, done, self.state, loop.keep)
        if self.callbacks.progress and self.context.first:
            self.callbacks.progress(done, self.total)
        if stop and not last:
            raise Stopped(done)

    def _validate(self, step: int) -> None:
        if self.validate is not None:
            with self.state.averaged():
                values = self.context.shared(self.validate)[0]
                if self.state.best is not None:
                    self.state.best.update(step, values)
            if self._metrics:
                self._metrics.write(step, values)
        self.context.wait()
        self._restart_clock()

    def _exhausted(self) -> bool:
        """Patience is at its end: on all ranks at once, as their validations are the same numbers."""
        return self.state.best is not None and self.state.best.exhausted

    def _log(self, values: dict[str, float], rows: int) -> None:
        seconds, steps = time.perf_counter() - self._clock, max(self._timed, 1)
        speed = {
            "seconds": seconds,
            "data_wait_s": self._waited / steps,
            "rows_per_s": rows * self.context.world * steps / max(seconds, 1e-9),
        }
        if self._metrics:
            self._metrics.write(self.steps, {**values, **speed})
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._waited, self._timed = time.perf_counter(), 0.0, 0
