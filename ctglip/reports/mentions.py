"""What a sentence names: concepts, the organs around them, and the words for sides."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from ctglip.types import Laterality, Status

SIDES = {"left": "left", "right": "right", "bilateral": "both", "both": "both", "bilaterally": "both", "lt": "left",
         "rt": "right", "two": "both"}  # fmt: skip
STATION = "_station"
"""Ends the names of structures that hold lymph nodes alone."""
NO_SIDE: frozenset[str] = frozenset()


class Span(NamedTuple):
    """Words ``start`` to ``end`` (half-open) of a sentence."""

    start: int
    end: int

    def holds(self, other: Span) -> bool:
        """Whether the other span lies inside."""
        return self.start <= other.start and other.end <= self.end

    def gap(self, other: Span) -> int:
        """Words between the two."""
        return max(self.start - other.end, other.start - self.end, 0)


class OrganTerm(NamedTuple):
    """What an organ phrase can stand for.

    Attributes:
        organ: the organ without a side, None where nothing spans the two.
        left, right: the organ on a side.
        adjective: the phrase is one ("hepatic").
        near: it names what is next to the organ ("paraduodenal").
        weak: it yields to any other location of the clause ("apex").
        structure: a part that is no organ of the dictionary ("interlobular septum").
        organs: all organs that it can stand for.
    """

    organ: str | None
    left: str | None
    right: str | None
    adjective: bool = False
    near: bool = False
    weak: bool = False
    structure: str | None = None
    organs: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, organ: str | None, left: str | None = None, right: str | None = None, adjective: bool = False
    ) -> OrganTerm:
        """A phrase for these organs."""
        named = frozenset(name for name in (organ, left, right) if name)
        return cls(organ, left, right, adjective, organs=named)


class Location(NamedTuple):
    """One organ that a sentence names.

    Attributes:
        term: the organ by side.
        sides: sides that the words around give it: "left", "right", "both".
        level: the part inside the organ, as written.
        elliptic: a side alone, that stands for an organ named before.
    """

    span: Span
    term: OrganTerm
    sides: frozenset[str] = NO_SIDE
    level: str | None = None
    elliptic: bool = False

    start = property(attrgetter("span.start"), doc="First word.")
    end = property(attrgetter("span.end"), doc="Word behind the last.")

    @property
    def sidable(self) -> bool:
        """Whether a side would make it more specific."""
        return bool(self.term.left or self.term.right)

    def members(self, default_sides: frozenset[str] = NO_SIDE) -> tuple[tuple[str | None, Laterality | None], ...]:
        """(organ, laterality) for each organ meant: two rows when both sides are."""
        return members(self.term, self.sides or default_sides)


def members(term: OrganTerm, sides: frozenset[str]) -> tuple[tuple[str | None, Laterality | None], ...]:
    """(organ, laterality) for each organ that a term means on some sides."""
    left, right = term.left, term.right
    if not (left or right):
        return ((term.organ, None),)
    if "both" in sides or {"left", "right"} <= sides:
        return tuple((organ, "bilateral") for organ in dict.fromkeys((left, right)) if organ)
    if "left" in sides and left:
        return ((left, "left"),)
    if "right" in sides and right:
        return ((right, "right"),)
    return ((term.organ, None),)


class Concept(NamedTuple):
    """What a phrase means.

    Its ``kind`` is "abnormality" (of the dictionary), "observation" (of ``observations.yaml``), "pathology" (any) or
    "mute" (nothing by itself); ``name`` is its name there.

    ``general`` means an abnormality's general word, since its own organ is not the one named.
    """

    kind: str
    name: str
    general: bool = False

    @property
    def silent(self) -> bool:
        """Whether it makes no finding by itself."""
        return self.kind in ("pathology", "mute")


class Mention(NamedTuple):
    """One concept that a sentence names.

    Attributes:
        assertion: where it is known already (a measure).
        location: the organ, where it is known already (a measure's).
        laterality: sides that the words give the mention itself ("left effusion").
        side_leads: they stand before it, so that they beat a side that a location has.
    """

    span: Span
    concept: Concept
    assertion: Status | None = None
    location: Location | None = None
    laterality: frozenset[str] = NO_SIDE
    side_leads: bool = False

    start = property(attrgetter("span.start"), doc="First word.")
    end = property(attrgetter("span.end"), doc="Word behind the last.")


class Cue(NamedTuple):
    """Words of a sentence that affirm, deny, doubt, date or part.

    Attributes:
        kind: list of ``cues.yaml``: "negation", "uncertainty", "history", "normal", "exception", "break", ...
        direction: where its scope lies: "before" (the cue stands before it), "after", "next"; or the list's own word.
        perceived: made of a denial and a word of perception: "not ... seen".
    """

    start: int
    end: int
    kind: str
    direction: str | None = None
    perceived: bool = False
