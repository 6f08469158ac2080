"""A sum over rows in chunks: each chunk's gradient is computed along with its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def chunked_sum(block: Callable[..., Tensor], chunk: int, rows: Tensor, *shared: Tensor) -> Tensor:
    """The sum of ``block(start, rows[start : start + chunk], *shared)``, no two blocks in memory at once.

    Args:
        block: a scalar from some rows, the first of which is row ``start``; a plain sum over them.
        chunk: rows at a time.
        rows: cut into chunks.
        shared: the same for each chunk; gradients add up.
    """
    return _Chunks.apply(block, chunk, rows, *shared)  # pyright: ignore[reportReturnType]


class _Chunks(torch.autograd.Function):
    """The gradient waits until it is asked for, so that nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, block: Callable[..., Tensor], chunk: int, rows: Tensor, *shared: Tensor) -> Tensor:
        """The sum; the gradients wait in ``ctx``."""
        needed = [bool(need) for need in ctx.needs_input_grad[2:]]
        gradients = [
            torch.zeros_like(value) if need else None for value, need in zip((rows, *shared), needed, strict=True)
        ]
        total = rows.new_zeros(())
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            inputs = (rows[part], *shared)
            leaves = [value.detach().requires_grad_(need) for value, need in zip(inputs, needed, strict=True)]
            with torch.enable_grad():
                loss = block(start, *leaves)
            total += loss.detach()
            differentiable = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(loss, differentiable, allow_unused=True) if differentiable else ())
            for position, gradient in enumerate(gradients):
                if gradient is not None and (more := next(found)) is not None:
                    (gradient[part] if position == 0 else gradient).add_(more)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)
