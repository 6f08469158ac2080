"""Which organs a sentence names, with their side and level, as specific as the words allow.

"upper lobe of the right lung" and "right upper lobe" are both ``lung_upper_lobe_right``, "both kidneys" is
``kidney_left`` and ``kidney_right``, "L1-L3" are three vertebrae, "5th rib on the left" is ``rib_left_5``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.laterality import give_sides, other_sides
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import SIDES, Location, Span
from ctglip.reports.numbered import ribs, vertebrae

_UNSIDED = frozenset({"coronary_arteries", "heart"})
"""Their parts are called left and right by what they belong to."""
_LININGS = {("pleura", lung) for lung in ("lungs", "lung_left", "lung_right")}
_LEVEL_DISTANCE = 5
"""Words at most between an organ and the word for a part of it."""


def find_locations(
    words: list[str],
    tied: frozenset[int],
    lexicon: Lexicon,
    mentions: Sequence[Span],
    homes: Sequence[tuple[int, str]] = (),
) -> tuple[list[Location], dict[int, frozenset[str]]]:
    """Organs named in a sentence, and the sides that belong to a concept itself ("left effusion").

    Args:
        words: normal forms of the sentence.
        tied: indices of the words that a hyphen ties to the one before.
        lexicon: organ phrases.
        mentions: the concepts named.
        homes: the end and the default organ of those that have one.

    Returns:
        locations in order, and for the index of each mention its sides.
    """
    sided = [i for i, word in enumerate(words) if word in SIDES]
    locations = [Location(Span(start, end), term) for start, end, term in lexicon.find_locations(words)]
    if sided:
        locations = [_with_named_side(words, location) for location in locations]
    levels = vertebrae(words, tied, lexicon, locations)
    if levels:
        at_levels = {location.start for location in levels}
        named = [p for p in locations if p.start not in at_levels or p.end - p.start > 1]
        locations = sorted([*levels, *named], key=_start)
    mention_sides: dict[int, frozenset[str]] = {}
    if sided:
        locations = sorted([*locations, *other_sides(words, sided, locations, lexicon, homes)], key=_start)
        locations, mention_sides = give_sides(words, sided, locations, mentions, lexicon)
    if not locations:
        return [], mention_sides
    locations = _carry_sides(_merge(words, locations, lexicon), lexicon)
    return _with_levels(words, ribs(words, tied, locations, lexicon), lexicon), mention_sides


def _start(location: Location) -> int:
    return location.start


def _with_named_side(words: list[str], location: Location) -> Location:
    """The side inside the name of an organ that the dictionary does not part by side: "right pulmonary artery"."""
    term = location.term
    if location.end - location.start < 2 or not term.left == term.right == term.organ or term.organ in _UNSIDED:
        return location
    sides = {SIDES[word] for word in words[location.start : location.end] if word in SIDES}
    return location._replace(sides=location.sides | sides)


def _merge(words: list[str], locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """ "upper lobe | of the | right lung": the side of the larger organ goes to its part, which alone is named."""
    merged: list[Location] = []
    for location in locations:
        joined = _joined(words, merged[-1], location, lexicon) if merged else None
        if joined is not None:
            merged[-1] = joined
        else:
            merged.append(location)
    return merged


def _joined(words: list[str], first: Location, second: Location, lexicon: Lexicon) -> Location | None:
    """Two neighbours as one location, where one is a part of the other."""
    if second.start - first.end > 3:
        return None
    between, linking = words[first.end : second.start], lexicon.lists["linking"]
    if not all(word in linking or word in SIDES for word in between):
        return None
    if "," in between and second.end < len(words) and words[second.end] in lexicon.lists["verb"]:
        return None  # "..., the lungs are clear" begins a statement
    joined = _part_of(first, second, lexicon) or _part_of(second, first, lexicon)
    return joined or _lining(first, second, between)


def _part_of(part: Location, container: Location, lexicon: Lexicon) -> Location | None:
    """The part, with the side that the container has, when it is a part of it."""
    candidates, around = part.term.organs, container.term.organs
    if not candidates or not (candidates - {part.term.organ} or candidates) <= lexicon.inside(around):
        return None
    if part.term.organ in around and not part.sidable:
        return None
    side = lexicon.side_of(container.term.organ)
    sides = part.sides or (frozenset({side}) if side else container.sides)
    span = Span(min(part.start, container.start), max(part.end, container.end))
    return Location(span, part.term, sides, part.level or container.level)


def _lining(lining: Location, organ: Location, between: list[str]) -> Location | None:
    """ "in the pleura of the right lung": the lining, on the side of the organ that it covers."""
    if (lining.term.organ, organ.term.organ) not in _LININGS or not {"of", "in", "at"} & set(between):
        return None
    if lining.term.near or lining.term.structure:
        return None
    sides = lining.sides or organ.sides or frozenset({"left", "right"} & set((organ.term.organ or "").split("_")))
    return Location(Span(lining.start, organ.end), lining.term, sides, lining.level or organ.level)


def _carry_sides(locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """In "the left kidney holds a stone in its collecting system" the system is the left kidney's."""
    if len(locations) < 2 or not any(location.sidable and not location.sides for location in locations):
        return locations
    sides_of: dict[str, set[str]] = {}
    for location in locations:
        organ = location.term.organ
        sides = lexicon.sides_of(location) if organ and not location.elliptic else frozenset[str]()
        for name in (organ, *lexicon.organs.containing(organ)) if organ and sides else ():
            sides_of.setdefault(name, set()).update(sides)
    return [_with_carried_side(location, sides_of.get(location.term.organ or "", set())) for location in locations]


def _with_carried_side(location: Location, sides: set[str]) -> Location:
    parted = location.sidable and location.term.left != location.term.right
    return location._replace(sides=frozenset(sides)) if parted and not location.sides and len(sides) == 1 else location


def _with_levels(words: list[str], locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """The locations, each word for a part ("apical segment 2") given to the nearest organ that has such parts."""
    located = list(locations)
    for hit in lexicon.levels.find(words):
        span = Span(hit.start, hit.end)
        near = [
            n
            for n, location in enumerate(located)
            if location.level is None and location.term.organ and _within(location.term.organ, hit.value, lexicon)
        ]
        best = min(near, key=lambda n: located[n].span.gap(span), default=None)
        if best is not None and located[best].span.gap(span) <= _LEVEL_DISTANCE:
            number = words[hit.end : hit.end + 1]
            level = " ".join(words[hit.start : hit.end])
            level = f"{level} {number[0]}" if level == "segment" and number else level
            located[best] = located[best]._replace(level=level)
    return located


def _within(organ: str, roots: frozenset[str], lexicon: Lexicon) -> bool:
    return not roots.isdisjoint({organ, *lexicon.organs.containing(organ)})
