"""Which of the organs named in a sentence a finding is in."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.text.lexicon import SIDES, Lexicon
from ctglip.text.measures import Thing, gap, measured
from ctglip.text.negation import Clauses
from ctglip.text.places import Place, find_places

_LISTS = frozenset({"and", "or", ",", "/", "&", "nor"})
_COORDINATED = _LISTS | SIDES.keys()
_REACH = 16
"""Words at most between "the largest" and its place."""


class Sentence:
    """One sentence taken apart.

    Attributes:
        words: normal forms.
        things: findings named, measures included.
        places: organs named.
        sides: sides that belong to a thing itself, by its number.
        signs: cues.
        clauses: what the cues reach.
    """

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text = text
        self.lexicon = lexicon
        self.words, tied = lexicon.read(text)
        self.things = [Thing(m.start, m.end, *m.value) for m in lexicon.seen.find(self.words)]
        spans = [(thing.start, thing.end) for thing in self.things]
        self.signs = lexicon.signs.find(self.words)
        self.places, self.sides = find_places(self.words, tied, lexicon, spans)
        self.clauses = Clauses(self.words, self.signs, spans, lexicon, tied)
        self._mute_headings()
        self.things += measured(self.words, self.places, self.things, self.clauses, lexicon)

    def _mute_headings(self) -> None:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        named = {(place.start, place.end) for place in self.places}
        for thing in self.things:
            if (thing.start, thing.end) in named and self.words[thing.end : thing.end + 1] == [":"]:
                thing.kind = "mute"


class Attachment:
    """Finds the places of each thing of a sentence, and keeps which places are spoken for."""

    def __init__(self, sentence: Sentence) -> None:
        self.lexicon = sentence.lexicon
        self.words = sentence.words
        self.things = sentence.things
        self.places = sentence.places
        self.signs = sentence.signs
        self.clauses = sentence.clauses
        self.used: set[int] = set()
        self.compares = not self.lexicon.words["largest"].isdisjoint(self.words)

    def places_of(self, thing: Thing) -> list[Place]:
        """The places that a thing is in, lymph nodes as their stations; empty where no place fits."""
        places = self._candidates(thing)
        if not self.compares:
            return self._stations(thing, places)
        return [*self._stations(thing, places), *self._stations(thing, self._of_largest(thing, places))]

    def _of_largest(self, thing: Thing, places: Sequence[Place]) -> list[Place]:
        """Where the largest of several is: "nodules in both lungs, the largest in the left upper lobe"."""
        end = min((other.start for other in self.things if other.start >= thing.end), default=len(self.words))
        largest = next((i for i in range(thing.end, end) if self.words[i] in self.lexicon.words["largest"]), None)
        ahead = [p for p in self.places if largest is not None and largest < p.start < end]
        if not places or not ahead or any(p is ahead[0] for p in places) or thing.subject is not None:
            return []
        within = self.words[largest : ahead[0].start]
        near = len(within) <= _REACH and not {"in", "at", "of"}.isdisjoint(within)
        return ahead[:1] if near and self._fits(thing, ahead[0]) and not self._beside(ahead[0]) else []

    def _candidates(self, thing: Thing) -> list[Place]:
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

    def _coordinated(self, thing: Thing, own: Place) -> list[Place]:
        """The place inside a finding's name. For "pleural and pericardial effusion" the effusion is in both."""
        head = self.lexicon.head_of(tuple(self.words[thing.start : thing.end]))
        at = self.places.index(own)
        while head and at > 0 and self._joined(self.places[at - 1], self.places[at]):
            at -= 1
            beside = self.places[at]
            if not _COORDINATED.issuperset(self.words[beside.end : self.places[at + 1].start]):
                break  # "along the peribronchial area and interlobular septal thickening"
            organ = beside.where.organ
            if organ and self.lexicon.resolve(*head, organ) and not self._belongs_elsewhere(beside, thing):
                self.things.append(Thing(thing.start, thing.end, *head, thing.status, beside))
        if own.sidable and not own.sides:
            own.sides = set(self.side_near(thing))
        return [own]

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
            return (first.where.adjective and second.where.adjective) or ranged or self._siblings(first, second)
        lists = not _LISTS.isdisjoint(between) or (between[0] in ("in", "at") and len(between) < 5)
        listing, measuring = self.lexicon.words["listing"], self.lexicon.words["measuring"]
        other = [w for w in between if w not in listing and w not in measuring and not w[0].isdecimal()]
        plain = len(other) < 3 and all(w.isalpha() and w not in self.lexicon.words["boundary"] for w in other)
        return lists and plain and not self._marked(first.end, second.start)

    def _siblings(self, first: Place, second: Place) -> bool:
        """Two parts of one organ named in a row: "thoracic-abdominal aorta"."""
        if first.where.organ is None or second.where.organ is None or first.where.organ == second.where.organ:
            return False
        wholes = self.lexicon.organs.wholes_of(first.where.organ) & self.lexicon.organs.wholes_of(second.where.organ)
        group = self.lexicon.organs[first.where.organ].group
        return any(self.lexicon.organs[whole].group == group for whole in wholes)

    def _marked(self, start: int, end: int) -> bool:
        """Whether a finding or a cue stands in a stretch."""
        return any(t.start < end and t.end > start for t in self.things) or any(
            m.start < end and m.end > start and m.value[0] != "break" for m in self.signs
        )

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
        small = self.lexicon.words
        before = range(max(last, place.start - 4), place.start)
        beside = any(self.words[i] in small["beside"] and self.words[i + 1] not in small["portion"] for i in before)
        based = not small["based"].isdisjoint(self.words[place.end : place.end + 1])
        return place.where.near or beside or based

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
        return any(self.resolved(thing, place, organ) for organ in place.where.organs)

    def resolved(self, thing: Thing, place: Place, organ: str | None) -> tuple[str, str] | None:
        if organ is None:
            return None
        resolved = self.lexicon.resolve(thing.kind, thing.key, organ, place.where.structure)
        return resolved or (self.lexicon.general(thing.key, organ) if thing.general else None)

    def said_elsewhere(self, thing: Thing) -> bool:
        """Whether the words right behind it put it where its own organ is not: "ulceration in the aorta"."""
        home = self.lexicon.home_of(thing.kind, thing.key)
        ahead = next((p for p in self.places if p.start >= thing.end), None)
        if home is None or ahead is None or ahead.where.organ is None or self._beside(ahead):
            return False
        if any(thing.start <= p.start < thing.end for p in self.places):
            return False
        between = self.words[thing.end : ahead.start]
        linked = len(between) < 4 and bool(between) and between[0] in ("in", "of", "within") and "," not in between
        return linked and not self._region(ahead) and not self.lexicon.same_side(home, ahead.where.organ)

    def side_near(self, thing: Thing) -> set[str]:
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
