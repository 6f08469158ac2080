"""The gradient of a large batch from small ones (GradCache, arXiv 2101.06983).

A contrast looks at all rows of a batch, so micro-batches cannot be added up. But the encoder sees each row alone:
encode everything once without keeping activations, compute the loss and its gradient at the features, then encode
each micro-batch again and send its part of that gradient through the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctglip.errors import ModelError
from ctglip.objectives.base import START, Features, Losses, Objective, StepContext, StepReport, join, total
from ctglip.objectives.mixture import MixtureBatch
from ctglip.training.precision import PLAIN, Precision

_State = tuple[Tensor, list[Tensor]]


def micro_batches(batch: Any, size: int) -> list[Any]:
    """A collated batch as batches of at most ``size`` images, each with the texts that its own rows need.

    The parts of a mixture are cut into equally many pieces, none of them empty.
    """
    images = [part.image_count for part in parts_of_batch(batch)]
    return _cut(batch, min(math.ceil(max(images) / size), *images))


def cached_backward(
    objective: Objective,
    micro_batches: Sequence[Any],
    context: StepContext = START,
    precision: Precision = PLAIN,
) -> tuple[Losses, StepReport]:
    """Add the gradient of the joined batch to the parameters' ``grad``, with the memory of one micro-batch.

    Chance inside ``encode`` (dropout, sampling with torch's generators) is the same both times. Under several ranks
    call it on the bare objective and average the gradients afterwards: losses gather inside ``compute``.

    Args:
        objective: its ``encode`` must treat each row alone.
        micro_batches: what ``Objective.collate`` gives; each is moved to the objective's device, and its crops drawn,
            when it is encoded (both times): no two are there at once.
        context: the step.
        precision: of the forward passes, and the scale of the loss.

    Returns:
        The losses and the report of the joined batch.

    Raises:
        ModelError: code ``batch_statistics``: the encoder normalises over the batch, so no row stands alone.
    """
    device = next(objective.parameters()).device
    states, parts = [], []
    with torch.no_grad(), _no_batch_statistics(objective):
        for batch in micro_batches:
            states.append(_random_state(device))
            parts.append(_encode(objective, batch, precision))
    leaves = {name: value.detach() for name, value in join(parts).items()}
    for value in leaves.values():
        if value.is_floating_point():
            value.requires_grad_()
    with precision.autocast():
        losses, report = objective.compute(leaves, context)
    precision.backward(total(losses))
    after, starts = _random_state(device), dict.fromkeys(leaves, 0)
    for batch, state in zip(micro_batches, states, strict=True):
        _restore(state, device)
        _push(_encode(objective, batch, precision), leaves, starts)
    _restore(after, device)
    return losses, report


def accumulated_backward(
    objective: Objective, micro_batches: Sequence[Any], context: StepContext = START, precision: Precision = PLAIN
) -> tuple[Losses, StepReport]:
    """Add up the gradients of micro-batches, each by its share of the rows: for losses that look at each row alone.

    Args:
        objective: one that is not ``batch_coupled``.
        micro_batches: what ``Objective.collate`` gives; each is moved to the objective's device when its turn comes.
        context: the step.
        precision: of the forward passes, and the scale of the loss.

    Returns:
        The losses of the joined batch (exact where all rows count), and the report of the first micro-batch.
    """
    device = next(objective.parameters()).device
    rows = [sum(len(part) for part in parts_of_batch(batch)) for batch in micro_batches]
    summed: Losses = {}
    first: StepReport | None = None
    for batch, count in zip(micro_batches, rows, strict=True):
        with precision.autocast():
            losses, report = objective(batch.to(device), context)
        first = report if first is None else first
        shares = {name: loss * (count / max(sum(rows), 1)) for name, loss in losses.items()}
        precision.backward(total(shares))
        summed = {name: summed.get(name, 0) + share.detach() for name, share in shares.items()}
    return summed, first or {}


def parts_of_batch(batch: Any) -> list[Any]:
    """The batches of a mixture's parts, or the one batch of another objective."""
    return list(batch.parts.values()) if isinstance(batch, MixtureBatch) else [batch]


def _cut(batch: Any, count: int) -> list[Any]:
    if isinstance(batch, MixtureBatch):
        cuts = {name: _cut(part, count) for name, part in batch.parts.items()}
        return [MixtureBatch({name: cut[i] for name, cut in cuts.items()}) for i in range(count)]
    bounds = [round(i * batch.image_count / count) for i in range(count + 1)]
    return [batch.piece(*ends) for ends in pairwise(bounds)]


def _encode(objective: Objective, batch: Any, precision: Precision) -> Features:
    device = next(objective.parameters()).device
    with precision.autocast():
        return objective.encode(batch.to(device))


def _push(features: Features, leaves: Features, starts: dict[str, int]) -> None:
    """Send the rows of the cached gradient that belong to a micro-batch through its graph."""
    outputs, gradients = [], []
    for name, value in features.items():
        rows = slice(starts[name], starts[name] + len(value))
        starts[name] = rows.stop
        gradient = leaves[name].grad
        if value.requires_grad and gradient is not None:
            outputs.append(value)
            gradients.append(gradient[rows].to(value.dtype))
    if outputs:
        torch.autograd.backward(outputs, gradients)


def _random_state(device: torch.device) -> _State:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []


def _restore(state: _State, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for generator in state[1]:
        torch.cuda.set_rng_state(generator, device)


@contextmanager
def _no_batch_statistics(objective: Objective) -> Iterator[None]:
    """Refuse batch normalisation while something is encoded (in ``compute`` it is welcome)."""

    def refuse(module: nn.Module, _: Any) -> None:
        if module.training:
            raise ModelError(
                f"GradCache needs an encoder that sees each row alone, but {names[module]} ({type(module).__name__}) "
                "takes its statistics over the batch.",
                code="batch_statistics",
                fix="Choose an encoder with group or layer normalisation (resnet: norm: group), or no micro-batches.",
            )

    names: dict[nn.Module, str] = {m: name for name, m in objective.named_modules() if isinstance(m, _BatchNorm)}
    hooks = [module.register_forward_pre_hook(refuse) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
