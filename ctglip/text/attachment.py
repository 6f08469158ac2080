"""Which of the organs named in a sentence a finding is in."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.text.measures import Thing, gap
from ctglip.text.place import Place
from ctglip.text.sentence import Sentence
from ctglip.text.where import SIDES, STATION, Where
from ctglip.types import Laterality

_LISTS = frozenset({"and", "or", ",", "/", "&", "nor"})
_FRONT_OR_BACK = frozenset({"anterior", "posterior"})
_PREPOSITIONS = frozenset({"in", "of", "at", "on", "within"})
_COORDINATED = _LISTS | SIDES.keys()
_REACH = 16
"""Words at most between "the largest" and its place."""


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
        return ahead[:1] if near and self._fits(thing, ahead[0]) and not self.beside(ahead[0]) else []

    def _candidates(self, thing: Thing) -> list[Place]:
        if thing.subject is not None:
            return self._group(thing, thing.subject)
        inside = [p for p in self.places if p.start < thing.end and p.end > thing.start]
        if inside and self._fits(thing, inside[-1]) and not (inside[-1].where.weak and self._elsewhere(thing)):
            exact = self._exact(thing, inside[-1])
            return self._group(thing, exact) if exact else self._coordinated(thing, inside[-1])
        start, end = self.clauses.clause_of(thing.start)
        here = [p for p in self.places if start <= p.start < end]
        if not self.places:
            return []
        own = [p for p in self.places if not self.belongs_elsewhere(p, thing)]
        inside = [p for p in own if start <= p.start < end]
        named = [p for p in here if not p.where.adjective]
        best = self._nearest(thing, inside) or self._nearest(thing, [p for p in own if not self._praised(p, start)])
        best = best or self._nearest(thing, [*self._shared(thing), *named])
        if best is None and thing.kind == "abnormality":
            thing.general = True
            best = self._nearest(thing, inside) or self._nearest(thing, named)
        if best is not None and best.where.adjective:
            parts = self.lexicon.organs.parts_of(best.where.organ) if best.where.organ else frozenset[str]()
            exact = [p for p in here if p.where.organs and p.where.organs <= parts and not self.beside(p)]
            best = self._nearest(thing, [p for p in exact if self._agree(p, best)]) or best
        return self._group(thing, best) if best is not None else []

    def _praised(self, place: Place, start: int) -> bool:
        """Whether it is the subject of a later clause that calls it normal: "..., the airway is patent"."""
        clause = self.clauses.clause_of(place.start)
        return clause[0] > start and place.start - clause[0] < 3 and self.clauses.has("normal", *clause)

    def _agree(self, part: Place, whole: Place) -> bool:
        """Whether a part is not on another side than the whole."""
        own = part.sides or ({self._own_side(part) or ""} - {""})
        return not whole.sides or not own or own == whole.sides

    def _exact(self, thing: Thing, own: Place) -> Place | None:
        """The part beside a finding whose name names the whole: "pulmonary nodule in the left lower lobe"."""
        parts = self.lexicon.organs.parts_of(own.where.organ) if own.where.organ else frozenset[str]()
        for p in self.places:
            before = self.words[p.end : thing.start]
            beside = p.end <= thing.start and len(before) < 3 and self.lexicon.words["boundary"].isdisjoint(before)
            if beside and p.where.organs and p.where.organs <= parts:
                return p  # "left lower lobe pulmonary nodule"
        ahead = next((p for p in self.places if p.start >= thing.end), None)
        if (
            ahead is None
            or self.barred(thing, ahead)
            or not ahead.where.organs
            or not ahead.where.organs - {own.where.organ} <= parts
        ):
            return None
        between = self.words[thing.end : ahead.start]
        near = len(between) < 9 and not _PREPOSITIONS.isdisjoint(between) and _LISTS.isdisjoint(between)
        near = near or between == [":"]
        return ahead if near and self._fits(thing, ahead) and not self.beside(ahead) else None

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
            if organ and self.lexicon.resolve(*head, organ) and not self.belongs_elsewhere(beside, thing):
                self.things.append(Thing(thing.start, thing.end, *head, thing.status, beside))
        if own.sidable and not own.sides:
            own.sides = set(thing.sides or self.side_near(thing))
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
        return any(self._fits(thing, p) and not self.belongs_elsewhere(p, thing) for p in outside)

    def _stations(self, thing: Thing, places: list[Place]) -> list[Place]:
        """Lymph nodes by their station: "lymphadenopathy in the mediastinum", "enlarged nodes in both axillae"."""
        nodal = [p.where.organ == "lymph_nodes" for p in places]
        if nodal == [True]:
            return self._sited(places[0]) or places
        if self._nodal(thing):
            self.used.update(id(p) for p in places)
            stations: dict[Where, set[str]] = {}
            for p in places:
                stations.setdefault(self.lexicon.station(p.where) or p.where, set()).update(self._sides_of(p))
            return [Place(thing.start, thing.end, where, sides) for where, sides in stations.items()]
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
        stations: dict[Where, set[str]] = {}
        for p in listed:
            where = self.lexicon.station(p.where)
            if where is not None:
                stations.setdefault(where, set()).update(self._sides_of(p) or nodes.sides)
        return [Place(nodes.start, nodes.end, where, sides) for where, sides in stations.items()]

    def _group(self, thing: Thing, place: Place) -> list[Place]:
        """The place and those it is listed with ("liver, spleen and both kidneys")."""
        listed = self._listed_with(place)
        if any(p.where.organ in self.lexicon.node_organs for p in listed):  # "hilar and subcarinal lymph nodes"
            sited = [(p, self.lexicon.station(p.where)) for p in listed]
            return [
                p if where is None else Place(p.start, p.end, where, self._sides_of(p))
                for p, where in sited
                if p is place or where
            ]
        return [p for p in listed if p is place or (self._fits(thing, p) and not self.beside(p))]

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
        other = [
            w for w in between if w not in listing and w not in measuring and not w[0].isdecimal() and w not in "()"
        ]
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
        if not places:
            return None
        fitting = [p for p in places if self._fits(thing, p) and not self.barred(thing, p)]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        return min(fitting, key=lambda p: self._distance(thing, p), default=None)

    def _distance(self, thing: Thing, place: Place) -> float:
        distance = float(gap(thing.start, thing.end, place.start, place.end))
        if self._region(place) and place.end != thing.start:
            distance += 15
        if self._heads(place):
            distance += 12
        if self._owned(thing, place):
            distance += 6
        if self.beside(place):
            distance += 20
        return distance + 15 if place.where.weak and place.end != thing.start else distance

    def _heads(self, place: Place) -> bool:
        """Whether it is only the heading: "Liver: cyst in the right kidney"."""
        return self.words[place.end : place.end + 1] == [":"]

    def barred(self, thing: Thing, place: Place) -> bool:
        """Whether a finding is not there: behind "other than", or in "no extension of the thrombus into the ..."."""
        if place.start > thing.start and self.clauses.excepted(thing.start, place.start):
            return True
        if not self.clauses.is_host(thing.start):
            return False
        before = self.words[max(0, place.start - 2) : place.start]
        return not {"into", "to", "through", "beyond"}.isdisjoint(before)

    def _owned(self, thing: Thing, place: Place) -> bool:
        """Whether a preposition ties the place to another finding: "a stone in the right kidney and a cyst"."""
        if len(self.things) == 1:
            return False
        if place.end <= thing.start and not self.lexicon.words["joining"].isdisjoint(
            self.words[place.end : thing.start]
        ):
            return False  # what comes "with" it is where it is
        for other in self.things:
            if other is not thing and place.end == other.start and other.end <= thing.start:
                return not self._lists(other.end, thing.start)  # "skin thickening and a 2 cm mass"
            if other is thing or other.end > place.start or thing.start <= other.start < thing.end:
                continue
            between = self.words[other.end : place.start]
            tied = len(between) < 9 and not _PREPOSITIONS.isdisjoint(between) and _LISTS.isdisjoint(between)
            apart = place.end <= thing.start or (thing.end <= other.start and not self._lists(thing.end, other.start))
            if tied and apart:
                return True
        return False

    def beside(self, place: Place) -> bool:
        """Whether it is named for what lies next to it ("adjacent to the heart")."""
        last = max((p.end for p in self.places if p.end <= place.start), default=0)
        small = self.lexicon.words
        before = range(max(last, place.start - 4), place.start)
        beside = any(self.words[i] in small["beside"] and self.words[i + 1] not in small["portion"] for i in before)
        beside = beside or any(self.words[i] in _FRONT_OR_BACK and self.words[i + 1] == "to" for i in before)
        based = not small["based"].isdisjoint(self.words[place.end : place.end + 1])
        return place.where.near or beside or based

    def _region(self, place: Place) -> bool:
        return place.where.organ is not None and self.lexicon.organs[place.where.organ].group == "regions"

    def belongs_elsewhere(self, place: Place, thing: Thing) -> bool:
        return any(
            other is not thing
            and other.start <= place.start
            and place.end <= other.end
            and other.end - other.start > place.end - place.start
            for other in self.things
        )

    def _nodal(self, thing: Thing) -> bool:
        return thing.kind == "abnormality" and thing.key in self.lexicon.nodal

    def _fits(self, thing: Thing, place: Place) -> bool:
        if self._nodal(thing):
            return self.lexicon.station(place.where) is not None or place.where.organ == "lymph_nodes"
        if (place.where.structure or "").endswith(STATION):
            return False
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
        if home is None or ahead is None or ahead.where.organ is None or self.beside(ahead):
            return False
        if any(thing.start <= p.start < thing.end for p in self.places):
            return False
        between = self.words[thing.end : ahead.start]
        linked = len(between) < 4 and bool(between) and between[0] in ("in", "of", "within") and "," not in between
        return linked and not self._region(ahead) and not self.lexicon.same_side(home, ahead.where.organ)

    def sides_disagree(self, thing: Thing) -> bool:
        """Whether a finding of one side is put into a place of the other: "left effusion in the right hemithorax"."""
        if len(thing.sides) != 1 or not thing.sides <= {"left", "right"}:
            return False
        ahead = next((p for p in self.places if p.start >= thing.end), None)
        between = self.words[thing.end : ahead.start] if ahead else []
        if ahead is None or not between or between[0] not in ("in", "of", "within") or len(between) > 2:
            return False
        own = ahead.sides or {self._own_side(ahead) or ""} - {""}
        return len(own) == 1 and own <= {"left", "right"} and own != thing.sides

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
            return self._side_beside(thing, home)
        return best.sides or {self._own_side(best) or ""}

    def _side_beside(self, thing: Thing, home: str) -> set[str]:
        """The side of what the clause names beside it, where all of that is on one."""
        clause = self.clauses.clause_of(thing.start)
        others = [o for o in self.things if o is not thing and o.sides and self.clauses.clause_of(o.start) == clause]
        homes = {self.lexicon.home_of(o.kind, o.key) or "body" for o in others}
        near = all(other == "body" or self.lexicon.same_side(home, other) for other in homes)
        sides = {frozenset(o.sides) for o in others}
        return set(next(iter(sides))) if near and len(sides) == 1 else set()

    def side_of_lungs(self, thing: Thing, organ: str) -> Laterality | None:
        """The side of an embolus by the lobes whose arteries it is in: "in the right lower lobe pulmonary arteries"."""
        if organ != "pulmonary_artery":
            return None
        clause = self.clauses.clause_of(thing.start)
        lobes = (
            p for p in self.places if p.where.organs & self.lexicon.lungs and self.clauses.clause_of(p.start) == clause
        )
        sides = {side for p in lobes if not self.barred(thing, p) for side in self._sides_of(p)}
        if "both" in sides or len(sides) == 2:
            return "bilateral"
        return "left" if sides == {"left"} else "right" if sides == {"right"} else None

    def _sides_of(self, place: Place) -> set[str]:
        """The sides that the words give a place, else the side of its organ."""
        return set(place.sides) or {self._own_side(place) or ""} - {""}

    def _own_side(self, place: Place) -> str | None:
        return self.lexicon.organs[place.where.organ].side if place.where.organ else None
