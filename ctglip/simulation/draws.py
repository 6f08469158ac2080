"""Draws by stated shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice", bound=str)


def choose(shares: Mapping[Choice, float], rng: np.random.Generator) -> Choice:
    """One of the keys, each at its share; the sum of the shares is taken as 1."""
    weights = np.array(list(shares.values()), float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
