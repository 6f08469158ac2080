"""Where a sentence speaks of: organ mentions with their side and level, made as specific as the words allow.

"upper lobe of the right lung" and "right upper lobe" are both ``lung_upper_lobe_right``, "both kidneys" is
``kidney_left`` and ``kidney_right``, "L1-L3" are three vertebrae, "5th rib on the left" is ``rib_left_5``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import Location
from ctglip.reports.ribs import ORDINALS, ribs
from ctglip.reports.sides import give_sides, other_sides
from ctglip.reports.where import SIDES, Where

_REGION = {"c": "C", "t": "T", "d": "T", "l": "L", "s": "S"}
_SPINE = {"cervical": "C", "thoracic": "T", "dorsal": "T", "lumbar": "L"}
_SKELETON = frozenset({"bones", "vertebrae", "vertebrae_soft", "nervous", "regions", "body_wall"})
_UNSIDED = frozenset({"coronary_arteries", "heart"})
"""Their parts are called left and right by what they belong to."""
_LININGS = {("pleura", lung) for lung in ("lungs", "lung_left", "lung_right")}


def find_locations(
    words: list[str],
    tied: frozenset[int],
    lexicon: Lexicon,
    mentions: Sequence[tuple[int, int]],
    homes: Sequence[tuple[int, str]] = (),
) -> tuple[list[Location], dict[int, set[str]]]:
    """Organs named in a sentence, and the sides that belong to a finding itself ("left effusion").

    Args:
        words: normal forms of the sentence.
        tied: indices of the words that a hyphen ties to the one before.
        lexicon: organ phrases.
        things: spans of the findings named.
        homes: the end and the own organ of those that have one.

    Returns:
        places in order, and for the index of each thing its sides.
    """
    locations = [Location(m.start, m.end, m.value) for m in lexicon.find_locations(words)]
    if not SIDES.keys().isdisjoint(words):
        _name_sides(words, locations)
    levels = _vertebrae(words, tied, lexicon, locations)
    at_levels = {location.start for location in levels}
    named = (location for location in locations if location.start not in at_levels or location.end - location.start > 1)
    locations = sorted([*levels, *named], key=lambda location: location.start)
    if not SIDES.keys().isdisjoint(words):
        locations = sorted(
            [*locations, *other_sides(words, locations, lexicon, homes)], key=lambda location: location.start
        )
    thing_sides = give_sides(words, locations, mentions, lexicon)
    locations = _merge(words, locations, lexicon)
    _carry_sides(locations, lexicon)
    locations = ribs(words, tied, locations, lexicon)
    if locations:
        _set_levels(words, locations, lexicon)
    return locations, thing_sides


def _name_sides(words: list[str], locations: Sequence[Location]) -> None:
    """The side inside the name of an organ that the dictionary does not part by side: "right pulmonary artery"."""
    for location in locations:
        where = location.where
        if (
            location.end - location.start > 1
            and where.left == where.right == where.organ
            and where.organ not in _UNSIDED
        ):
            location.sides |= {SIDES[word] for word in words[location.start : location.end] if word in SIDES}


def _fixed(name: str, lexicon: Lexicon) -> Where | None:
    return Where.of(name) if name in lexicon.organs else None


def _vertebrae(
    words: list[str], tied: frozenset[int], lexicon: Lexicon, locations: Sequence[Location]
) -> list[Location]:
    """ "L1", "T12-L2", "L4-5", "fifth lumbar vertebra", each level a place of its own."""
    if not any(word[-1].isdecimal() for word in words) and _SPINE.keys().isdisjoint(words):
        return []
    taken = {
        i for location in locations for i in range(location.start, location.end) if location.end - location.start > 1
    }
    found: list[Location] = []
    last: tuple[str, int, int] | None = None
    for i, word in enumerate(words):
        if not word[-1].isdecimal() and word not in _SPINE:
            continue
        level = _level(words, i)
        joined = last is not None and _ranged(words, tied, last[2], i)
        if level is None and joined and last and word.isdecimal() and len(word) < 3:
            level = (last[0], int(word))
        if (
            level is None
            or (i in taken and word not in _SPINE)
            or (i == 0 and _numbers_a_target(words, locations, lexicon))
        ):
            continue
        names = _between(last[:2], level) if joined and last else [level]
        for region, number in names:
            name = f"vertebrae_{region}{number}"
            where = lexicon.where(name) if name in lexicon.organs else None
            if where is not None:
                found.append(Location(i, i + 1, where, level=f"{region}{number}"))
        last = (*level, i)
    return found


def _numbers_a_target(words: list[str], locations: Sequence[Location], lexicon: Lexicon) -> bool:
    """ "T1 RUL nodule": the first target lesion, not a vertebra."""
    beside = next((location for location in locations if location.start == 1 and location.where.organ), None)
    return words[0][0] == "t" and beside is not None and lexicon.organs[beside.where.organ or ""].group not in _SKELETON


def _level(words: list[str], i: int) -> tuple[str, int] | None:
    word = words[i]
    if len(word) in (2, 3) and word[0] in _REGION and word[1:].isdecimal():
        if words[i + 1 : i + 2] and words[i + 1] in ("weighted", "signal", "hyperintense", "hypointense", "sequence"):
            return None
        return _REGION[word[0]], int(word[1:])
    if word in _SPINE and i and words[i + 1 : i + 2] and words[i + 1] in ("vertebra", "vertebral"):
        before = words[i - 2] if words[i - 1] in ("th", "st", "nd", "rd") and i > 1 else words[i - 1]
        number = ORDINALS.get(before) or (int(before) if before.isdecimal() and len(before) < 3 else None)
        return (_SPINE[word], number) if number else None
    return None


def _ranged(words: list[str], tied: frozenset[int], first: int, second: int) -> bool:
    """Whether two levels are the ends of a range: "L1-L3", "L1 to L3"."""
    if second - first == 2:
        return words[first + 1] in ("to", "through", "until")
    return second - first == 1 and second in tied


_COLUMN = [(r, n) for r, count in (("C", 7), ("T", 12), ("L", 5), ("S", 1)) for n in range(1, count + 1)]


def _between(first: tuple[str, int], last: tuple[str, int]) -> list[tuple[str, int]]:
    """The levels after ``first`` up to ``last`` (``first`` is listed already)."""
    if first in _COLUMN and last in _COLUMN and _COLUMN.index(first) < _COLUMN.index(last):
        return _COLUMN[_COLUMN.index(first) + 1 : _COLUMN.index(last) + 1]
    return [last]


def _merge(words: list[str], locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """ "upper lobe | of the | right lung": the side of the whole goes to its part, and the whole is not named apart."""
    kept: list[Location] = []
    for location in locations:
        other = kept[-1] if kept else None
        between = words[other.end : location.start] if other is not None else []
        if (
            other is not None
            and len(between) < 4
            and _linked(between, lexicon)
            and not _spoken(words, location, between, lexicon)
        ):
            joined = (
                _join(other, location, lexicon) or _join(location, other, lexicon) or _lining(other, location, between)
            )
            if joined is not None:
                kept[-1] = joined
                continue
        kept.append(location)
    return kept


def _spoken(words: list[str], location: Location, between: list[str], lexicon: Lexicon) -> bool:
    """Whether a location behind a comma is the subject of a statement: "..., the lungs are clear"."""
    return "," in between and location.end < len(words) and words[location.end] in lexicon.words["verb"]


def _carry_sides(locations: Sequence[Location], lexicon: Lexicon) -> None:
    """In "the left kidney holds a stone in its collecting system" the system is the left kidney's."""
    if len(locations) < 2 or not any(location.sidable and not location.sides for location in locations):
        return
    said: dict[str, set[str]] = {}
    for location in locations:
        pair = location.where.organ
        sides = location.sides or {lexicon.organs[pair].side or ""} if pair else set()
        containers = (pair, *lexicon.organs.containing(pair)) if pair else ()
        for whole in containers if sides else ():
            said.setdefault(whole, set()).update(sides)
    for location in locations:
        sides = said.get(location.where.organ or "", set()) - {""}
        if location.sidable and not location.sides and location.where.left != location.where.right and len(sides) == 1:
            location.sides = set(sides)


