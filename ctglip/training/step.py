"""One optimisation step: forward, losses, backward, clipping, update; whole or in micro-batches, on any rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ctglip.objectives.base import Losses, Objective, StepContext, StepReport, total
from ctglip.training.checkpoint import TrainingState
from ctglip.training.distributed import DistributedContext
from ctglip.training.gradcache import (
    accumulated_backward,
    cached_backward,
    micro_batches,
    parts_of_batch,
)
from ctglip.training.health import not_finite
from ctglip.training.optim import OptimSettings, hold_encoder


class Clock:
    """Seconds of the parts of a step, by name; a GPU's work is waited for, so it is used at log steps alone."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._last = self._now()

    def mark(self, name: str) -> None:
        """What ran since the last mark was ``name``."""
        now = self._now()
        self.seconds[f"{name}_s"] = self.seconds.get(f"{name}_s", 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


class _Forward(nn.Module):
    """``compute(encode(batch))`` with a look at the clock between; what DDP wraps."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.clock: Clock | None = None

    def forward(self, batch: Any, step: StepContext) -> tuple[Losses, StepReport]:
        features = self.objective.encode(batch)
        if self.clock:
            self.clock.mark("encode")
        return self.objective.compute(features, step)


class Stepper:
    """Takes the steps of a run.

    Args:
        state: what is trained, and in which precision; its objective is an ``Objective``.
        context: this process among the others.
        micro_batch: images that are encoded at a time; None: all of the batch.
        optim: how the gradient is clipped, and how long the image encoder stays frozen.
    """

    def __init__(
        self,
        state: TrainingState,
        context: DistributedContext,
        micro_batch: int | None,
        optim: OptimSettings,
    ) -> None:
        assert isinstance(state.objective, Objective)
        self.objective, self.optimizer = state.objective, state.optimizer
        self.parameters: list[nn.Parameter] = [p for p in self.objective.parameters() if p.requires_grad]
        self.context, self.micro_batch, self.precision = context, micro_batch, state.precision
        self.optim = optim
        self._forward = _Forward(self.objective)
        self._wrapped = context.wrapped(self._forward) if micro_batch is None else None

    def __call__(
        self, batch: Any, step: StepContext, log: bool, studies: Callable[[int], Sequence[str]]
    ) -> dict[str, float]:
        """One step.

        Args:
            batch: this rank's slice of the batch, on the CPU.
            step: which one it is.
            log: this step is logged: numbers are wanted.
            studies: names the studies of a step, where something is wrong with it.

        Returns:
            Losses, report, gradient norm and seconds; nothing where ``log`` is False.

        Raises:
            ModelError: code ``not_finite``.
        """
        clock = Clock(self.context.device) if log else None
        self.optimizer.zero_grad(set_to_none=True)
        losses, report = self._forward_backward(batch, step, clock)
        hold_encoder(self.optimizer, step.step, self.optim)
        norm = self.precision.clip(self.optimizer, self.parameters, self.optim.clip or float("inf"))
        loss = total({name: value.detach() for name, value in losses.items()})
        rescaled = self.precision.name == "fp16"  # a gradient beyond float16 only lowers the loss's scale
        if not (bool(torch.isfinite(loss)) and (rescaled or bool(torch.isfinite(norm)))):
            half = self.precision.kind if self.precision.name != "fp32" else None
            raise not_finite(losses, step.step, studies(step.step), half)
        self.precision.step(self.optimizer)
        if clock is None:
            return {}
        clock.mark("update")
        named = {f"loss_{name}": float(value.detach()) for name, value in losses.items()}
        values = {"loss": float(loss), **named, **report, "gradient_norm": float(norm)}
        return self.context.mean({**values, **clock.seconds})

    def _forward_backward(self, batch: Any, step: StepContext, clock: Clock | None) -> tuple[Losses, StepReport]:
        if self._wrapped is not None:
            self._forward.clock = clock
            on_device = batch.to(self.context.device)  # crops are rendered there
            if clock:
                clock.mark("render")
            with self.precision.autocast():
                losses, report = self._wrapped(on_device, step)
            if clock:
                clock.mark("loss")
            self.precision.backward(total(losses))
        else:
            assert self.micro_batch is not None
            parts = micro_batches(batch, self.micro_batch)
            if self.objective.batch_coupled:
                losses, report = cached_backward(self.objective, parts, step, self.precision)
            else:
                losses, report = accumulated_backward(self.objective, parts, step, self.precision)
            self.context.average_gradients(self.parameters)
        if clock:
            clock.mark("backward" if self._wrapped is not None else "encode_loss_backward")
        return losses, report


def rows_of(batch: Any) -> int:
    """Rows of a batch; of the smallest part of a mixture."""
    return min(map(len, parts_of_batch(batch)))
