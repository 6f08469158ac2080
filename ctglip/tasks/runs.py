"""One run of a fine-tuning: an initialization, a share of the labels and a seed become predictions, in a folder of its
own. ``run.json`` is written last: a run that has it is done, one that has none goes on from its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor, nn

from ctglip.errors import CohortError
from ctglip.files import atomic_path, read_json, remove, write_json
from ctglip.inference.encoding import evaluating
from ctglip.tasks.base import Initialization, Task, TaskBatch, TaskObjective
from ctglip.tasks.results import FinishedRun, TaskRun
from ctglip.training.callbacks import BestWeights, Callbacks, learned_state
from ctglip.training.checkpoint import CHECKPOINTS
from ctglip.training.schedule import timed
from ctglip.training.trainer import Trainer


class EpochBatches:
    """The batches of a run, each a function of (seed, step): in an epoch every training study is read once.

    Args:
        task, initialization: what is read.
        rows: training studies.
        size: studies of a step, about.
        seed: of order and augmentation.

    Attributes:
        steps: of an epoch.
    """

    def __init__(
        self, task: Task[Any], initialization: Initialization, rows: Int[np.ndarray, " n"], size: int, seed: int
    ) -> None:
        self.task, self.initialization, self.rows, self.seed = task, initialization, rows, seed
        self.steps = max(round(len(rows) / size), 1)
        self._order = lru_cache(2)(self._shuffled)

    def __call__(self, step: int) -> TaskBatch:
        """The batch of a step."""
        rng = np.random.default_rng((self.seed, *divmod(step, self.steps)))
        return self.task.batch(self.initialization, self._rows(step), rng)

    def studies(self, step: int) -> list[str]:
        """The studies of a step."""
        return [self.task.studies.study_ids[row] for row in self._rows(step)]

    def _rows(self, step: int) -> Int[np.ndarray, " b"]:
        epoch, number = divmod(step, self.steps)
        return self._order(epoch)[number]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        return np.array_split(order, self.steps)


def initial_network(task: Task[Any], initialization: Initialization, run: TaskRun) -> nn.Module:
    """A run's network before its first step: the same each time."""
    torch.manual_seed(run.seed)
    rows = task.studies.subset(run.fraction, run.seed)
    return task.network(initialization, rows).to(initialization.device)


def _validated(best: BestWeights, steps: int) -> dict[str, Any]:
    """The numbers of each epoch's validation, and which was the best."""
    validations = [{"epoch": int(one.pop("step")) // steps, **one} for one in map(dict, best.validations)]
    return {"best": best.index, "epochs": len(validations) - 1, "validations": validations}


def train_run(
    task: Task[Any], run: TaskRun, initialization: Initialization, folder: Path, callbacks: Callbacks
) -> FinishedRun:
    """Train one run, go on with it, or read it where it is done.

    Args:
        task: what is learned.
        run: which.
        initialization: where it begins.
        folder: the run's folder is made inside it.
        callbacks: ``progress`` is called with (epochs done, epochs).

    Raises:
        CohortError: code ``no_labels``: no training study has a target.
        ModelError: code ``not_finite``, or its checkpoints are not whole.
        Stopped: ``callbacks.stop`` asked for it.
    """
    target = folder / run.key
    if (target / "run.json").is_file():
        callbacks.send(f"{run.key} is done and skipped.")
        return FinishedRun(run, target, read_json(target / "run.json"))
    cached, config = task.cached(initialization), task.config
    random = initialization.random
    fit, optim = (config.scratch_fit, config.scratch_optim) if random else (config.fit, config.optim)
    rows = task.studies.subset(run.fraction, run.seed)
    if not len(trainable := task.trainable(rows)):
        raise CohortError(f"None of the {len(rows)} training studies of {run.key} has a target.", code="no_labels")
    with _few_threads(cached):
        network = initial_network(task, initialization, run)
        objective = TaskObjective(network, task.loss(rows)).to(initialization.device)
        batches = EpochBatches(task, initialization, trainable, fit.batch, run.seed)

        def validate() -> dict[str, float]:
            with evaluating(network):
                return task.measure(objective, initialization)

        optim = timed(optim, fit.epochs * batches.steps, batches.steps)
        trainer = Trainer(objective, optim, fit.loop(batches.steps), None if cached else target, seed=run.seed,
                          callbacks=_by_epoch(callbacks, batches.steps), validate=validate, score=f"val_{task.score}",
                          studies=batches.studies)  # fmt: skip
        if done := trainer.resume():
            callbacks.send(f"{run.key} goes on after epoch {done // batches.steps}.")
        trainer.run(batches)
        with trainer.released(), evaluating(network):
            tables, facts = task.finish(network, initialization)
    assert trainer.state.best is not None
    about = {
        **asdict(run),
        "mode": initialization.mode,
        "studies": len(rows),
        "patients": len({task.studies.patients[row] for row in rows}),
        **_validated(trainer.state.best, batches.steps),
        **facts,
    }
    _write_run(target, about, tables, learned_state(network))
    return FinishedRun(run, target, read_json(target / "run.json"))


def _write_run(
    target: Path, about: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], weights: Mapping[str, Tensor]
) -> None:
    """A finished run's folder; ``run.json`` comes last and says that it is whole."""
    for name, table in tables.items():
        with atomic_path(target / f"{name}.parquet") as temporary:
            table.write_parquet(temporary)
    with atomic_path(target / "weights.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    write_json(target / "run.json", about)
    remove(target / CHECKPOINTS)


def _by_epoch(callbacks: Callbacks, steps: int) -> Callbacks:
    """The same, with progress told in epochs."""
    report = callbacks.progress

    def progress(done: int, of: int) -> None:
        if report is not None and done % steps == 0:
            report(done // steps, of // steps)

    return Callbacks(progress, callbacks.preparing, callbacks.metrics, callbacks.message, callbacks.stop)


@contextmanager
def _few_threads(cached: bool) -> Iterator[None]:
    """One thread where features are read from memory: a step is a product of small matrices, over which several threads
    wait for each other longer than they count (seven times the processor time on two busy cores)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if cached else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
