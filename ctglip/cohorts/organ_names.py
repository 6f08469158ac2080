"""What others call places, as organs of the dictionary."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from ctglip.vocabulary.organs import load_organs


@functools.lru_cache(maxsize=4096)
def _known(text: str) -> str | None:
    organs = load_organs()
    plain = " ".join(re.sub(r"[_-]", " ", text).split()).lower()
    if plain.replace(" ", "_") in organs:
        return plain.replace(" ", "_")
    found = organs.find(plain) or organs.from_source(plain)
    if found is None and plain.endswith("s"):
        found = organs.find(plain[:-1])
    return found.name if found else None


def organ_of(text: str, names: Mapping[str, str | None] | None = None) -> str | None:
    """The organ that a place means, or None.

    Args:
        text: what others call it: a name, or a path of names (``lung/left lung/left lower lobe``) whose last known one
            counts.
        names: a reader's own list, which comes first.
    """
    names = names or {}
    for part in reversed([part.strip() for part in text.split("/") if part.strip()]):
        if part in names or part.lower() in names:
            return names.get(part, names.get(part.lower()))
        if found := _known(part):
            return found
    return None
