"""The numbers in mask files: whole labels, grey values of one organ, and which organ a number means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ctglip.ct.raw import RawVolume
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import QualityCheck
from ctglip.vocabulary.numberings import DEFAULT, numbering
from ctglip.vocabulary.organs import OrganDictionary

_HAIR = 0.01
"""A label this near to a whole number is that number."""

_LABELS = 32
"""Whole numbers below this are labels (of parts, ribs, lesions); above it a file of one organ holds grey values."""


@dataclass(frozen=True)
class Names:
    """What the numbers of a file mean.

    Attributes:
        organs: number to organ of the dictionary.
        others: number to what it is, where the dictionary has no label for it.
        chosen: the numbering's name; empty where the recipe or the file itself names the numbers.
    """

    organs: Mapping[int, str]
    others: Mapping[int, str]
    chosen: str


def names_of(
    recipe: CtRecipe, row: str | None, file_names: Mapping[int, str], present: np.ndarray, where: str,
    organs: OrganDictionary,
) -> Names:  # fmt: skip
    """What the numbers mean: by the row's numbering, else the recipe's, else the file's own table, else the default.

    Args:
        row: the numbering of the cohort's row.
        file_names: the label table in the file's header.
        present: the numbers that the file holds.
        where: how the file is called in messages.

    Raises:
        MaskError: ``unknown_numbering``; ``unnamed_mask`` for a mask of one organ that nothing names.
    """
    chosen = row or recipe.label_map
    if isinstance(chosen, str):
        known = numbering(chosen)
        return Names(known.organs, known.others, known.name)
    table = chosen or file_names
    if not table:
        if set(present.tolist()) - {0} in ({1}, {255}):
            raise MaskError(
                f"{where} marks one structure (number {present.max()}) and nothing says which.",
                code="unnamed_mask",
                fix="Call the file after its organ (liver.nii.gz), or set label_map (1: liver) in the recipe or "
                "numbering in the row.",
            )
        known = numbering(DEFAULT)
        return Names(known.organs, known.others, known.name)
    found = {number: organs.from_source(name) for number, name in table.items()}
    return Names(
        {number: organ.name for number, organ in found.items() if organ is not None},
        {number: table[number] for number, organ in found.items() if organ is None},
        "",
    )


def integer_values(where: str, volume: RawVolume) -> np.ndarray:
    """The labels as uint8 or uint16, whatever type they were stored in.

    Raises:
        MaskError: ``not_labels``.
    """
    values = volume.values
    if values.dtype == np.uint8 and volume.slope == 1 and volume.intercept == 0:
        return values
    if values.dtype.kind not in "iufb":
        raise MaskError(f"{where} holds {values.dtype}, expected whole numbers.", code="not_labels")
    if volume.slope != 1 or volume.intercept != 0 or values.dtype.kind == "f":
        scaled = np.nan_to_num(values * volume.slope + volume.intercept, nan=0.0, posinf=-1, neginf=-1)
        values = np.rint(scaled)
        apart = np.abs(values - scaled)
        if apart.max(initial=0) > _HAIR:
            example = float(scaled.flat[int(apart.argmax())])
            raise MaskError(
                f"{where} holds fractions (such as {example:.3g}), expected whole label numbers.",
                code="not_labels",
                fix="Labels were interpolated: resample the masks with nearest neighbours, or give one file per organ.",
            )
        values = values.astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise MaskError(
            f"{where} holds numbers from {values.min()} to {values.max()}, expected labels from 0.",
            code="not_labels",
            fix="Is this the scan in place of its masks?",
        )
    return values.astype(np.uint8 if values.max(initial=0) < 256 else np.uint16, copy=False)


def present_in(values: np.ndarray) -> np.ndarray:
    """The sorted distinct values of a uint8 or uint16 array, looking only where a run of eight bytes changes, and at
    two bytes at a time."""
    flat = values.ravel(order="K")
    even_length = len(flat) // 8 * 8
    words = flat[:even_length].view(np.uint64)
    changed = np.ones(len(words), bool)
    np.not_equal(words[1:], words[:-1], out=changed[1:])
    pairs = np.zeros(65536, bool)
    pairs[words[changed].view(np.uint16)] = True
    found = np.flatnonzero(pairs)
    if values.dtype == np.uint8:
        found = np.concatenate((found & 255, found >> 8))
    return np.unique(np.concatenate((found, flat[even_length:])))


def compact(where: str, values: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels as uint8, and the number that each of them stands for ``[256]`` (itself where all are below 256).

    Raises:
        MaskError: ``not_labels`` for more than 255 different numbers.
    """
    if values.dtype == np.uint8:
        return values, np.arange(256)
    if len(present) > 256:
        raise MaskError(
            f"{where} holds {len(present)} different numbers, expected labels of organs.",
            code="not_labels",
            fix="Is this the scan in place of its masks?",
        )
    table = np.zeros(65536, np.uint8)
    numbers = np.zeros(256, np.intp)
    for index, number in enumerate((n for n in present.tolist() if n), start=1):
        table[number], numbers[index] = index, number
    return table[values], numbers


def one_organ(where: str, volume: RawVolume) -> tuple[np.ndarray, list[QualityCheck]]:
    """Which voxels a file of one organ marks: bool, whatever it holds (0 and 1, parts, grey values, probabilities).

    Grey values are inside above half of their full scale (1, 100 or 255).

    Raises:
        MaskError: ``not_labels`` for what can be none of these.
    """
    values, plain = volume.values, volume.slope == 1 and volume.intercept == 0
    if plain and values.dtype.kind in "iub" and values.max(initial=0) <= 1 and values.min(initial=0) >= 0:
        return values > 0, []
    scaled = values if plain and values.dtype.kind in "iub" else values * volume.slope + volume.intercept
    if scaled.dtype.kind == "f":
        scaled = np.nan_to_num(scaled, nan=0.0)
    low, high = float(scaled.min(initial=0)), float(scaled.max(initial=0))
    if low < -_HAIR or high > 255.5:
        raise MaskError(
            f"{where} holds values from {low:.4g} to {high:.4g}, expected one organ: 0 and 1, or grey up to 255.",
            code="not_labels",
            fix="Is this the scan, or a network's raw output, in place of a mask?",
        )
    found = np.unique(scaled[scaled > _HAIR])
    integral = bool(np.abs(found - np.rint(found)).max(initial=0) <= _HAIR)
    if integral and (len(found) <= 1 or high < _LABELS):
        if len(np.unique(np.rint(found))) <= 1:
            return scaled > _HAIR, []
        numbers = ", ".join(f"{n:.0f}" for n in found[:5]) + (", ..." if len(found) > 5 else "")
        message = f"{where} holds the numbers {numbers}: all are taken for the organ of its name."
        return scaled > _HAIR, [QualityCheck("parts_joined", "warning", message, len(found))]
    top = 1.0 if high <= 1 + _HAIR else 100.0 if high <= 100.5 else 255.0
    inside = scaled > top / 2
    message = f"{where} holds grey values up to {high:.4g}: above {top / 2:g} is inside."
    return inside, [QualityCheck("grey_mask", "info" if inside.any() else "warning", message, high)]
