"""One sentence to rows: which abnormality in which organ, with its status, side and level.

``read_sentence`` looks at a sentence by itself. What it leaves open (an organ that only the sentence before names) the
parser closes in ``reports.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctglip.text.lexicon import Lexicon
from ctglip.text.measures import SILENT, Thing, gap, measured
from ctglip.text.negation import Clauses
from ctglip.text.places import Place, find_places
from ctglip.types import Laterality, Status

_LISTS = frozenset({"and", "or", ",", "/", "&", "nor"})
_SAID = ("affirmed", "uncertain")
_RANK: dict[Status, int] = {"affirmed": 0, "uncertain": 1, "negated": 2, "historical": 3, "normal": 4}
_INTRODUCTION = re.compile(
    r"^(?:when\b.*\b(?:examined|evaluated|assessed)|(?:in|on) (?:the )?(?:evaluation|assessment|examination|study)\b|"
    r"as far as\b|in (?:the )?sections\b|within the limits\b)[^.]{0,120}$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Row:
    """What a sentence says of one organ.

    ``open_to`` names a thing that still seeks its organ in the context, ``otherwise`` what it is when none fits.
    """

    organ: str | None
    abnormality: str | None
    status: Status
    laterality: Laterality | None = None
    level: str | None = None
    reason: str | None = None
    open_to: tuple[str, str] | None = None
    otherwise: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Rows of one sentence, the organ it leaves as the topic, and whether it speaks of the topic before it."""

    rows: tuple[Row, ...]
    topic: str | None
    points_back: bool = False


