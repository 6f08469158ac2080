"""Things that a sentence names, and those it tells by a measure: "heart size is increased", "heights are kept"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ctglip.text.lexicon import Lexicon
from ctglip.text.negation import Clauses
from ctglip.text.place import Place
from ctglip.text.trie import Mention
from ctglip.types import Status

SILENT = ("pathology", "mute")
"""Kinds of things that make no finding by themselves."""
_REACH = 12


@dataclass(slots=True)
class Thing:
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
    subject: Place | None = None
    general: bool = False
    sides: set[str] = field(default_factory=set)
    firm: bool = False


def gap(start: int, end: int, other_start: int, other_end: int) -> int:
    """Words between two stretches of a sentence."""
    return max(start - other_end, other_start - end, 0)


def measured(
    words: Sequence[str], places: Sequence[Place], things: Sequence[Thing], clauses: Clauses, lexicon: Lexicon
) -> list[Thing]:
    """What attributes and their changes say of organs: an observation each, denied where the measure is normal."""
    return list(_measured(lexicon.measures.find(words), places, things, clauses, lexicon))


def _measured(
    found: Sequence[Mention],
    places: Sequence[Place],
    things: Sequence[Thing],
    clauses: Clauses,
    lexicon: Lexicon,
) -> Iterator[Thing]:
    for mention in found:
        if mention.value[0] != "measure":
            continue
        entry = lexicon.cues["measures"][mention.value[1]]
        change = _change(mention, found, clauses)
        key = entry.get("up" if change.value[1] == "limit" else change.value[1]) if change else None
        if change is None or key is None:
            continue
        fitting = [place for place in places if _can_be(key, place, lexicon)]
        subject = _subject(mention, fitting or places, things, clauses)
        if subject is None:
            continue
        status: Status = clauses.status(change.start, change.end)
        if change.value[1] == "normal":
            status = "affirmed" if clauses.denies_normal(change.start) else "negated"
        elif change.value[1] == "limit" and status == "affirmed":
            status = "uncertain"
        yield Thing(mention.start, mention.end, "observation", key, status, subject)


def removed(words: Sequence[str], places: Sequence[Place], things: Sequence[Thing], lexicon: Lexicon) -> list[Thing]:
    """Organs that are not there any more: "the gallbladder is absent", "not seen, presumably removed"."""
    if lexicon.words["removed"].isdisjoint(words):
        return []
    found: list[Thing] = []
    for i, word in enumerate(words):
        if word not in lexicon.words["removed"] or any(t.start <= i < t.end for t in things):
            continue
        near = [p for p in places if p.end <= i and _can_be("removed", p, lexicon)]
        between = [t for t in things if near and near[-1].end <= t.start and t.end <= i and t.kind not in SILENT]
        if not near or between or any(p.start >= near[-1].end and p.end <= i for p in places):
            continue
        unsure = not lexicon.words["unsure"].isdisjoint(words[max(0, i - 4) : i])
        status: Status = "uncertain" if unsure else "affirmed"
        found.append(Thing(i, i + 1, "observation", "removed", status, near[-1]))
    return found


def _can_be(key: str, place: Place, lexicon: Lexicon) -> bool:
    return any(lexicon.resolve("observation", key, organ, place.where.structure) for organ in place.where.organs)


def _change(mention: Mention, found: Sequence[Mention], clauses: Clauses) -> Mention | None:
    start, end = clauses.clause_of(mention.start)
    near = [m for m in found if m.value[0] == "change" and start <= m.start < end]
    best = min(near, key=lambda m: gap(m.start, m.end, mention.start, mention.end), default=None)
    if best is None or gap(best.start, best.end, mention.start, mention.end) > _REACH:
        return None
    return best


def _subject(mention: Mention, places: Sequence[Place], things: Sequence[Thing], clauses: Clauses) -> Place | None:
    """The organ whose size or density is spoken of, unless it is a lesion's."""
    start, end = clauses.clause_of(mention.start)
    inside = [place for place in places if start <= place.start < end]
    best = min(inside, key=lambda p: gap(p.start, p.end, mention.start, mention.end), default=None)
    if best is None:
        return None
    nearest = gap(best.start, best.end, mention.start, mention.end)
    for thing in things:
        named = thing.kind not in SILENT and thing.key != "enlarged" and start <= thing.start < end
        named = named and not (thing.start >= mention.end and clauses.sets_off(mention.end, thing.start))
        distance = gap(thing.start, thing.end, mention.start, mention.end)
        same = thing.start <= best.start and best.end <= thing.end
        if named and (distance < nearest or (same and distance == nearest)):
            return None
    return best
