"""Prompts for radiographs composed of severity, kind and location and drawn by a seed, after GLoRIA (Huang et al., ICCV
2021).

``prompts/cxr.yaml`` holds the words, in a wording of our own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

from ctglip.config import Settings, validate
from ctglip.errors import ConfigError
from ctglip.files import read_yaml
from ctglip.inference.scoring import Dictionaries, Pair, PromptSet

_FILE = Path(__file__).parent / "prompts" / "cxr.yaml"
_OTHER = {"left": ("right", "both"), "right": ("left", "both")}


class PromptWords(Settings):
    """The words of one abnormality."""

    severity: tuple[str, ...]
    kind: tuple[str, ...]
    location: tuple[str, ...]


@functools.cache
def cxr_words() -> Mapping[str, PromptWords]:
    """The words of each abnormality that has some."""
    tree = read_yaml(_FILE)
    return {name: validate(PromptWords, fields, f"{_FILE.name}: {name}") for name, fields in tree.items()}


def compose(abnormality: str, count: int, seed: int, side: str | None = None) -> tuple[str, ...]:
    """Some prompts of an abnormality, no two alike; the same for the same seed.

    Args:
        count: how many; fewer where there are not so many.
        side: of the organ that is asked about: locations on the other side are left out.

    Raises:
        ConfigError: the abnormality has no words.
    """
    if abnormality not in cxr_words():
        raise ConfigError(
            f"There are no composed prompts of {abnormality!r}.", fix=f"There are those of {', '.join(cxr_words())}."
        )
    words = cxr_words()[abnormality]
    locations = [p for p in words.location if side is None or not set(p.split()) & set(_OTHER[side])]
    texts = [" ".join(filter(None, parts)) for parts in product(words.severity, words.kind, locations)]
    rng = np.random.default_rng([seed, *abnormality.encode()])
    return tuple(f"{texts[i][:1].upper()}{texts[i][1:]}." for i in rng.permutation(len(texts))[:count])


def composed_prompts(dictionaries: Dictionaries, count: int, seed: int) -> dict[Pair, PromptSet]:
    """Composed prompts for every (organ, abnormality) that has words; negative ones stay the dictionary's."""
    abnormalities, organs = dictionaries.abnormalities, dictionaries.organs
    return {
        (organ, name): (compose(name, count, seed, organs[organ].side), ())
        for name in cxr_words()
        if name in abnormalities
        for organ in abnormalities[name].organs
    }
