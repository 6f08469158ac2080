"""What a measure or an absence means: "heart size is increased", "the gallbladder is absent"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ctglip.reports.assertion import Scopes
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import Concept, Location, Mention, Span
from ctglip.reports.trie import TrieMatch
from ctglip.types import Status

_UNITS = {"mm": 1.0, "cm": 10.0, "millimeter": 1.0, "centimeter": 10.0}
_DIMENSION = frozenset({"x", *_UNITS})
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?$")
_REACH = 12
"""Words at most between a measure and its change."""


def measured(
    words: Sequence[str], locations: Sequence[Location], mentions: Sequence[Mention], scopes: Scopes, lexicon: Lexicon
) -> list[Mention]:
    """What attributes and their changes say of organs: an observation each, denied where the measure is normal."""
    if lexicon.measuring.isdisjoint(scopes.vocabulary):
        return []
    found: list[Mention] = []
    hits = lexicon.measures.find(words)
    changes = [hit for hit in hits if hit.value[0] == "change"]
    for hit in hits if changes else ():
        change = _change(hit, changes, scopes) if hit.value[0] == "measure" else None
        if change is None:
            continue
        direction = change.value[1]
        observation = lexicon.data["measures"][hit.value[1]].get("up" if direction == "limit" else direction)
        if observation is None:
            continue
        span = Span(hit.start, hit.end)
        fitting = [location for location in locations if _can_be(observation, location, lexicon)]
        location = _location(span, fitting or locations, mentions, scopes)
        if location is None:
            continue
        assertion: Status = scopes.assertion(change.start, change.end)
        if direction == "normal":
            assertion = "affirmed" if scopes.denies_normal(change.start) else "negated"
        elif direction == "limit" and assertion == "affirmed":
            assertion = "uncertain"
        found.append(Mention(span, Concept("observation", observation), assertion, location))
    return found


def removed(
    words: Sequence[str], locations: Sequence[Location], mentions: Sequence[Mention], scopes: Scopes, lexicon: Lexicon
) -> list[Mention]:
    """Organs that are not there any more: "the gallbladder is absent", "not seen, presumably removed"."""
    if lexicon.lists["removed"].isdisjoint(scopes.vocabulary):
        return []
    found: list[Mention] = []
    for i, word in enumerate(words):
        if word not in lexicon.lists["removed"] or any(t.start <= i < t.end for t in mentions):
            continue
        location = next((p for p in reversed(locations) if p.end <= i and _can_be("removed", p, lexicon)), None)
        if location is None or any(p.start >= location.end and p.end <= i for p in locations):
            continue
        if any(location.end <= t.start and t.end <= i and not t.concept.silent for t in mentions):
            continue
        unsure = not lexicon.lists["unsure"].isdisjoint(words[max(0, i - 4) : i])
        assertion: Status = "uncertain" if unsure else "affirmed"
        found.append(Mention(Span(i, i + 1), Concept("observation", "removed"), assertion, location))
    return found


def size_in(words: Sequence[str], limiting: frozenset[str]) -> float:
    """The first size of a stretch in mm, of several dimensions the smallest: no limit, nor an earlier one; else 0."""
    for i, word in enumerate(words):
        unit, low = _UNITS.get(word, 0.0), i
        while unit and low and (words[low - 1] in _DIMENSION or _NUMBER.match(words[low - 1])):
            low -= 1
        numbers = [float(number.replace(",", ".")) for number in words[low:i] if _NUMBER.match(number)]
        if numbers and limiting.isdisjoint(words[max(low - 4, 0) : low]):
            return unit * min(numbers)
    return 0.0


def _can_be(observation: str, location: Location, lexicon: Lexicon) -> bool:
    term = location.term
    return any(lexicon.resolve("observation", observation, organ, term.structure) for organ in term.organs)


def _change(hit: TrieMatch, changes: Sequence[TrieMatch], scopes: Scopes) -> TrieMatch | None:
    """The nearest change in the measure's clause."""
    start, end = scopes.clause_of(hit.start)
    near = [
        (max(hit.start - change.end, change.start - hit.end, 0), n)
        for n, change in enumerate(changes)
        if start <= change.start < end
    ]
    distance, number = min(near, default=(_REACH + 1, 0))
    return changes[number] if distance <= _REACH else None


def _location(
    measure: Span, locations: Sequence[Location], mentions: Sequence[Mention], scopes: Scopes
) -> Location | None:
    """The organ whose size or density is spoken of, unless it is a lesion's."""
    start, end = scopes.clause_of(measure.start)
    inside = [location for location in locations if start <= location.start < end]
    best = min(inside, key=lambda p: p.span.gap(measure), default=None)
    if best is None:
        return None
    nearest = best.span.gap(measure)
    for mention in mentions:
        if mention.concept.silent or mention.concept.name == "enlarged" or not start <= mention.start < end:
            continue
        if mention.start >= measure.end and scopes.sets_off(measure.end, mention.start):
            continue
        distance = mention.span.gap(measure)
        if distance < nearest or (distance == nearest and mention.span.holds(best.span)):
            return None
    return best
