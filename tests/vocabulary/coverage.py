"""Whether the dictionaries know every item of a public vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.sources import SourceList


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
    location, _, finding = item.partition("_")
    organ, entry = organs.find(location), abnormalities.find(finding)
    if organ is None or entry is None:
        return ()
    name = abnormalities.specialise(entry.name, organ.name)
    return (f"{organ.name}:{name}",) if organ.name in abnormalities[name].organs else ()
