"""Weights to start from: found, read without running anything, their names brought to ours, copied into a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.models.weights.matching import FitWeight as FitWeight
    from ctglip.models.weights.matching import Match as Match
    from ctglip.models.weights.matching import copy_matched as copy_matched
    from ctglip.models.weights.matching import fill as fill
    from ctglip.models.weights.matching import layer_depths as layer_depths
    from ctglip.models.weights.matching import load_unique_state as load_unique_state
    from ctglip.models.weights.matching import same_shape as same_shape
    from ctglip.models.weights.matching import unique_state as unique_state
    from ctglip.models.weights.reading import State as State
    from ctglip.models.weights.reading import find_weights as find_weights
    from ctglip.models.weights.reading import read_state as read_state
    from ctglip.models.weights.scheme import KeyScheme as KeyScheme
    from ctglip.models.weights.scheme import fill_by_scheme as fill_by_scheme

__getattr__, __dir__ = public_names(__name__)
