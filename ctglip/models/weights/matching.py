"""Weights from elsewhere, copied into an encoder: names brought together by rule, and nothing left unsaid.

Checkpoints wrap their weights: in dictionaries (``state_dict``, ``model_ema``) and under prefixes (``module.``,
``encoder.``, ``visual.``). Whatever they are called, the prefix under which most of the encoder's own names are found
is taken away.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.models.weights.reading import State

LEAST_SHARE = 0.9
"""Of an encoder's parameters, even where a part of them is enough."""
_LOG = logging.getLogger(__name__)
_SHOWN = 6
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|teacher|averaged|swa)(?:[._]|$)")
COUNTERS = ("num_batches_tracked",)
_LAYER = re.compile(r"(?:layers?|stages?|blocks?)[._]?\d+(?:\.(?:blocks\.)?\d+)?(?=\.)")
"""``stages.1.0``, ``layer3.5``, ``blocks.7``, ``stages_2.blocks.0``, ``encoder.layer.11``: one layer of an encoder."""


@dataclass(frozen=True)
class Match:
    """How a checkpoint's names meet an encoder's.

    Attributes:
        found: weight of each of the encoder's names that is there and fits.
        missing: names that are not there.
        misfits: names of another shape, with both shapes.
        unexpected: what else stands under the prefix.
        prefix: what was taken away.
    """

    found: State
    missing: tuple[str, ...]
    misfits: tuple[str, ...]
    unexpected: tuple[str, ...]
    prefix: str


FitWeight = Callable[[str, Tensor, Tensor], Tensor | None]
"""(name, a weight, ours) -> the weight in the shape of ours; None where that cannot be."""


def match(body: nn.Module, state: State, fit: FitWeight, source: str, flat: bool = False) -> Match:
    """Bring a checkpoint's names to an encoder's.

    Args:
        body: the encoder.
        state: the checkpoint.
        fit: brings a weight to the shape of ours.
        source: the checkpoint's name, for messages.
        flat: dots and underscores in names are the same (timm's).

    Raises:
        ModelError: code ``weights``: two prefixes fit equally well and hold other numbers.
    """
    mine = saved_weights(body)
    key: Callable[[str], str] = (lambda name: name.replace("_", ".")) if flat else str
    head = _common(list(mine))
    expected = {key(name.removeprefix(head)): name for name in mine}
    theirs = {key(name): value for name, value in state.items()}
    counts: Counter[str] = Counter()
    for name, value in theirs.items():
        for start in (0, *(position + 1 for position, letter in enumerate(name) if letter == ".")):
            parameter = expected.get(name[start:])
            if parameter is not None:  # a name alone decides only where shapes do not
                counts[name[:start]] += 1 if fit(parameter, value, mine[parameter]) is None else len(mine)
    if not counts:
        return Match({}, tuple(mine), (), tuple(state)[:_SHOWN], "")
    prefix = _chosen(counts, expected, theirs, source)
    given = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
    return matched(mine, given, fit, expected, prefix)


def saved_weights(body: nn.Module) -> State:
    """Parameters and buffers that are saved, each once though some have two names; without counters."""
    mine, saved = (*body.named_parameters(), *body.named_buffers()), body.state_dict().keys()
    return {name: value for name, value in mine if name in saved and not name.endswith(COUNTERS)}


def matched(
    mine: State, given: State, fit: FitWeight, expected: Mapping[str, str] | None = None, prefix: str = ""
) -> Match:
    """How weights meet an encoder's, name by name.

    Args:
        mine: the encoder's (``saved_weights``).
        given: the checkpoint's.
        fit: see ``match``.
        expected: the encoder's name of each name in the checkpoint; None: they are the same.
        prefix: what was taken away from the checkpoint's names.
    """
    expected = {name: name for name in mine} if expected is None else expected
    found, misfits = {}, []
    for name, parameter in expected.items():
        if name in given:
            fitted = fit(parameter, given[name], mine[parameter])
            if fitted is None:
                misfits.append(f"{parameter} {tuple(given[name].shape)} for {tuple(mine[parameter].shape)}")
            else:
                found[parameter] = fitted
    missing = tuple(parameter for name, parameter in expected.items() if name not in given)
    unexpected = tuple(name for name in given if name not in expected and not name.endswith(COUNTERS))
    return Match(found, missing, tuple(misfits), unexpected, prefix)


def _common(names: Sequence[str]) -> str:
    """The first part of the names with its dot, where all have the same."""
    first = names[0].partition(".")[0] + "."
    return first if all(name.startswith(first) for name in names) else ""


