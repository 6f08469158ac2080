"""What a training calls while it runs, and what its validations decide: which weights are kept, when it ends early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

AUROC, LOSS = "val_macro_auroc", "val_loss"
"""Numbers of a validation that say which weights are the best."""
_TIE = 1e-6


class Stopped(Exception):
    """Training was asked to stop; ``step`` steps are done and saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"Stopped after step {step}; a checkpoint was saved.")
        self.step = step

    def __reduce__(self) -> tuple[object, ...]:
        return (Stopped, (self.step,))


@dataclass(frozen=True)
class Callbacks:
    """Functions that a training calls; each may be missing.

    Attributes:
        progress: with (steps done, steps).
        preparing: with (what, done, of) while images are read and texts are embedded.
        metrics: with (step, numbers) at each line of ``metrics.jsonl``: another tracker.
        message: with sentences that the user must know, such as which checkpoints are skipped.
        stop: after each step, and while inputs are prepared: whether to save and end.
    """

    progress: Callable[[int, int], None] | None = None
    preparing: Callable[[str, int, int], None] | None = None
    metrics: Callable[[int, dict[str, Any]], None] | None = None
    message: Callable[[str], None] | None = None
    stop: Callable[[], bool] | None = None

    def send(self, text: str) -> None:
        """Pass on a sentence."""
        if self.message is not None:
            self.message(text)

    def prepare(self, what: str, done: int, of: int) -> None:
        """Pass on what is being prepared.

        Raises:
            Stopped: at step 0, when ``stop`` asks for it.
        """
        if self.stop is not None and self.stop():
            raise Stopped(0)
        if self.preparing is not None:
            self.preparing(what, done, of)


class BestWeights:
    """The weights that validate best, in the computer's memory; after ``patience`` validations without better ones
    training ends early.

    Args:
        module: what is trained.
        score: the number of a validation that decides, higher is better (of ``val_loss`` lower); equal ones (to 1e-6)
            are decided by ``val_loss`` where there is one. The newest weights are the best where no validation has the
            number.
        patience: 0 never ends early.

    Attributes:
        validations: the numbers of each, with its ``step``.
        index: the best of them.
        weights: what learns, and the buffers beside it, at that step.
    """

    def __init__(self, module: nn.Module, score: str, patience: int = 0) -> None:
        self.module, self.score, self.patience = module, score, patience
        self.validations: list[dict[str, float]] = []
        self.index = 0
        self.weights: dict[str, Tensor] = {}

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a validation of the module as it is."""
        if not self.validations or self._better(values, self.validations[self.index]):
            self.index, self.weights = len(self.validations), learned_state(self.module)
        self.validations.append({"step": step, **values})

    def _better(self, values: Mapping[str, float], best: Mapping[str, float]) -> bool:
        if self.score not in values or self.score not in best:
            return True
        gain = (values[self.score] - best[self.score]) * (-1 if self.score == LOSS else 1)
        return gain > _TIE or (abs(gain) <= _TIE and values.get(LOSS, math.inf) < best.get(LOSS, math.inf))

    @property
    def exhausted(self) -> bool:
        """Patience is at its end."""
        return bool(self.patience) and len(self.validations) - 1 - self.index >= self.patience

    def restore(self) -> None:
        """Put the best weights into the module."""
        self.module.load_state_dict(self.weights, strict=False)


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that learn and of the buffers beside them (batch statistics), in the computer's
    memory."""
    names = {name for name, value in module.named_parameters() if value.requires_grad}
    names |= {name for name, _ in module.named_buffers()}
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items() if name in names}
