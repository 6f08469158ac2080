"""What the numbers of multilabel masks mean: the numberings of public data sets and programs, by name.

The data is ``organ_dictionary/numberings.yaml``; where each was read stands beside it.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.errors import MaskError, VocabularyError
from ctglip.files import read_yaml
from ctglip.resources import resource

DEFAULT = "totalsegmentator_v2"
"""The numbering of masks that say nothing else."""


class Numbering(Settings):
    """One numbering.

    Attributes:
        name: how a recipe or a row of the cohort chooses it.
        what: whose it is.
        source: where the numbers were read.
        organs: number to organ of the dictionary.
        others: numbers of structures that the dictionary has no label for; they are left out.
    """

    name: str
    what: str
    source: str
    organs: dict[int, str]
    others: dict[int, str] = Field(default_factory=dict)


@functools.cache
def load_numberings() -> Mapping[str, Numbering]:
    """The shipped numberings by name.

    Raises:
        ConfigError, VocabularyError: the file is not what it should be.
    """
    path = resource("organ_dictionary", "numberings.yaml")
    tree = read_yaml(path)
    entries = tree.get("numberings") if isinstance(tree, dict) else None
    if not isinstance(entries, dict):
        raise VocabularyError(f"{path} has no mapping 'numberings'.", code="bad_dictionary")
    made = {name: validate(Numbering, {**fields, "name": name}, f"{path}: {name}") for name, fields in entries.items()}
    return MappingProxyType(made)


def numbering(name: str) -> Numbering:
    """The numbering of that name.

    Raises:
        MaskError: ``unknown_numbering``, with the nearest names.
    """
    known = load_numberings()
    normalized = name.strip().lower().replace("-", "_").replace(" ", "_")
    if normalized in known:
        return known[normalized]
    near = ", ".join(difflib.get_close_matches(normalized, known, n=2, cutoff=0.5))
    raise MaskError(
        f"There is no numbering {name!r}" + (f" (nearest: {near})." if near else "."),
        code="unknown_numbering",
        fix=f"Known: {', '.join(known)}. Other numbers go into the recipe's label_map, number: organ.",
    )
