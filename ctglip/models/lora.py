"""Low-rank updates of linear layers (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ctglip.errors import ModelError

TARGETS = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
"""Names of the query and value projections in Hugging Face's encoders."""


class LowRank(nn.Module):
    """A frozen linear layer plus a trained update of low rank, zero at the start.

    Args:
        base: the layer.
        rank: of the update.
        alpha: the update counts alpha / rank times.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float = 16.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.factor = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with the update."""
        return self.base(x) + (x @ self.down.T) @ self.up.T * self.factor

    def merged(self) -> nn.Linear:
        """One plain layer that does the same."""
        layer = copy.deepcopy(self.base)
        layer.weight.data += self.up.detach() @ self.down.detach() * self.factor
        return layer


def add_lora(model: nn.Module, rank: int, targets: tuple[str, ...] = TARGETS) -> None:
    """Put low-rank updates on all linear layers of some names, in place; everything else is frozen.

    Raises:
        ModelError: code ``lora``: there is no such layer.
    """
    model.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in targets and isinstance(child, nn.Linear)
    ]
    if not found:
        raise ModelError(f"The model has no linear layer named {', '.join(targets)}.", code="lora")
    for parent, name, child in found:
        setattr(parent, name, LowRank(child, rank))


def merged(model: nn.Module) -> nn.Module:
    """The model with plain layers in place of updated ones: a copy, or the model itself where there are none."""
    if not any(isinstance(module, LowRank) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRank):
                setattr(parent, name, child.merged())
    return model