def _chosen(counts: Counter[str], expected: Mapping[str, str], theirs: State, source: str) -> str:
    """The prefix with most matches; of equals the averaged weights, or the shorter where the numbers are the same."""
    most = max(counts.values())
    best = sorted((prefix for prefix, count in counts.items() if count == most), key=lambda one: (len(one), one))
    averaged = [prefix for prefix in best if _AVERAGED.search(prefix)]
    best = averaged or best
    for other in best[1:]:
        if any(not torch.equal(theirs[best[0] + name], theirs[other + name])
               for name in expected if best[0] + name in theirs and other + name in theirs):  # fmt: skip
            named = ", ".join(repr(prefix) for prefix in best[:_SHOWN])
            raise ModelError(
                f"{source} holds several networks that fit the encoder equally well, under {named}.",
                code="weights",
                fix="Save the one that is meant alone.",
            )
    return best[0]


def fill(
    body: nn.Module, state: State, source: str, partial: bool = False, fit: FitWeight | None = None, flat: bool = False
) -> float:
    """Copy a checkpoint's weights into an encoder.

    Args:
        body: the encoder.
        state: the checkpoint.
        source: its name, for messages.
        partial: keys that are missing or do not fit are named, and stay as they were drawn, as long as nine tenths
            of the parameters are filled.
        fit: see ``match``; only equal shapes fit by default.
        flat: see ``match``.

    Returns:
        The share of the parameters that were filled.

    Raises:
        ModelError: code ``weights``: a key of the encoder is missing or does not fit; with ``partial``, less than nine
            tenths are filled; weights are not finite.
    """
    return copy_matched(body, match(body, state, fit or same_shape, source, flat), source, partial)


def copy_matched(body: nn.Module, found: Match, source: str, partial: bool = False) -> float:
    """Copy what was found of a checkpoint into an encoder; arguments, result and errors as those of ``fill``."""
    parameters = dict(body.named_parameters())
    total = sum(value.numel() for value in parameters.values())
    share = sum(parameters[name].numel() for name in found.found if name in parameters) / max(total, 1)
    if (found.missing or found.misfits) and (not partial or share < LEAST_SHARE):
        raise _misfit(found, share, source, partial)
    odd = [name for name, value in found.found.items() if not torch.isfinite(value).all()]
    if odd:
        raise ModelError(f"{source}: the weights {listed(odd)} hold NaN or infinite numbers.", code="weights")
    targets = {**parameters, **dict(body.named_buffers())}
    with torch.no_grad():
        for name, value in found.found.items():
            targets[name].copy_(value)
    if found.missing or found.misfits:
        _LOG.warning(
            "%s: %.1f %% of the encoder's parameters are loaded; drawn at random stay: %s.",
            source, 100 * share, listed((*found.missing, *found.misfits)),
        )  # fmt: skip
    return share


def same_shape(_: str, new: Tensor, mine: Tensor) -> Tensor | None:
    """A weight of equal shape; see ``match``."""
    return new if new.shape == mine.shape else None


def _misfit(found: Match, share: float, source: str, partial: bool) -> ModelError:
    what = "None of the weights" if not found.found else "Not all weights"
    sentences = [f"{what} of {source} fit the encoder ({100 * share:.1f} % of its parameters)."]
    for label, names in (("missing", found.missing), ("of another shape", found.misfits),
                         ("unexpected", found.unexpected)):  # fmt: skip
        if names:
            sentences.append(f"{label[0].upper()}{label[1:]} ({len(names)}): {listed(names)}.")
    enough = share >= LEAST_SHARE and not partial
    return ModelError(
        " ".join(sentences),
        code="weights",
        fix="Name weights of the same architecture"
        + (", or start from the part that fits: model.encoder.partial=true." if enough else "."),
    )


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def layer_depths(names: Sequence[str]) -> dict[str, int]:
    """The number of each parameter's layer, in the order of the names.

    Layers are the numbered parts of an encoder (stages, blocks); what comes before the first one (stem, embeddings) is
    layer 0, what comes after belongs to the last.
    """
    layers: dict[str, int] = {}
    depths = {}
    for name in names:
        if found := _LAYER.search(name):
            depths[name] = layers.setdefault(name[: found.end()], len(layers) + 1)
        else:
            depths[name] = len(layers)
    return depths


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state without the second names of tensors that have several (nnU-Net's networks list their layers
    twice), which safetensors refuses."""
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: value for name, value in model.state_dict().items() if name in names}


def load_unique_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what ``unique_state`` gave.

    Raises:
        RuntimeError: names or shapes are others.
    """
    unknown = state.keys() - unique_state(model).keys()
    missing = unique_state(model).keys() - state.keys()
    if unknown or missing:
        raise RuntimeError(f"missing weights {sorted(missing)[:3]}, unknown weights {sorted(unknown)[:3]}")
    model.load_state_dict(state, strict=False)
