"""Which of the organs named in a sentence a mention is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ctglip.reports.mentions import NO_SIDE, SIDES, Location, Mention, OrganTerm
from ctglip.reports.sentence import Sentence

_LISTS = frozenset({"and", "or", ",", "/", "&", "nor"})
_FRONT_OR_BACK = frozenset({"anterior", "posterior"})
_PREPOSITIONS = frozenset({"in", "of", "at", "on", "within"})
_COORDINATED = _LISTS | SIDES.keys()
_REACH = 16
"""Words at most between "the largest" and its location."""


class Attached(NamedTuple):
    """Where a mention is.

    Attributes:
        mention: itself, general where only its general word fits a location.
        locations: lymph nodes as their stations; empty where none fits.
        coordinated: mentions that share its noun: "pleural" in "pleural and pericardial effusion".
        claimed: locations of the sentence that are spoken for by it.
        sided: the location inside its words, with the side that it takes from the mention.
    """

    mention: Mention
    locations: Sequence[Location]
    coordinated: Sequence[Mention] = ()
    claimed: Sequence[Location] = ()
    sided: Location | None = None


class Attachment:
    """Finds the locations of each mention of a sentence.

    Args:
        sentence: where the mentions stand.
        locations: its locations, some with sides that mentions gave them.
    """

    def __init__(self, sentence: Sentence, locations: Sequence[Location]) -> None:
        self.lexicon = sentence.lexicon
        self.words = sentence.words
        self.mentions = sentence.mentions
        self.locations = locations
        self.cues = sentence.cues
        self.scopes = sentence.scopes
        self.compares = not self.lexicon.lists["largest"].isdisjoint(self.scopes.vocabulary)

    def attach(self, mention: Mention) -> Attached:
        """The locations that a mention is in."""
        found = self._candidates(mention)
        mention = found.mention
        locations, claimed = self._stations(mention, found.locations)
        if self.compares:
            largest, more = self._stations(mention, self._of_largest(mention, found.locations))
            locations, claimed = [*locations, *largest], [*claimed, *more]
        elif locations is found.locations and not claimed:
            return found
        return Attached(mention, locations, found.coordinated, claimed, found.sided)

    def _of_largest(self, mention: Mention, locations: Sequence[Location]) -> list[Location]:
        """Where the largest of several is: "nodules in both lungs, the largest in the left upper lobe"."""
        end = min((other.start for other in self.mentions if other.start >= mention.end), default=len(self.words))
        largest = next((i for i in range(mention.end, end) if self.words[i] in self.lexicon.lists["largest"]), None)
        ahead = [p for p in self.locations if largest is not None and largest < p.start < end]
        if not locations or not ahead or ahead[0] in locations or mention.location is not None:
            return []
        within = self.words[largest : ahead[0].start]
        near = len(within) <= _REACH and not {"in", "at", "of"}.isdisjoint(within)
        return ahead[:1] if near and self._fits(mention, ahead[0]) and not self.adjacent(ahead[0]) else []

    def _candidates(self, mention: Mention) -> Attached:
        if mention.location is not None:
            return Attached(mention, self._group(mention, mention.location))
        if not self.locations:
            return Attached(mention, [])
        first, last = mention.span
        inside = [p for p in self.locations if p.start < last and p.end > first]
        if inside and self._fits(mention, inside[-1]) and not inside[-1].term.weak:
            part = self._part_named(mention, inside[-1])
            return Attached(mention, self._group(mention, part)) if part else self._coordinated(mention, inside[-1])
        start, end = self.scopes.clause_of(mention.start)
        in_clause = [p for p in self.locations if start <= p.start < end]
        free = [p for p in self.locations if not self.in_other_mention(p, mention)]
        inside = [p for p in free if start <= p.start < end]
        named = [p for p in in_clause if not p.term.adjective]
        best = self._nearest(mention, inside) or self._nearest(
            mention, [p for p in free if not self._of_later(mention, p, start)]
        )
        best = best or self._nearest(mention, self._shared(mention)) or self._nearest(mention, named)
        if best is None and mention.concept.kind == "abnormality":
            mention = mention._replace(concept=mention.concept._replace(general=True))
            inside, named = ([p for p in found if not self._region(p)] for found in (inside, named))
            best = self._nearest(mention, inside) or self._nearest(mention, named)
        if best is not None and best.term.adjective:
            parts = self._parts_of(best)
            exact = [p for p in in_clause if p.term.organs and p.term.organs <= parts and not self.adjacent(p)]
            best = self._nearest(mention, [p for p in exact if self._agree(p, best)]) or best
        return Attached(mention, self._group(mention, best) if best is not None else [])

    def _parts_of(self, location: Location) -> frozenset[str]:
        organ = location.term.organ
        return self.lexicon.organs.parts_of(organ) if organ else frozenset()

    def _of_later(self, mention: Mention, location: Location, start: int) -> bool:
        """Whether a later clause is about it: calls it normal ("..., the airway is patent"), or follows a denial."""
        clause = self.scopes.clause_of(location.start)
        if clause[0] <= start:
            return False
        subject = location.start - clause[0] < 3 and self.scopes.has("normal", *clause)
        return subject or (self.scopes.assertion(*mention.span) == "negated" != self.scopes.assertion(*location.span))

    def _agree(self, part: Location, container: Location) -> bool:
        """Whether a part is not on another side than what it is a part of."""
        sides = self.lexicon.sides_of(part)
        return not container.sides or not sides or sides == container.sides

    def _part_named(self, mention: Mention, location: Location) -> Location | None:
        """The part next to a mention whose words name the larger organ: "pulmonary nodule in the left lower lobe"."""
        parts = self._parts_of(location)
        for p in self.locations:
            before = self.words[p.end : mention.start]
            near = p.end <= mention.start and len(before) < 3 and self.lexicon.lists["boundary"].isdisjoint(before)
            if near and p.term.organs and p.term.organs <= parts:
                return p  # "left lower lobe pulmonary nodule"
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        if ahead is None or self.barred(mention, ahead) or not ahead.term.organs:
            return None
        if not ahead.term.organs - {location.term.organ} <= parts:
            return None
        between = self.words[mention.end : ahead.start]
        near = between == [":"] or (len(between) < 9 and self._tied(between))
        return ahead if near and self._fits(mention, ahead) and not self.adjacent(ahead) else None

    @staticmethod
    def _tied(between: Sequence[str]) -> bool:
        """Whether a preposition, and no list, stands in a stretch."""
        return not _PREPOSITIONS.isdisjoint(between) and _LISTS.isdisjoint(between)

    def _coordinated(self, mention: Mention, location: Location) -> Attached:
        """The location inside a mention's words. For "pleural and pericardial effusion" the effusion is in both."""
        head = self.lexicon.head_of(tuple(self.words[mention.start : mention.end]))
        found: list[Mention] = []
        at = self._index(location)
        while head and at > 0 and self._joined(self.locations[at - 1], self.locations[at]):
            at -= 1
            other = self.locations[at]
            if not _COORDINATED.issuperset(self.words[other.end : self.locations[at + 1].start]):
                break  # "along the peribronchial area and interlobular septal thickening"
            organ = other.term.organ
            if (
                organ
                and self.lexicon.resolve(head.kind, head.name, organ)
                and not self.in_other_mention(other, mention)
            ):
                found.append(Mention(mention.span, head, mention.assertion, other))
        if not location.sidable or location.sides:
            return Attached(mention, [location], found)
        location = location._replace(sides=mention.laterality or self.side_near(mention))
        return Attached(mention, [location], found, sided=location)

    def _shared(self, mention: Mention) -> list[Location]:
        """The organ in the name of the mention listed just before: "pleural thickening-effusion"."""
        listed = [o.span for o in self.mentions if o.end <= mention.start and self._lists(o.end, mention.start)]
        return [p for span in listed for p in self.locations if span.holds(p.span)]

    def _lists(self, start: int, end: int) -> bool:
        """Whether a stretch only lists: "and", "/", or an adjective or two after a hyphen."""
        between = self.words[start:end]
        plain = len(between) < 3 and all(w.isalpha() and w not in self.lexicon.lists["boundary"] for w in between)
        return plain or all(word in self.lexicon.lists["listing"] for word in between)

    # --- lymph nodes

    def _stations(
        self, mention: Mention, locations: Sequence[Location]
    ) -> tuple[Sequence[Location], Sequence[Location]]:
        """Lymph nodes by their station ("enlarged nodes in both axillae"), and the locations that name it."""
        if len(locations) == 1 and locations[0].term.organ == "lymph_nodes":
            stations, claimed = self._stations_near(locations[0])
            return stations or locations, claimed
        if not self.lexicon.is_nodal(mention.concept):
            return locations, ()
        found: dict[OrganTerm, frozenset[str]] = {}
        for p in locations:
            term = self.lexicon.station(p.term) or p.term
            found[term] = found.get(term, NO_SIDE) | self.lexicon.sides_of(p)
        return [Location(mention.span, term, sides) for term, sides in found.items()], locations

    def _stations_near(self, nodes: Location) -> tuple[Sequence[Location], Sequence[Location]]:
        """The stations that the clause names for "lymph nodes", nearest first with those listed beside it."""
        start, end = self.scopes.clause_of(nodes.start)
        sited = [p for p in self.locations if start <= p.start < end and self.lexicon.station(p.term)]
        best = min(sited, key=lambda p: p.span.gap(nodes.span), default=None)
        if best is None:
            return (), ()
        listed = self._listed_with(best)
        found: dict[OrganTerm, frozenset[str]] = {}
        for p in listed:
            term = self.lexicon.station(p.term)
            if term is not None:
                found[term] = found.get(term, NO_SIDE) | (self.lexicon.sides_of(p) or nodes.sides)
        return [Location(nodes.span, term, sides) for term, sides in found.items()], [nodes, *listed]

    # --- what is listed together

    def _group(self, mention: Mention, location: Location) -> list[Location]:
        """The location and those it is listed with ("liver, spleen and both kidneys")."""
        listed = self._listed_with(location)
        if any(p.term.organ in self.lexicon.node_organs for p in listed):  # "hilar and subcarinal lymph nodes"
            sited = [(p, self.lexicon.station(p.term)) for p in listed]
            return [
                p if term is None else Location(p.span, term, self.lexicon.sides_of(p))
                for p, term in sited
                if p is location or term
            ]
        return [p for p in listed if p is location or (self._fits(mention, p) and not self.adjacent(p))]

    def _listed_with(self, location: Location) -> Sequence[Location]:
        if len(self.locations) == 1:
            return self.locations
        low = high = self._index(location)
        while low > 0 and self._joined(self.locations[low - 1], self.locations[low]):
            low -= 1
        while high + 1 < len(self.locations) and self._joined(self.locations[high], self.locations[high + 1]):
            high += 1
        return self.locations[low : high + 1]

    def _index(self, location: Location) -> int:
        span, term = location.span, location.term
        return next(n for n, other in enumerate(self.locations) if other.span == span and other.term == term)

    def _joined(self, first: Location, second: Location) -> bool:
        if self.scopes.clause_of(first.start) != self.scopes.clause_of(second.start):
            return False
        between = self.words[first.end : second.start]
        if not between:
            ranged = first.level is not None and second.level is not None
            return (first.term.adjective and second.term.adjective) or ranged or self._siblings(first, second)
        lists = not _LISTS.isdisjoint(between) or (between[0] in ("in", "at") and len(between) < 5)
        listing, measuring = self.lexicon.lists["listing"], self.lexicon.lists["measuring"]
        other = [w for w in between if w not in listing and w not in measuring and w not in "()"]
        other = [w for w in other if not w[0].isdecimal()]
        plain = len(other) < 3 and all(w.isalpha() and w not in self.lexicon.lists["boundary"] for w in other)
        return lists and plain and not self._marked(first.end, second.start)

    def _siblings(self, first: Location, second: Location) -> bool:
        """Two parts of one organ named in a row: "thoracic-abdominal aorta"."""
        organ, other, organs = first.term.organ, second.term.organ, self.lexicon.organs
        if organ is None or other is None or organ == other:
            return False
        containers = organs.containing(organ) & organs.containing(other)
        return any(organs[name].group == organs[organ].group for name in containers)

    def _marked(self, start: int, end: int) -> bool:
        """Whether a mention or a cue stands in a stretch."""
        return any(t.start < end and t.end > start for t in self.mentions) or any(
            cue.start < end and cue.end > start and cue.kind != "break" for cue in self.cues
        )

    # --- what is near

    def _nearest(self, mention: Mention, locations: Iterable[Location]) -> Location | None:
        fitting = [p for p in locations if self._fits(mention, p) and not self.barred(mention, p)]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        return min(fitting, key=lambda p: self._distance(mention, p))

    def _distance(self, mention: Mention, location: Location) -> int:
        distance = mention.span.gap(location.span)
        if self._region(location) and location.end != mention.start:
            distance += 15
        if self.words[location.end : location.end + 1] == [":"]:
            distance += 12  # only the heading: "Liver: cyst in the right kidney"
        if self._tied_to_other(mention, location):
            distance += 6
        if self.adjacent(location):
            distance += 20
        return distance + 15 if location.term.weak and location.end != mention.start else distance

    def barred(self, mention: Mention, location: Location) -> bool:
        """Whether a finding is not there: behind "other than", or in "no extension of the thrombus into the ..."."""
        if location.start > mention.start and self.scopes.excepted(mention.start, location.start):
            return True
        if not self.scopes.is_host(mention.start):
            return False
        before = self.words[max(0, location.start - 2) : location.start]
        return not {"into", "to", "through", "beyond"}.isdisjoint(before)

    def _tied_to_other(self, mention: Mention, location: Location) -> bool:
        """Whether a preposition ties the location to another mention: "a stone in the right kidney and a cyst"."""
        if len(self.mentions) == 1:
            return False
        if location.end <= mention.start and not self.lexicon.lists["joining"].isdisjoint(
            self.words[location.end : mention.start]
        ):
            return False  # what comes "with" it is where it is
        for other in self.mentions:
            if other.span == mention.span:
                continue
            if location.end == other.start and other.end <= mention.start:
                return not self._lists(other.end, mention.start)  # "skin thickening and a 2 cm mass"
            if other.end > location.start or mention.start <= other.start < mention.end:
                continue
            between = self.words[other.end : location.start]
            apart = location.end <= mention.start or (
                mention.end <= other.start and not self._lists(mention.end, other.start)
            )
            if apart and len(between) < 9 and self._tied(between):
                return True
        return False

    def adjacent(self, location: Location) -> bool:
        """Whether it is named for what lies next to it ("adjacent to the heart")."""
        if location.term.near:
            return True
        start, end = location.span
        lists, words = self.lexicon.lists, self.words
        if end < len(words) and words[end] in lists["based"]:
            return True
        before = words[max(start - 4, 0) : start]
        if lists["beside"].isdisjoint(before) and _FRONT_OR_BACK.isdisjoint(before):
            return False
        last = max((p.end for p in self.locations if p.end <= start), default=0)
        return any(
            (words[i] in lists["beside"] and words[i + 1] not in lists["portion"])
            or (words[i] in _FRONT_OR_BACK and words[i + 1] == "to")
            for i in range(max(last, start - 4), start)
        )

    def _region(self, location: Location) -> bool:
        return location.term.organ is not None and self.lexicon.organs[location.term.organ].group == "regions"

    def in_other_mention(self, location: Location, mention: Mention) -> bool:
        """Whether another mention's words name it."""
        (start, end), words = location.span, mention.span
        for other in self.mentions:
            span = other.span
            if span[0] <= start and end <= span[1] and span not in (words, location.span):
                return True
        return False

    def _fits(self, mention: Mention, location: Location) -> bool:
        return self.lexicon.fits(mention.concept, location.term)

    # --- sides

    def at_other_organ(self, mention: Mention) -> bool:
        """Whether the words right behind it put it where its default organ is not: "ulceration in the aorta"."""
        home = self.lexicon.home_of(mention.concept)
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        if home is None or ahead is None or ahead.term.organ is None or self.adjacent(ahead):
            return False
        if any(mention.start <= p.start < mention.end for p in self.locations):
            return False
        between = self.words[mention.end : ahead.start]
        linked = len(between) < 4 and bool(between) and between[0] in ("in", "of", "within") and "," not in between
        return linked and not self._region(ahead) and not self.lexicon.same_side(home, ahead.term.organ)

    def sides_disagree(self, mention: Mention) -> bool:
        """Whether a mention of one side is put into a location of the other: "left effusion in right hemithorax"."""
        if mention.laterality not in ({"left"}, {"right"}):
            return False
        ahead = next((p for p in self.locations if p.start >= mention.end), None)
        between = self.words[mention.end : ahead.start] if ahead else []
        if ahead is None or not between or between[0] not in ("in", "of", "within") or len(between) > 2:
            return False
        sides = self.lexicon.sides_of(ahead)
        return sides in ({"left"}, {"right"}) and sides != mention.laterality

    def side_near(self, mention: Mention) -> frozenset[str]:
        """The side of the nearest location in the clause that shares its sides with the mention's default organ."""
        clause = self.scopes.clause_of(mention.start)
        home = self.lexicon.home_of(mention.concept)
        if home is None or mention.location is not None:
            return NO_SIDE
        sided = [p for p in self.locations if clause[0] <= p.start < clause[1] and self.lexicon.sides_of(p)]
        sided = [p for p in sided if self.lexicon.same_side(home, p.term.organ or home)]
        best = min(sided, key=lambda p: p.span.gap(mention.span), default=None)
        if best is not None:
            return self.lexicon.sides_of(best)
        others = [o for o in self.mentions if o.laterality and self.scopes.clause_of(o.start) == clause]
        others = [o for o in others if o.span != mention.span]
        homes = {self.lexicon.home_of(o.concept) or "body" for o in others}
        near = all(other == "body" or self.lexicon.same_side(home, other) for other in homes)
        sides = {o.laterality for o in others}
        return next(iter(sides)) if near and len(sides) == 1 else NO_SIDE
