"""Where the items of public vocabularies are found in the dictionaries, and which are left out and why.

The data is ``abnormality_dictionary/sources.yaml``. It holds what the dictionaries do not find by themselves.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.files import read_yaml
from ctglip.resources import resource
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary


class SourceList(Settings):
    """One vocabulary.

    Attributes:
        title: what it is.
        kind: of what: of abnormalities, of organs, or of both.
        maps: item to ``abnormality``, ``organ`` or ``organ:abnormality``; several where it covers several.
        declined: reason to the items (``*`` matches anything) that have no entry for it.
    """

    title: str
    kind: Literal["abnormalities", "organs", "both"] = "abnormalities"
    maps: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    declined: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def targets(self, item: str) -> tuple[str, ...]:
        """What an item is mapped to by hand."""
        found = self.maps.get(item, ())
        return (found,) if isinstance(found, str) else found

    def reason(self, item: str) -> str | None:
        """Why an item is declined, or None."""
        return next((r for r, names in self.declined.items() if any(fnmatchcase(item, n) for n in names)), None)


class Sources(Settings):
    """``sources.yaml``: lists by their file's name."""

    version: int = 1
    lists: dict[str, SourceList]


def load_sources(path: Path | None = None) -> Sources:
    """Read a ``sources.yaml``, by default the shipped one.

    Raises:
        ConfigError: a field is missing, unknown or of the wrong type.
    """
    path = path or resource("abnormality_dictionary", "sources.yaml")
    return validate(Sources, read_yaml(path), str(path))


def unknown_targets(
    sources: Sources, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> tuple[tuple[str, str, str], ...]:
    """(list, item, target) for every target that is no organ, abnormality or pair of the dictionaries."""
    pairs = {f"{organ}:{name}" for organ, name in abnormalities.pairs()}
    known = pairs.union(organs.names, abnormalities.names)
    return tuple(
        (name, item, target)
        for name, source in sources.lists.items()
        for item in source.maps
        for target in source.targets(item)
        if target not in known
    )
