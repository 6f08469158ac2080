"""The training loop: batch, losses, step; a line of numbers now and then, a checkpoint now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.objectives.base import Objective, total
from ctglip.training.checkpoint import save_checkpoint
from ctglip.training.optim import OptimSettings, learning_rate
from ctglip.training.tracking import Metrics

Batches = Callable[[int], Any]
"""The batch of a step, on the CPU."""


class LoopSettings(Settings):
    """How long, on what, and how often something is written.

    Attributes:
        steps: optimiser steps of the whole run.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints; the last step is always one.
        validate_every: steps between validations; 0 validates at the end alone.
        device: ``auto`` takes a GPU where there is one.
        autocast: bfloat16 in the forward pass (GPUs).
        threads: torch threads on a CPU; 0 leaves torch's own choice.
        workers: worker processes that make batches; 0 makes them in one thread.
    """

    steps: int = Field(default=1000, ge=1)
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    validate_every: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    autocast: bool = False
    threads: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)


def train(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    start: int,
    run: Path,
    loop: LoopSettings,
    optim: OptimSettings,
    validate: Callable[[], dict[str, float]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train from step ``start`` to the end, writing metrics and checkpoints into the run.

    Args:
        objective: model, losses and temperatures; on its device.
        optimizer: over the objective's parameters.
        batches: the batch of a step; made in a thread of its own while the step before it is computed.
        start: steps already done.
        validate: numbers to log at validation steps and at the end.
        progress: called with (steps done, steps).

    Raises:
        ModelError: code ``not_finite``: a loss or gradient is not a number; names the step.
    """
    device = next(objective.parameters()).device
    metrics = Metrics(run, start)
    objective.train()
    clock = time.perf_counter()
    for step, (batch, waited) in zip(range(start, loop.steps), _prefetched(batches, start, loop.steps), strict=True):
        rate = learning_rate(step, loop.steps, optim)
        for group in optimizer.param_groups:
            group["lr"] = rate
        values = _step(objective, optimizer, batch.to(device), loop.autocast, optim.clip, step)
        done = step + 1
        if done % loop.log_every == 0 or done == loop.steps:
            seconds = time.perf_counter() - clock
            clock = time.perf_counter()
            metrics.write(done, {**values, "lr": rate, "seconds": seconds, "data_wait_s": waited})
        if validate and (done == loop.steps or (loop.validate_every and done % loop.validate_every == 0)):
            metrics.write(done, validate())
            clock = time.perf_counter()
        if done % loop.checkpoint_every == 0 or done == loop.steps:
            save_checkpoint(run / "checkpoints", done, objective, optimizer)
        if progress:
            progress(done, loop.steps)


def _step(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: Any, autocast: bool, clip: float, step: int
) -> dict[str, float]:
    device = next(objective.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
        losses, report = objective(batch)
    loss = total(losses)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(objective.parameters(), clip or float("inf"))
    if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(norm)):
        studies = sorted(set(batch.study_index.tolist()))[:8] if hasattr(batch, "study_index") else []
        raise ModelError(
            f"The loss or its gradient is not a number at step {step} (losses "
            f"{ {name: float(value.detach()) for name, value in losses.items()} }, studies {studies}).",
            code="not_finite",
            fix="Lower optim.lr, or look at those studies.",
        )
    optimizer.step()
    named = {f"loss_{name}": float(value.detach()) for name, value in losses.items()}
    return {"loss": float(loss.detach()), **named, **report, "gradient_norm": float(norm)}


def _prefetched(batches: Batches, start: int, stop: int) -> Iterator[tuple[Any, float]]:
    """Batches one step ahead, each with the seconds that it was waited for."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, start) if start < stop else None
        for step in range(start, stop):
            assert coming is not None
            clock = time.perf_counter()
            batch = coming.result()
            waited = time.perf_counter() - clock
            coming = pool.submit(batches, step + 1) if step + 1 < stop else None
            yield batch, waited
