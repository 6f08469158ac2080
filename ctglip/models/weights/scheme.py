"""The names that a project releases its weights under, and the rule that makes them ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ctglip.errors import ModelError
from ctglip.models.weights.matching import (
    COUNTERS,
    FitWeight,
    copy_matched,
    listed,
    matched,
    same_shape,
    saved_weights,
)
from ctglip.models.weights.reading import State

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyScheme:
    """How a released file names its weights. The steps are taken in the order of the attributes.

    Attributes:
        outer: keys of the dictionary that the state dict may lie in (``state_dict``, ``model``): the first one that is
            there. What lies beside it (optimizers) is not looked at. None there: the file is the state dict.
        strip: prefixes that each name may begin with, taken away one after the other (``module.``, ``backbone.``).
        drop: heads that are known and left out: a name that fully matches one of these patterns.
        root: prefixes of the encoder in a larger model: the first one that is there is taken away. Empty: the file is
            the encoder.
        rename: (pattern, replacement) of ``re.sub``, each on every name.
    """

    outer: tuple[str, ...] = ()
    strip: tuple[str, ...] = ("module.",)
    drop: tuple[str, ...] = ()
    root: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()

    def apply(self, state: State) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
        """A released state dict under our names.

        Args:
            state: all tensors of the file (``read_state``).

        Returns:
            The encoder's weights, the names of heads that were dropped, and names that belong to neither.
        """
        state = self.unwrapped(state)
        dropped = tuple(name for name in state if any(re.fullmatch(pattern, name) for pattern in self.drop))
        state = {name: value for name, value in state.items() if name not in set(dropped)}
        root = next((one for one in self.root if any(name.startswith(one) for name in state)), "")
        outside = tuple(name for name in state if not name.startswith(root))
        renamed = {self._renamed(name.removeprefix(root)): value for name, value in state.items() if
                   name.startswith(root)}  # fmt: skip
        return renamed, dropped, outside

    def unwrapped(self, state: State) -> State:
        """The whole model's weights without the dictionary and the prefixes that they were saved under."""
        outer = next((f"{key}." for key in self.outer if any(name.startswith(f"{key}.") for name in state)), "")
        state = {name.removeprefix(outer): value for name, value in state.items() if name.startswith(outer)}
        for prefix in self.strip:
            state = {name.removeprefix(prefix): value for name, value in state.items()}
        return state

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        return name


def fill_by_scheme(
    network: nn.Module,
    state: State,
    scheme: KeyScheme,
    source: str,
    partial: bool = False,
    fit: FitWeight | None = None,
) -> float:
    """Copy released weights into the network that they are of.

    Args:
        network: its parameters have the names that the scheme gives.
        state: all tensors of the file.
        scheme: how the file names them.
        source: its name, for messages.
        partial: see ``EncoderSettings``.
        fit: see ``weights.match``; only equal shapes fit by default.

    Returns:
        The share of the parameters that were filled.

    Raises:
        ModelError: code ``weights``: a weight of the network is missing, has another shape or is not finite, or the
            file has more layers than the network.
    """
    given, dropped, outside = scheme.apply(state)
    found = matched(saved_weights(network), given, fit or same_shape)
    rest = [name for name in found.unexpected if name.partition(".")[0] in _parts(network)]
    if rest and not partial and not (found.missing or found.misfits):
        raise ModelError(
            f"{source} holds weights that the encoder has no place for ({len(rest)}): {listed(rest)}.",
            code="weights",
            fix="Name weights of the same size, or set the encoder's sizes to theirs.",
        )
    share = copy_matched(network, found, source, partial)
    unknown = [name for name in (*outside, *found.unexpected) if not name.endswith(COUNTERS)]
    if dropped or unknown:
        _LOG.log(
            logging.WARNING if unknown else logging.INFO, "%s: left out: %s.", source, listed((*unknown, *dropped))
        )
    return share


def _parts(network: nn.Module) -> Sequence[str]:
    return [name for name, _ in (*network.named_children(), *network.named_parameters(recurse=False))]
