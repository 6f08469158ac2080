"""Which of the organs named in a sentence a finding is in."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.location import Location
from ctglip.reports.measures import Mention, gap
from ctglip.reports.sentence import Sentence
from ctglip.reports.where import SIDES, STATION, Where
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
        self.mentions = sentence.mentions
        self.locations = sentence.locations
        self.signs = sentence.signs
        self.clauses = sentence.clauses
        self.used: set[int] = set()
        self.compares = not self.lexicon.words["largest"].isdisjoint(self.words)

    def instances_of(self, mention: Mention) -> list[Location]:
        """The places that a thing is in, lymph nodes as their stations; empty where no place fits."""
        locations = self._candidates(mention)
        if not self.compares:
            return self._stations(mention, locations)
        return [*self._stations(mention, locations), *self._stations(mention, self._of_largest(mention, locations))]

    def _of_largest(self, mention: Mention, locations: Sequence[Location]) -> list[Location]:
        """Where the largest of several is: "nodules in both lungs, the largest in the left upper lobe"."""
        end = min((other.start for other in self.mentions if other.start >= mention.end), default=len(self.words))
        largest = next((i for i in range(mention.end, end) if self.words[i] in self.lexicon.words["largest"]), None)
        ahead = [p for p in self.locations if largest is not None and largest < p.start < end]
        if not locations or not ahead or any(p is ahead[0] for p in locations) or mention.subject is not None:
            return []
        within = self.words[largest : ahead[0].start]
        near = len(within) <= _REACH and not {"in", "at", "of"}.isdisjoint(within)
        return ahead[:1] if near and self._fits(mention, ahead[0]) and not self.beside(ahead[0]) else []

    def _candidates(self, mention: Mention) -> list[Location]:
        if mention.subject is not None:
            return self._group(mention, mention.subject)
        inside = [p for p in self.locations if p.start < mention.end and p.end > mention.start]
        if inside and self._fits(mention, inside[-1]) and not (inside[-1].where.weak and self._elsewhere(mention)):
            exact = self._exact(mention, inside[-1])
            return self._group(mention, exact) if exact else self._coordinated(mention, inside[-1])
        start, end = self.clauses.clause_of(mention.start)
        here = [p for p in self.locations if start <= p.start < end]
        if not self.locations:
            return []
        own = [p for p in self.locations if not self.belongs_elsewhere(p, mention)]
        inside = [p for p in own if start <= p.start < end]
        named = [p for p in here if not p.where.adjective]
        best = self._nearest(mention, inside) or self._nearest(mention, [p for p in own if not self._praised(p, start)])
        best = best or self._nearest(mention, [*self._shared(mention), *named])
        if best is None and mention.kind == "abnormality":
            mention.general = True
            best = self._nearest(mention, inside) or self._nearest(mention, named)
        if best is not None and best.where.adjective:
            parts = self.lexicon.organs.parts_of(best.where.organ) if best.where.organ else frozenset[str]()
            exact = [p for p in here if p.where.organs and p.where.organs <= parts and not self.beside(p)]
            best = self._nearest(mention, [p for p in exact if self._agree(p, best)]) or best
        return self._group(mention, best) if best is not None else []

    def _praised(self, location: Location, start: int) -> bool:
        """Whether it is the subject of a later clause that calls it normal: "..., the airway is patent"."""
        clause = self.clauses.clause_of(location.start)
        return clause[0] > start and location.start - clause[0] < 3 and self.clauses.has("normal", *clause)

    def _agree(self, part: Location, whole: Location) -> bool:
        """Whether a part is not on another side than the whole."""
        own = part.sides or ({self._own_side(part) or ""} - {""})
        return not whole.sides or not own or own == whole.sides

    def _exact(self, mention: Mention, own: Location) -> Location | None:
        """The part beside a finding whose name names the whole: "pulmonary nodule in the left lower lobe"."""
        parts = self.lexicon.organs.parts_of(own.where.organ) if own.where.organ else frozenset[str]()
        for p in self.locations:
            before = self.words[p.end : mention.start]
            beside = p.end <= mention.start and len(before) < 3 and self.lexicon.words["boundary"].isdisjoint(before)
            if beside and p.where.organs and p.where.organs <= parts:
                return p  # "left lower lobe pulmonary nodule"
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        if (
            ahead is None
            or self.barred(mention, ahead)
            or not ahead.where.organs
            or not ahead.where.organs - {own.where.organ} <= parts
        ):
            return None
        between = self.words[mention.end : ahead.start]
        near = len(between) < 9 and not _PREPOSITIONS.isdisjoint(between) and _LISTS.isdisjoint(between)
        near = near or between == [":"]
        return ahead if near and self._fits(mention, ahead) and not self.beside(ahead) else None

    def _coordinated(self, mention: Mention, own: Location) -> list[Location]:
        """The place inside a finding's name. For "pleural and pericardial effusion" the effusion is in both."""
        head = self.lexicon.head_of(tuple(self.words[mention.start : mention.end]))
        at = self.locations.index(own)
        while head and at > 0 and self._joined(self.locations[at - 1], self.locations[at]):
            at -= 1
            beside = self.locations[at]
            if not _COORDINATED.issuperset(self.words[beside.end : self.locations[at + 1].start]):
                break  # "along the peribronchial area and interlobular septal thickening"
            organ = beside.where.organ
            if organ and self.lexicon.resolve(*head, organ) and not self.belongs_elsewhere(beside, mention):
                self.mentions.append(Mention(mention.start, mention.end, *head, mention.status, beside))
        if own.sidable and not own.sides:
            own.sides = set(mention.sides or self.side_near(mention))
        return [own]

    def _shared(self, mention: Mention) -> list[Location]:
        """The organ in the name of the thing listed just before: "pleural thickening-effusion"."""
        names = (
            (o.start, o.end) for o in self.mentions if o.end <= mention.start and self._lists(o.end, mention.start)
        )
        return [p for start, end in names for p in self.locations if start <= p.start and p.end <= end]

    def _lists(self, start: int, end: int) -> bool:
        """Whether a stretch only lists: "and", "/", or an adjective or two after a hyphen."""
        between = self.words[start:end]
        plain = len(between) < 3 and all(w.isalpha() and w not in self.lexicon.words["boundary"] for w in between)
        return plain or all(word in self.lexicon.words["listing"] for word in between)

    def _elsewhere(self, mention: Mention) -> bool:
        """Whether the clause names a better place than the one in the thing's name ("soft tissue mass of the neck")."""
        start, end = self.clauses.clause_of(mention.start)
        outside = (p for p in self.locations if start <= p.start < end and not mention.start <= p.start < mention.end)
        return any(self._fits(mention, p) and not self.belongs_elsewhere(p, mention) for p in outside)

    def _stations(self, mention: Mention, locations: list[Location]) -> list[Location]:
        """Lymph nodes by their station: "lymphadenopathy in the mediastinum", "enlarged nodes in both axillae"."""
        nodal = [p.where.organ == "lymph_nodes" for p in locations]
        if nodal == [True]:
            return self._sited(locations[0]) or locations
        if self._nodal(mention):
            self.used.update(id(p) for p in locations)
            stations: dict[Where, set[str]] = {}
            for p in locations:
                stations.setdefault(self.lexicon.station(p.where) or p.where, set()).update(self._sides_of(p))
            return [Location(mention.start, mention.end, where, sides) for where, sides in stations.items()]
        return locations

    def _sited(self, nodes: Location) -> list[Location]:
        """The stations that the clause names for "lymph nodes", nearest first with those listed beside it."""
        start, end = self.clauses.clause_of(nodes.start)
        sited = [p for p in self.locations if start <= p.start < end and self.lexicon.station(p.where)]
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
        return [Location(nodes.start, nodes.end, where, sides) for where, sides in stations.items()]

    def _group(self, mention: Mention, location: Location) -> list[Location]:
        """The place and those it is listed with ("liver, spleen and both kidneys")."""
        listed = self._listed_with(location)
        if any(p.where.organ in self.lexicon.node_organs for p in listed):  # "hilar and subcarinal lymph nodes"
            sited = [(p, self.lexicon.station(p.where)) for p in listed]
            return [
                p if where is None else Location(p.start, p.end, where, self._sides_of(p))
                for p, where in sited
                if p is location or where
            ]
        return [p for p in listed if p is location or (self._fits(mention, p) and not self.beside(p))]

    def _listed_with(self, location: Location) -> list[Location]:
        low = high = self.locations.index(location)
        while low > 0 and self._joined(self.locations[low - 1], self.locations[low]):
            low -= 1
        while high + 1 < len(self.locations) and self._joined(self.locations[high], self.locations[high + 1]):
            high += 1
        return self.locations[low : high + 1]

    def _joined(self, first: Location, second: Location) -> bool:
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

    def _siblings(self, first: Location, second: Location) -> bool:
        """Two parts of one organ named in a row: "thoracic-abdominal aorta"."""
        if first.where.organ is None or second.where.organ is None or first.where.organ == second.where.organ:
            return False
        containers = self.lexicon.organs.containing(first.where.organ) & self.lexicon.organs.containing(
            second.where.organ
        )
        group = self.lexicon.organs[first.where.organ].group
        return any(self.lexicon.organs[whole].group == group for whole in containers)

    def _marked(self, start: int, end: int) -> bool:
        """Whether a finding or a cue stands in a stretch."""
        return any(t.start < end and t.end > start for t in self.mentions) or any(
            m.start < end and m.end > start and m.value[0] != "break" for m in self.signs
        )

    def _nearest(self, mention: Mention, locations: Sequence[Location]) -> Location | None:
        if not locations:
            return None
        fitting = [p for p in locations if self._fits(mention, p) and not self.barred(mention, p)]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        return min(fitting, key=lambda p: self._distance(mention, p), default=None)

    def _distance(self, mention: Mention, location: Location) -> float:
        distance = float(gap(mention.start, mention.end, location.start, location.end))
        if self._region(location) and location.end != mention.start:
            distance += 15
        if self._heads(location):
            distance += 12
        if self._owned(mention, location):
            distance += 6
        if self.beside(location):
            distance += 20
        return distance + 15 if location.where.weak and location.end != mention.start else distance

    def _heads(self, location: Location) -> bool:
        """Whether it is only the heading: "Liver: cyst in the right kidney"."""
        return self.words[location.end : location.end + 1] == [":"]

    def barred(self, mention: Mention, location: Location) -> bool:
        """Whether a finding is not there: behind "other than", or in "no extension of the thrombus into the ..."."""
        if location.start > mention.start and self.clauses.excepted(mention.start, location.start):
            return True
        if not self.clauses.is_host(mention.start):
            return False
        before = self.words[max(0, location.start - 2) : location.start]
        return not {"into", "to", "through", "beyond"}.isdisjoint(before)

    def _owned(self, mention: Mention, location: Location) -> bool:
        """Whether a preposition ties the place to another finding: "a stone in the right kidney and a cyst"."""
        if len(self.mentions) == 1:
            return False
        if location.end <= mention.start and not self.lexicon.words["joining"].isdisjoint(
            self.words[location.end : mention.start]
        ):
            return False  # what comes "with" it is where it is
        for other in self.mentions:
            if other is not mention and location.end == other.start and other.end <= mention.start:
                return not self._lists(other.end, mention.start)  # "skin thickening and a 2 cm mass"
            if other is mention or other.end > location.start or mention.start <= other.start < mention.end:
                continue
            between = self.words[other.end : location.start]
            tied = len(between) < 9 and not _PREPOSITIONS.isdisjoint(between) and _LISTS.isdisjoint(between)
            apart = location.end <= mention.start or (
                mention.end <= other.start and not self._lists(mention.end, other.start)
            )
            if tied and apart:
                return True
        return False

    def beside(self, location: Location) -> bool:
        """Whether it is named for what lies next to it ("adjacent to the heart")."""
        last = max((p.end for p in self.locations if p.end <= location.start), default=0)
        small = self.lexicon.words
        before = range(max(last, location.start - 4), location.start)
        beside = any(self.words[i] in small["beside"] and self.words[i + 1] not in small["portion"] for i in before)
        beside = beside or any(self.words[i] in _FRONT_OR_BACK and self.words[i + 1] == "to" for i in before)
        based = not small["based"].isdisjoint(self.words[location.end : location.end + 1])
        return location.where.near or beside or based

    def _region(self, location: Location) -> bool:
        return location.where.organ is not None and self.lexicon.organs[location.where.organ].group == "regions"

    def belongs_elsewhere(self, location: Location, mention: Mention) -> bool:
        return any(
            other is not mention
            and other.start <= location.start
            and location.end <= other.end
            and other.end - other.start > location.end - location.start
            for other in self.mentions
        )

    def _nodal(self, mention: Mention) -> bool:
        return mention.kind == "abnormality" and mention.key in self.lexicon.nodal

    def _fits(self, mention: Mention, location: Location) -> bool:
        if self._nodal(mention):
            return self.lexicon.station(location.where) is not None or location.where.organ == "lymph_nodes"
        if (location.where.structure or "").endswith(STATION):
            return False
        return any(self.resolved(mention, location, organ) for organ in location.where.organs)

    def resolved(self, mention: Mention, location: Location, organ: str | None) -> tuple[str, str] | None:
        if organ is None:
            return None
        resolved = self.lexicon.resolve(mention.kind, mention.key, organ, location.where.structure)
        return resolved or (self.lexicon.general(mention.key, organ) if mention.general else None)

    def said_elsewhere(self, mention: Mention) -> bool:
        """Whether the words right behind it put it where its own organ is not: "ulceration in the aorta"."""
        home = self.lexicon.home_of(mention.kind, mention.key)
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        if home is None or ahead is None or ahead.where.organ is None or self.beside(ahead):
            return False
        if any(mention.start <= p.start < mention.end for p in self.locations):
            return False
        between = self.words[mention.end : ahead.start]
        linked = len(between) < 4 and bool(between) and between[0] in ("in", "of", "within") and "," not in between
        return linked and not self._region(ahead) and not self.lexicon.same_side(home, ahead.where.organ)

    def sides_disagree(self, mention: Mention) -> bool:
        """Whether a finding of one side is put into a place of the other: "left effusion in the right hemithorax"."""
        if len(mention.sides) != 1 or not mention.sides <= {"left", "right"}:
            return False
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        between = self.words[mention.end : ahead.start] if ahead else []
        if ahead is None or not between or between[0] not in ("in", "of", "within") or len(between) > 2:
            return False
        own = ahead.sides or {self._own_side(ahead) or ""} - {""}
        return len(own) == 1 and own <= {"left", "right"} and own != mention.sides

    def side_near(self, mention: Mention) -> set[str]:
        """The side of the nearest place in the clause that shares its sides with the thing's own organ."""
        start, end = self.clauses.clause_of(mention.start)
        home = self.lexicon.home_of(mention.kind, mention.key)
        if home is None or mention.subject is not None:
            return set()
        sided = [p for p in self.locations if start <= p.start < end and (p.sides or self._own_side(p))]
        sided = [p for p in sided if self.lexicon.same_side(home, p.where.organ or home)]
        best = min(sided, key=lambda p: gap(p.start, p.end, mention.start, mention.end), default=None)
        if best is None:
            return self._side_beside(mention, home)
        return best.sides or {self._own_side(best) or ""}

    def _side_beside(self, mention: Mention, home: str) -> set[str]:
        """The side of what the clause names beside it, where all of that is on one."""
        clause = self.clauses.clause_of(mention.start)
        others = [
            o for o in self.mentions if o is not mention and o.sides and self.clauses.clause_of(o.start) == clause
        ]
        homes = {self.lexicon.home_of(o.kind, o.key) or "body" for o in others}
        near = all(other == "body" or self.lexicon.same_side(home, other) for other in homes)
        sides = {frozenset(o.sides) for o in others}
        return set(next(iter(sides))) if near and len(sides) == 1 else set()

    def side_of_lungs(self, mention: Mention, organ: str) -> Laterality | None:
        """The side of an embolus by the lobes whose arteries it is in: "in the right lower lobe pulmonary arteries"."""
        if organ != "pulmonary_artery":
            return None
        clause = self.clauses.clause_of(mention.start)
        lobes = (
            p
            for p in self.locations
            if p.where.organs & self.lexicon.lungs and self.clauses.clause_of(p.start) == clause
        )
        sides = {side for p in lobes if not self.barred(mention, p) for side in self._sides_of(p)}
        if "both" in sides or len(sides) == 2:
            return "bilateral"
        return "left" if sides == {"left"} else "right" if sides == {"right"} else None

    def _sides_of(self, location: Location) -> set[str]:
        """The sides that the words give a place, else the side of its organ."""
        return set(location.sides) or {self._own_side(location) or ""} - {""}

    def _own_side(self, location: Location) -> str | None:
        return self.lexicon.organs[location.where.organ].side if location.where.organ else None
