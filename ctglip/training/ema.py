"""A moving average of the weights: steadier than the weights themselves, so it is what is validated and released.

(``torch.optim.swa_utils.AveragedModel`` copies the whole objective, the text bank and a frozen text encoder with it,
and gives nothing back into the module that is validated; of this class the state and the swap would be left.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """The average of a module's state over its last ``1 / (1 - decay)`` steps or so.

    Args:
        module: whose weights and buffers are averaged; whole numbers (counters) are taken over as they are.
        decay: share of the old average in the new one; in early steps it is lower, (1 + step) / (10 + step), so
            that the random start is soon forgotten.

    Attributes:
        state: the average, by the names of ``module.state_dict()``.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, share)
            else:
                self.state[name].copy_(value)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average for a while, then its own weights again, to the last bit."""
        trained = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(trained)
