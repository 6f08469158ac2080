"""Label names from nnU-Net's ``dataset.json``, which lies beside the labels or one folder above them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError, MaskError
from ctglip.files import read_json
from ctglip.vocabulary.organs import OrganDictionary

FILE = "dataset.json"
_FOLDERS = ("labelsTr", "labelsTs", "labelsVal")


def dataset_file(masks: Path) -> Path | None:
    """The ``dataset.json`` of a file of labels: in its folder (predictions), or above ``labelsTr`` and its like."""
    beside = masks.parent / FILE
    above = masks.parent.parent / FILE if masks.parent.name in _FOLDERS else None
    return next((path for path in (beside, above) if path is not None and path.is_file()), None)


def dataset_names(path: Path, organs: OrganDictionary) -> dict[int, str]:
    """What the numbers mean.

    Version 1 has number: name, version 2 name: number, or, where it trains regions, name: several numbers. A number of
    several regions is the organ of the smallest one that is an organ (a tumour in a kidney is the kidney).

    Args:
        path: a ``dataset.json``; one that has no ``labels`` is another program's and gives nothing.
        organs: says which regions are organs.

    Returns:
        Number to name; 0 is background. Empty for another program's file.

    Raises:
        MaskError: ``bad_dataset_json`` for a file that cannot be read, or whose labels are neither form;
            ``ambiguous_regions`` where two organs of one size share a number.
    """
    try:
        tree: Any = read_json(path)
    except CTGLIPError as error:
        raise MaskError(
            f"{error} So nothing says what the numbers of the masks beside it mean.",
            code="bad_dataset_json",
            fix="Mend it, or set numbering in the row or label_map in the recipe.",
        ) from error
    labels = tree.get("labels") if isinstance(tree, dict) else None
    if not isinstance(labels, dict) or not labels:
        return {}
    regions: dict[str, frozenset[int]] = {}
    for key, value in labels.items():
        name, numbers = (value, [key]) if isinstance(value, str) and _whole(key) else (key, value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if not all(_whole(number) for number in numbers):
            raise MaskError(
                f"{path}: labels has {key!r}: {value!r}, expected a name and its number, or numbers.",
                code="bad_dataset_json",
                fix="Write labels as name: number (or number: name).",
            )
        regions[str(name)] = frozenset(int(number) for number in numbers)
    every = sorted(frozenset().union(*regions.values()) - {0})
    return {number: _smallest(path, number, regions, organs) for number in every}


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and str(value).strip().isdigit()


def _smallest(path: Path, number: int, regions: Mapping[str, frozenset[int]], organs: OrganDictionary) -> str:
    """The name of a number: of the smallest region that is an organ, else of the smallest region."""
    holding = sorted((len(numbers), name) for name, numbers in regions.items() if number in numbers)
    known = [(size, name) for size, name in holding if organs.from_source(name) is not None]
    if len(known) > 1 and known[0][0] == known[1][0] and _differ(known[0][1], known[1][1], organs):
        raise MaskError(
            f"{path}: number {number} is {known[0][1]} and {known[1][1]}, regions of one size.",
            code="ambiguous_regions",
            fix="Give one file per organ, or set label_map in the recipe (number: organ).",
        )
    return (known or holding)[0][1]


def _differ(first: str, second: str, organs: OrganDictionary) -> bool:
    return organs.from_source(first) != organs.from_source(second)
