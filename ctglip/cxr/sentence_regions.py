"""Which sentences of a report belong to which region of a chest radiograph, from the parser's rows.

Regions are those of ``regions.yaml``; a row belongs to the region of its organ, to the zone that its sentence names
("right apical"), and to what these lie in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from ctglip.cxr.regions import region_entries
from ctglip.types import Finding
from ctglip.vocabulary.organs import load_organs

SECTIONS = ("findings", "impression")
"""Sections that tell what is seen."""
_WORD = re.compile(r"[a-z]+")


def sentences_by_region(findings: Iterable[Finding]) -> dict[str, tuple[int, ...]]:
    """The sentences that belong to each region, by their ``sentence_index``; a zone's are its lung's too."""
    found: dict[str, dict[int, None]] = {}
    for row in findings:
        if row.section in SECTIONS and row.status != "historical":
            for region in regions_of(row):
                found.setdefault(region, {})[row.sentence_index] = None
    return {region: tuple(sorted(found[region])) for region in region_entries() if region in found}


def regions_of(row: Finding) -> tuple[str, ...]:
    """Every region that a row speaks of, with those that they lie in."""
    entries = region_entries()
    found: dict[str, None] = {}
    waiting = list(narrowest(row))
    while waiting:
        region = waiting.pop(0)
        found[region] = None
        waiting += [other for other in entries[region].inside if other not in found]
    return tuple(found)


def narrowest(row: Finding) -> tuple[str, ...]:
    """The regions that a row speaks of: zones that its sentence names in place of their lung."""
    if row.organ is None:
        return ()
    regions = regions_of_organ(row.organ)
    words = set(_WORD.findall(row.sentence.lower()))
    entries = region_entries()
    found: dict[str, None] = {}
    for region in regions:
        inner = {name: entry for name, entry in entries.items() if region in entry.inside}
        zones = [name for name, entry in inner.items() if not words.isdisjoint(entry.level)]
        zones = zones or [name for name, entry in inner.items() if row.abnormality in entry.findings]
        for name in _deepest(zones) or [region]:
            found[name] = None
    return tuple(found)


def _deepest(zones: Sequence[str]) -> list[str]:
    """Zones without those that another one of them lies in."""
    entries = region_entries()
    return [zone for zone in zones if not any(zone in entries[other].inside for other in zones)]


@functools.cache
def regions_of_organ(organ: str) -> tuple[str, ...]:
    """The regions of an organ: its own, else those of its parts ("lungs": both), else that of what it is part of."""
    organs, entries = load_organs(), region_entries()

    def region_names(name: str) -> list[str]:
        return [region for region, entry in entries.items() if name in entry.organs]

    if organ not in organs:
        return ()
    if found := region_names(organ):
        return tuple(found)
    parts = [part for part in organs.names if part in organs.parts_of(organ)]
    sided = [region for part in parts if organs[part].side is not None for region in region_names(part)]
    wide = [region for region in dict.fromkeys(sided) if not set(entries[region].inside) & set(sided)]
    if wide:
        return tuple(region for region in entries if region in wide)
    containers = sorted(organs.containing(organ), key=lambda name: len(organs.parts_of(name)))
    for container in containers:
        if found := region_names(container):
            return tuple(found)
    return tuple(dict.fromkeys(region for part in parts for region in region_names(part)))
