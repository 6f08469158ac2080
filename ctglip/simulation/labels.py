"""TotalSegmentator v2 numbers by organ name, for the structures that the simulation draws or reads."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from ctglip.vocabulary.organs import load_organs, totalsegmentator_classes


@functools.cache
def _numbers() -> dict[str, int]:
    return {name: number for number, name in totalsegmentator_classes().items()}


def number(name: str) -> int:
    """TotalSegmentator v2's number of one of its classes."""
    return _numbers()[name]


@functools.cache
def numbers_of(organ: str) -> tuple[int, ...]:
    """The TotalSegmentator v2 numbers that make up an organ or a group of organs of the dictionary."""
    return tuple(sorted(label for label in load_organs().labels_of(organ) if label in totalsegmentator_classes()))


def lookup(organs: Iterable[str]) -> np.ndarray:
    """Bool ``[256]``: which label values belong to any of ``organs``. Index it with a label map to get a mask."""
    table = np.zeros(256, bool)
    for organ in organs:
        table[list(numbers_of(organ))] = True
    return table
