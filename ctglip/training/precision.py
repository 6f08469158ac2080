"""In which numbers a training counts: float32, or halves of them where that is safe (autocast)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ctglip.errors import ModelError

PrecisionName = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LEAST_SCALE = 1.0
"""Below it the loss itself is at fault, not the narrow range of float16."""


class Precision:
    """Forward passes in a kind of numbers; float16's losses are scaled so that small gradients do not vanish.

    A CPU counts in float32 where bfloat16 is asked for: oneDNN's convolutions in bfloat16 (torch 2.14, AVX-512) take
    memory that nobody wrote for the gradient of their weights where a map is smaller than their kernel.

    Args:
        name: ``fp32``, ``bf16`` or ``fp16``.
        device: where it is counted.
    """

    def __init__(self, name: PrecisionName = "fp32", device: str = "cpu") -> None:
        self.kind = torch.device(device).type
        self.name = "fp32" if (name, self.kind) == ("bf16", "cpu") else name
        self.scaler = torch.amp.GradScaler(self.kind, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.kind, dtype=_DTYPES[self.name], enabled=self.name != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Add the (scaled) gradient of a loss."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take a step, unless a scaled gradient overflowed: then the scale is halved.

        Raises:
            ModelError: code ``not_finite``: no scale is small enough.
        """
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.name == "fp16" and self.scaler.get_scale() < _LEAST_SCALE:
            raise ModelError(
                "Gradients in float16 are not finite at any scale.",
                code="not_finite",
                fix="Set loop.precision=bf16 or fp32, or lower optim.lr.",
            )

    def clip(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], largest: float) -> Tensor:
        """The norm of the gradient, which is cut to ``largest``."""
        self.scaler.unscale_(optimizer)
        return nn.utils.clip_grad_norm_(parameters, largest)


PLAIN = Precision()
"""float32 on a CPU."""
