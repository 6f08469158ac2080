"""Low-rank updates of linear layers and convolutions (LoRA, arXiv 2106.09685).

A convolution's update is a convolution of the same kernel to ``rank`` channels and a pointwise one back, so it too
folds into the frozen kernel.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ctglip.errors import ModelError

M = TypeVar("M", bound=nn.Module)
QUERY_AND_VALUE = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
"""Names of the query and value projections in Hugging Face's encoders."""
ALPHA = 16.0
"""An update counts this / rank times, if nothing else is said."""


class LowRank(nn.Module):
    """A frozen linear layer plus a trained update of low rank, zero at the start.

    Args:
        base: the layer.
        rank: of the update.
        alpha: the update counts ``alpha / rank`` times.
        dropout: of what the update reads.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float = ALPHA, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.factor = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with the update."""
        return self.base(x) + (self.dropout(x) @ self.down.T) @ self.up.T * self.factor

    def merged(self) -> nn.Module:
        """One plain layer that does the same."""
        layer = copy.deepcopy(self.base)
        layer.weight.data += self.up.detach() @ self.down.detach() * self.factor
        return layer


class LowRankConv(nn.Module):
    """A frozen convolution in 2 or 3 dimensions, without groups, plus a trained update of low rank, zero at first."""

    def __init__(self, base: nn.Conv2d | nn.Conv3d, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = type(base)(
            base.in_channels, rank, base.kernel_size, base.stride, base.padding, base.dilation, bias=False,  # pyright: ignore[reportArgumentType]
            padding_mode=base.padding_mode,
        )  # fmt: skip
        nn.init.normal_(self.down.weight, std=1 / self.down.weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(base.out_channels, rank))
        self.factor = ALPHA / rank

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution, with the update."""
        update = torch.einsum("or,nr...->no...", self.up, self.down(x))
        return self.base(x) + self.factor * update

    def merged(self) -> nn.Module:
        """One plain convolution that does the same."""
        layer = copy.deepcopy(self.base)
        layer.weight.data += self.factor * torch.einsum("or,ri...->oi...", self.up.detach(), self.down.weight.detach())
        return layer


def add_lora(
    model: nn.Module, rank: int, names: tuple[str, ...] | None = None, alpha: float = ALPHA, dropout: float = 0.0
) -> None:
    """Put low-rank updates on linear layers and convolutions, in place; everything else is frozen.

    Args:
        model: any.
        rank: of the updates.
        names: only layers of these names; None for all.
        alpha, dropout: of linear layers' updates.

    Raises:
        ModelError: code ``lora``: there is no such layer.
    """
    model.requires_grad_(False)
    new: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules()):
        if names is not None and path.rpartition(".")[2] not in names:
            continue
        if isinstance(module, nn.Linear):
            new[module] = LowRank(module, rank, alpha, dropout)
        elif isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups == 1:
            new[module] = LowRankConv(module, rank)
    if not new:
        named = "" if names is None else f" named {', '.join(names)}"
        raise ModelError(f"The model has no linear layer and no convolution{named}.", code="lora")
    _replace_modules(model, new)


def merged(model: M) -> M:
    """A copy of the model with plain layers in place of updated ones."""
    model = copy.deepcopy(model)
    _replace_modules(model, {m: m.merged() for m in list(model.modules()) if isinstance(m, LowRank | LowRankConv)})
    return model


def _replace_modules(model: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Put new modules where old ones are, at every place: nnU-Net registers its convolutions twice."""
    parents = [module for module in model.modules() if module not in new]
    for parent in parents:
        for name, child in list(parent._modules.items()):
            if child in new:
                parent._modules[name] = new[child]