class _Sentence:
    """The working state of one sentence."""

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text = text
        self.lexicon = lexicon
        self.words, tied = lexicon.read(text)
        self.things = [Thing(m.start, m.end, *m.value) for m in lexicon.seen.find(self.words)]
        spans = [(thing.start, thing.end) for thing in self.things]
        self.signs = lexicon.signs.find(self.words)
        self.places, self.sides = find_places(self.words, tied, lexicon, spans)
        self.clauses = Clauses(self.words, self.signs, spans, lexicon)
        self._mute_headings()
        self.things += measured(self.words, self.places, self.things, self.clauses, lexicon)
        self.used: set[int] = set()

    # --- things and their places

    def _mute_headings(self) -> None:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        named = {(place.start, place.end) for place in self.places}
        for thing in self.things:
            if (thing.start, thing.end) in named and self.words[thing.end : thing.end + 1] == [":"]:
                thing.kind = "mute"

    def rows(self) -> Iterator[Row]:
        """All rows of the sentence."""
        found: list[tuple[Thing, Row]] = []
        for number, thing in enumerate(self.things):
            if thing.kind not in SILENT:
                found += [(thing, row) for row in self._rows_of(number, thing)]
        yield from (row for thing, row in found if not self._better_named(thing, row, found))
        yield from self._organ_rows()

    def _better_named(self, thing: Thing, row: Row, found: Sequence[tuple[Thing, Row]]) -> bool:
        """Whether the sentence says more exactly what it is.

        A kind of it in the same organ does. For vague words anything else in the clause does, for words that only
        describe ("density increase consistent with sequelae") anything else that is no kind of it.
        """
        if row.abnormality is None or row.organ is None or row.status not in _SAID:
            return False
        lexicon, clause = self.lexicon, self.clauses.clause_of(thing.start)
        kinds = lexicon.abnormalities.descendants(row.abnormality)
        if row.abnormality not in lexicon.describing and any(
            other.organ == row.organ and other.status == row.status and other.abnormality in kinds for _, other in found
        ):
            return True
        group = lexicon.organs[row.organ].group
        rivals = (
            other.abnormality
            for beside, other in found
            if other.organ and lexicon.organs[other.organ].group == group and other.status in _SAID
            if other.abnormality not in lexicon.vague | lexicon.describing
            if self.clauses.clause_of(beside.start) == clause
        )
        if row.abnormality in lexicon.describing:
            return any(name not in kinds for name in rivals)
        return row.abnormality in lexicon.vague and any(rivals)

    def _rows_of(self, number: int, thing: Thing) -> Iterator[Row]:
        status = thing.status or self.clauses.status(thing.start, thing.end)
        sides = self.sides.get(number, set())
        placed = False
        for place in self._stations(thing, self._places_of(thing)):
            for organ, laterality in place.members(sides):
                resolved = self._resolved(thing, place, organ)
                if resolved is None:
                    continue
                placed = True
                self.used.add(id(place))
                side = laterality or self.lexicon.organs[resolved[1]].side
                yield Row(resolved[1], resolved[0], status, side, place.level)
        if not placed:
            yield from self._unplaced(thing, status, sides)

    def _resolved(self, thing: Thing, place: Place, organ: str | None) -> tuple[str, str] | None:
        if organ is None:
            return None
        resolved = self.lexicon.resolve(thing.kind, thing.key, organ, place.where.structure)
        return resolved or (self.lexicon.general(thing.key, organ) if thing.general else None)

    def _unplaced(self, thing: Thing, status: Status, sides: set[str]) -> Iterator[Row]:
        """A thing whose organ is not named: at home, or left open to the topic of the sentences before."""
        name = thing.key if thing.kind == "abnormality" else self.lexicon.alone.get(thing.key)
        if thing.kind == "observation" or self.lexicon.is_general(thing.key):
            if self._somewhere():
                return
            topical = thing.kind == "observation" or self.lexicon.takes_topic(thing.key)
            seeking = (thing.kind, thing.key) if topical else None
            named = name if thing.kind == "abnormality" else None
            home = tuple(self.at_home(name, status, sides)) if name and not named else ()
            yield Row(None, named, status, None, None, "no organ named", seeking, home)
            return
        yield from self.at_home(str(name), status, sides or self._side_near(thing))

    def _somewhere(self) -> bool:
        """Whether the sentence names a place for it, though not one that the dictionary has an abnormality for."""
        return any(place.where.organ is not None for place in self.places)

    def at_home(self, name: str, status: Status, sides: set[str]) -> Iterator[Row]:
        """The abnormality in its default organ, on the sides given."""
        where = self.lexicon.where(self.lexicon.abnormalities[name].default_organ)
        for organ, laterality in Place(0, 0, where).members(sides):
            if organ:
                yield Row(organ, name, status, laterality or self.lexicon.organs[organ].side)

    def _side_near(self, thing: Thing) -> set[str]:
        """The side of the nearest place in the clause that shares its sides with the thing's own organ."""
        start, end = self.clauses.clause_of(thing.start)
        home = self.lexicon.home_of(thing.kind, thing.key)
        if home is None or thing.subject is not None:
            return set()
        sided = [p for p in self.places if start <= p.start < end and (p.sides or self._own_side(p))]
        sided = [p for p in sided if self.lexicon.same_side(home, p.where.organ or home)]
        best = min(sided, key=lambda p: gap(p.start, p.end, thing.start, thing.end), default=None)
        if best is None:
            return set()
        return best.sides or {self._own_side(best) or ""}

    def _own_side(self, place: Place) -> str | None:
        return self.lexicon.organs[place.where.organ].side if place.where.organ else None

    def _places_of(self, thing: Thing) -> list[Place]:
        if thing.subject is not None:
            return self._group(thing, thing.subject)
        inside = [p for p in self.places if p.start < thing.end and p.end > thing.start]
        if inside and self._fits(thing, inside[-1]) and not (inside[-1].where.weak and self._elsewhere(thing)):
            return self._coordinated(thing, inside[-1])
        start, end = self.clauses.clause_of(thing.start)
        here = [p for p in self.places if start <= p.start < end]
        own = [p for p in self.places if not self._belongs_elsewhere(p, thing)]
        named = [p for p in here if not p.where.adjective]
        best = self._nearest(thing, [p for p in here if p in own]) or self._nearest(thing, own)
        best = best or self._nearest(thing, [*self._shared(thing), *named])
        if best is None and thing.kind == "abnormality":
            thing.general = True
            best = self._nearest(thing, [p for p in here if p in own]) or self._nearest(thing, named)
        return self._group(thing, best) if best is not None else []

    def _shared(self, thing: Thing) -> list[Place]:
        """The organ in the name of the thing listed just before: "pleural thickening-effusion"."""
        names = ((o.start, o.end) for o in self.things if o.end <= thing.start and self._lists(o.end, thing.start))
        return [p for start, end in names for p in self.places if start <= p.start and p.end <= end]

    def _lists(self, start: int, end: int) -> bool:
        """Whether a stretch only lists: "and", "/", or an adjective or two after a hyphen."""
        between = self.words[start:end]
        plain = len(between) < 3 and all(w.isalpha() and w not in self.lexicon.words["boundary"] for w in between)
        return plain or all(word in self.lexicon.words["listing"] for word in between)

    def _elsewhere(self, thing: Thing) -> bool:
        """Whether the clause names a better place than the one in the thing's name ("soft tissue mass of the neck")."""
        start, end = self.clauses.clause_of(thing.start)
        outside = (p for p in self.places if start <= p.start < end and not thing.start <= p.start < thing.end)
        return any(self._fits(thing, p) and not self._belongs_elsewhere(p, thing) for p in outside)

    def _stations(self, thing: Thing, places: list[Place]) -> list[Place]:
        """Lymph nodes by their station: "lymphadenopathy in the mediastinum", "enlarged nodes in both axillae"."""
        nodal = [p.where.organ == "lymph_nodes" for p in places]
        if nodal == [True]:
            return self._sited(places[0]) or places
        if thing.kind == "abnormality" and self.lexicon.abnormalities[thing.key].default_organ == "lymph_nodes":
            self.used.update(id(p) for p in places)
            stations = [self.lexicon.station(p.where) or p.where for p in places]
            return [Place(thing.start, thing.end, where) for where in dict.fromkeys(stations)]
        return places

    def _sited(self, nodes: Place) -> list[Place]:
        """The stations that the clause names for "lymph nodes", nearest first with those listed beside it."""
        start, end = self.clauses.clause_of(nodes.start)
        sited = [p for p in self.places if start <= p.start < end and self.lexicon.station(p.where)]
        best = min(sited, key=lambda p: gap(p.start, p.end, nodes.start, nodes.end), default=None)
        if best is None:
            return []
        listed = self._listed_with(best)
        self.used.update(id(p) for p in (nodes, *listed))
        stations = dict.fromkeys(self.lexicon.station(p.where) for p in listed)
        return [Place(nodes.start, nodes.end, where) for where in stations if where]

    def _nearest(self, thing: Thing, places: Sequence[Place]) -> Place | None:
        fitting = [p for p in places if self._fits(thing, p)]
        return min(fitting, key=lambda p: self._distance(thing, p), default=None)

    def _distance(self, thing: Thing, place: Place) -> float:
        distance = float(gap(thing.start, thing.end, place.start, place.end))
        if self._region(place):
            distance += 15
        if self._beside(place):
            distance += 20
        return distance + 15 if place.where.weak else distance

    def _beside(self, place: Place) -> bool:
        """Whether it is named for what lies next to it ("adjacent to the heart")."""
        last = max((p.end for p in self.places if p.end <= place.start), default=0)
        before = self.words[max(last, place.start - 4) : place.start]
        return place.where.near or not self.lexicon.words["beside"].isdisjoint(before)

    def _region(self, place: Place) -> bool:
        return place.where.organ is not None and self.lexicon.organs[place.where.organ].group == "regions"

    def _belongs_elsewhere(self, place: Place, thing: Thing) -> bool:
        return any(
            other is not thing
            and other.start <= place.start
            and place.end <= other.end
            and other.end - other.start > place.end - place.start
            for other in self.things
        )

    def _fits(self, thing: Thing, place: Place) -> bool:
        return any(self._resolved(thing, place, organ) for organ in place.where.organs)

    def _group(self, thing: Thing, place: Place) -> list[Place]:
        """The place and those it is listed with ("liver, spleen and both kidneys")."""
        listed = self._listed_with(place)
        return [p for p in listed if p is place or (self._fits(thing, p) and not self._beside(p))]

    def _listed_with(self, place: Place) -> list[Place]:
        low = high = self.places.index(place)
        while low > 0 and self._joined(self.places[low - 1], self.places[low]):
            low -= 1
        while high + 1 < len(self.places) and self._joined(self.places[high], self.places[high + 1]):
            high += 1
        return self.places[low : high + 1]

    def _joined(self, first: Place, second: Place) -> bool:
        if self.clauses.clause_of(first.start) != self.clauses.clause_of(second.start):
            return False
        between = self.words[first.end : second.start]
        if not between:
            ranged = first.level is not None and second.level is not None
            return (first.where.adjective and second.where.adjective) or ranged
        lists = not _LISTS.isdisjoint(between) or (between[0] in ("in", "at") and len(between) < 4)
        other = [word for word in between if word not in self.lexicon.words["listing"]]
        plain = len(other) < 3 and all(w.isalpha() and w not in self.lexicon.words["boundary"] for w in other)
        return lists and plain and not self._marked(first.end, second.start)

    def _marked(self, start: int, end: int) -> bool:
        """Whether a finding or a cue stands in a stretch."""
        return any(t.start < end and t.end > start for t in self.things) or any(
            m.start < end and m.end > start and m.value[0] != "break" for m in self.signs
        )

    def _coordinated(self, thing: Thing, own: Place) -> list[Place]:
        """The place inside a finding's name. For "pleural and pericardial effusion" the effusion is in both."""
        head = self.lexicon.head_of(tuple(self.words[thing.start : thing.end]))
        at = self.places.index(own)
        while head and at > 0 and self._joined(self.places[at - 1], self.places[at]):
            at -= 1
            beside = self.places[at]
            organ = beside.where.organ
            if organ and self.lexicon.resolve(*head, organ) and not self._belongs_elsewhere(beside, thing):
                self.things.append(Thing(thing.start, thing.end, *head, thing.status, beside))
        if own.sidable and not own.sides:
            own.sides = set(self._side_near(thing))
        return [own]

    # --- organs without a named abnormality

    def _organ_rows(self) -> Iterator[Row]:
        claimed = bool(self.used)
        for place in self.places:
            if id(place) in self.used or self._inside_thing(place):
                continue
            status = self._organ_status(place)
            if status is None or (claimed and status != "normal"):
                continue
            for organ, laterality in place.members():
                if organ:
                    side = laterality or self.lexicon.organs[organ].side
                    yield Row(organ, None, status, side, place.level)

    def _inside_thing(self, place: Place) -> bool:
        return any(
            t.kind not in SILENT and t.start <= place.start and place.end <= t.end and t.end > t.start + 1
            for t in self.things
        )

    def _organ_status(self, place: Place) -> Status | None:
        start, end = self.clauses.clause_of(place.start)
        for thing in self.things:
            if thing.kind == "pathology" and start <= thing.start < end:
                status = self.clauses.status(thing.start, thing.end)
                return "normal" if status == "negated" else status
        if self.clauses.has("unassessable", start, end):
            return "uncertain"
        if self.clauses.has("normal", start, end):
            return "normal"
        if self.text.endswith(":") or _INTRODUCTION.match(self.text):
            return None
        return self.clauses.status(place.start, place.end)


