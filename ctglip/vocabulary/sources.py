"""Where the items of public vocabularies are found in the dictionaries, and which are left out and why.

The data is ``abnormality_dictionary/sources.yaml``. It holds what the dictionaries do not find by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Coverage:
    """What became of the items of one list.

    Attributes:
        found: item to organs, abnormalities or ``organ:abnormality`` pairs.
        declined: item to the reason.
        missing: items that are neither.
    """

    found: dict[str, tuple[str, ...]]
    declined: dict[str, str]
    missing: tuple[str, ...]


def load_sources(path: Path | None = None) -> Sources:
    """Read a ``sources.yaml``, by default the shipped one.

    Raises:
        ConfigError: a field is missing, unknown or of the wrong type.
    """
    path = path or resource("abnormality_dictionary", "sources.yaml")
    return validate(Sources, read_yaml(path), str(path))


def coverage(
    items: Iterable[str], source: SourceList, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Coverage:
    """Find every item: mapped by hand, declined, or known to a dictionary by name, display name or synonym.

    An item ``Organ_Finding`` is looked up as a finding of that organ.
    """
    found: dict[str, tuple[str, ...]] = {}
    declined: dict[str, str] = {}
    missing: list[str] = []
    for item in items:
        reason = source.reason(item)
        targets = source.targets(item) or (() if reason else _known(item, source.kind, organs, abnormalities))
        if targets:
            found[item] = targets
        elif reason:
            declined[item] = reason
        else:
            missing.append(item)
    return Coverage(found, declined, tuple(missing))


def _known(item: str, kind: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> tuple[str, ...]:
    organ = organs.from_source(item) or organs.find(item)
    if organ is not None and kind != "abnormalities":
        return (organ.name,)
    entry = abnormalities.find(item)
    if entry is not None and kind != "organs":
        return (entry.name,)
    place, _, finding = item.partition("_")
    organ, entry = organs.find(place), abnormalities.find(finding)
    if organ is None or entry is None:
        return ()
    name = abnormalities.specialise(entry.name, organ.name)
    return (f"{organ.name}:{name}",) if organ.name in abnormalities[name].organs else ()


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