def _linked(gap: list[str], lexicon: Lexicon) -> bool:
    return len(gap) <= 3 and all(word in lexicon.words["linking"] or word in SIDES for word in gap)


def _join(part: Location, whole: Location, lexicon: Lexicon) -> Location | None:
    """The part, with the side that the whole has, when it is a part of it."""
    sides = part.sides or whole.sides
    own = lexicon.organs[whole.where.organ].side if whole.where.organ else None
    if own and not part.sides:
        sides = {own}
    candidates, around = part.where.organs, whole.where.organs
    inside = frozenset().union(*(lexicon.organs.parts_of(organ) for organ in around))
    if not candidates or not (candidates - {part.where.organ} or candidates) <= inside:
        return None
    if part.where.organ in around and not part.sidable:
        return None
    start, end = min(part.start, whole.start), max(part.end, whole.end)
    return Location(start, end, part.where, set(sides), part.level or whole.level)


def _lining(lining: Location, organ: Location, between: list[str]) -> Location | None:
    """ "in the pleura of the right lung": the lining, on the side of the organ that it covers."""
    if (lining.where.organ, organ.where.organ) not in _LININGS or not {"of", "in", "at"} & set(between):
        return None
    if lining.where.near or lining.where.structure:
        return None
    own = {"left", "right"} & set((organ.where.organ or "").split("_"))
    return Location(
        lining.start, organ.end, lining.where, lining.sides or organ.sides or own, lining.level or organ.level
    )


def _set_levels(words: list[str], locations: Sequence[Location], lexicon: Lexicon) -> None:
    for hit in lexicon.levels.find(words):
        near = [
            p for p in locations if p.level is None and p.where.organ and _within(p.where.organ, hit.value, lexicon)
        ]
        best = min(near, key=lambda p: max(p.start - hit.end, hit.start - p.end, 0), default=None)
        if best is not None and max(best.start - hit.end, hit.start - best.end, 0) <= 5:
            number = words[hit.end : hit.end + 1]
            level = " ".join(words[hit.start : hit.end])
            best.level = f"{level} {number[0]}" if level == "segment" and number else level


def _within(organ: str | None, roots: frozenset[str], lexicon: Lexicon) -> bool:
    return organ is not None and not roots.isdisjoint({organ, *lexicon.organs.containing(organ)})