def read_sentence(text: str, lexicon: Lexicon) -> Reading:
    """Read one sentence without its context; never empty, never an exception on odd text."""
    sentence = _Sentence(text, lexicon)
    best: dict[tuple[object, ...], Row] = {}
    for row in sentence.rows():
        key = (row.organ, row.abnormality, row.open_to)
        if key not in best or _RANK[row.status] < _RANK[best[key].status]:
            best[key] = row
    rows = tuple(best.values())
    named = [row.organ for row in rows if row.organ]
    topic = named[-1] if named else next((p.where.organ for p in reversed(sentence.places) if p.where.organ), None)
    if rows:
        return Reading(rows, topic)
    back = _points_back(sentence)
    reason = _reason(sentence, text)
    status = _bare_status(sentence)
    return Reading((Row(None, None, status, reason=reason),), topic, back and not sentence.places)


def _bare_status(sentence: _Sentence) -> Status:
    end = len(sentence.words)
    if sentence.clauses.has("normal", 0, end):
        return "normal"
    for thing in sentence.things:
        status = sentence.clauses.status(thing.start, thing.end)
        return "normal" if status == "negated" else status
    return "affirmed"


def _points_back(sentence: _Sentence) -> bool:
    """Whether a sentence without an organ goes on about the one before: "It is stable.", "No pathology seen."."""
    words, lexicon = sentence.words, sentence.lexicon
    if not words or not lexicon.words["advising"].isdisjoint(words):
        return False
    if any(thing.kind in ("observation", "pathology") for thing in sentence.things):
        return True
    measured = any(words[i].isdecimal() and words[i + 1] in ("mm", "cm", "x", "hu") for i in range(len(words) - 1))
    telling = measured or bool(sentence.signs) or bool(lexicon.measures.find(words))
    return measured or (words[0] in lexicon.elliptical and telling)


def _reason(sentence: _Sentence, text: str) -> str:
    if not any(c.isalpha() for c in text):
        return "no words"
    if not sentence.lexicon.words["advising"].isdisjoint(sentence.words):
        return "advice, not a finding"
    if sentence.places:
        return "introduces an organ, states nothing"
    if sentence.things:
        return "no organ named"
    return "names no organ and no abnormality of the dictionaries"
