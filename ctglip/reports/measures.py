"""Things that a sentence names, and those it tells by a measure: "heart size is increased", "heights are kept"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import Location
from ctglip.reports.negation import Clauses
from ctglip.reports.trie import Match
from ctglip.types import Status

SILENT = ("pathology", "mute")
"""Kinds of things that make no finding by themselves."""
_REACH = 12


@dataclass(slots=True)
class Mention:
    """A finding named by the words ``start`` to ``end``.

    Attributes:
        kind: "abnormality" of the dictionary, "observation" of this room, "pathology" or "mute".
        key: its name there.
        status: where it is known already (a measure).
        subject: the organ whose measure it is.
        general: its general word is meant, since its own organ is not the one named.
        sides: sides that are said of itself ("left effusion").
        firm: they stand before it, so that they beat a side that a place has.
    """

    start: int
    end: int
    kind: str
    key: str
    status: Status | None = None
    subject: Location | None = None
    general: bool = False
    sides: set[str] = field(default_factory=set)
    firm: bool = False


def gap(start: int, end: int, other_start: int, other_end: int) -> int:
    """Words between two stretches of a sentence."""
    return max(start - other_end, other_start - end, 0)


def measured(
    words: Sequence[str], locations: Sequence[Location], mentions: Sequence[Mention], clauses: Clauses, lexicon: Lexicon
) -> list[Mention]:
    """What attributes and their changes say of organs: an observation each, denied where the measure is normal."""
    if lexicon.measuring.isdisjoint(words):
        return []
    return list(_measured(lexicon.measures.find(words), locations, mentions, clauses, lexicon))


def _measured(
    found: Sequence[Match],
    locations: Sequence[Location],
    mentions: Sequence[Mention],
    clauses: Clauses,
    lexicon: Lexicon,
) -> Iterator[Mention]:
    for hit in found:
        if hit.value[0] != "measure":
            continue
        entry = lexicon.cues["measures"][hit.value[1]]
        change = _change(hit, found, clauses)
        key = entry.get("up" if change.value[1] == "limit" else change.value[1]) if change else None
        if change is None or key is None:
            continue
        fitting = [location for location in locations if _can_be(key, location, lexicon)]
        subject = _subject(hit, fitting or locations, mentions, clauses)
        if subject is None:
            continue
        status: Status = clauses.status(change.start, change.end)
        if change.value[1] == "normal":
            status = "affirmed" if clauses.denies_normal(change.start) else "negated"
        elif change.value[1] == "limit" and status == "affirmed":
            status = "uncertain"
        yield Mention(hit.start, hit.end, "observation", key, status, subject)


def removed(
    words: Sequence[str], locations: Sequence[Location], mentions: Sequence[Mention], lexicon: Lexicon
) -> list[Mention]:
    """Organs that are not there any more: "the gallbladder is absent", "not seen, presumably removed"."""
    if lexicon.words["removed"].isdisjoint(words):
        return []
    found: list[Mention] = []
    for i, word in enumerate(words):
        if word not in lexicon.words["removed"] or any(t.start <= i < t.end for t in mentions):
            continue
        near = [p for p in locations if p.end <= i and _can_be("removed", p, lexicon)]
        between = [t for t in mentions if near and near[-1].end <= t.start and t.end <= i and t.kind not in SILENT]
        if not near or between or any(p.start >= near[-1].end and p.end <= i for p in locations):
            continue
        unsure = not lexicon.words["unsure"].isdisjoint(words[max(0, i - 4) : i])
        status: Status = "uncertain" if unsure else "affirmed"
        found.append(Mention(i, i + 1, "observation", "removed", status, near[-1]))
    return found


def _can_be(key: str, location: Location, lexicon: Lexicon) -> bool:
    return any(lexicon.resolve("observation", key, organ, location.where.structure) for organ in location.where.organs)


def _change(hit: Match, found: Sequence[Match], clauses: Clauses) -> Match | None:
    start, end = clauses.clause_of(hit.start)
    near = [m for m in found if m.value[0] == "change" and start <= m.start < end]
    best = min(near, key=lambda m: gap(m.start, m.end, hit.start, hit.end), default=None)
    if best is None or gap(best.start, best.end, hit.start, hit.end) > _REACH:
        return None
    return best


def _subject(
    hit: Match, locations: Sequence[Location], mentions: Sequence[Mention], clauses: Clauses
) -> Location | None:
    """The organ whose size or density is spoken of, unless it is a lesion's."""
    start, end = clauses.clause_of(hit.start)
    inside = [location for location in locations if start <= location.start < end]
    best = min(inside, key=lambda p: gap(p.start, p.end, hit.start, hit.end), default=None)
    if best is None:
        return None
    nearest = gap(best.start, best.end, hit.start, hit.end)
    for mention in mentions:
        named = mention.kind not in SILENT and mention.key != "enlarged" and start <= mention.start < end
        named = named and not (mention.start >= hit.end and clauses.sets_off(hit.end, mention.start))
        distance = gap(mention.start, mention.end, hit.start, hit.end)
        same = mention.start <= best.start and best.end <= mention.end
        if named and (distance < nearest or (same and distance == nearest)):
            return None
    return best
