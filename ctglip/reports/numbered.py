"""Vertebrae and ribs by their numbers: "L1-L3", "fifth lumbar vertebra", "ribs 4-7", "5th and 6th ribs on the left"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import Location, OrganTerm, Span

_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
             "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12}  # fmt: skip
_SUFFIXES = frozenset({"th", "st", "nd", "rd"})
_REGION = {"c": "C", "t": "T", "d": "T", "l": "L", "s": "S"}
_SPINE = {"cervical": "C", "thoracic": "T", "dorsal": "T", "lumbar": "L"}
_COLUMN = [(r, n) for r, count in (("C", 7), ("T", 12), ("L", 5), ("S", 1)) for n in range(1, count + 1)]
_DIGIT = re.compile(r"\d")
_SKELETON = frozenset({"bones", "vertebrae", "vertebrae_soft", "nervous", "regions", "body_wall"})
_SEQUENCES = ("weighted", "signal", "hyperintense", "hypointense", "sequence")
"""Words behind "T1" that make it one of MRI's."""
_RIBS = frozenset({"ribs", "ribs_left", "ribs_right"})
_RIB_LINKS = (
    frozenset({"and", ",", "to", "through", "or", "&", "lateral", "posterior", "anterior", "left", "right", "on"})
    | _SUFFIXES
)
_BEFORE_NUMBER = frozenset({"fracture", "no", "number", "(", "#"})

Level = tuple[str, int]


def vertebrae(
    words: list[str], tied: frozenset[int], lexicon: Lexicon, locations: Sequence[Location]
) -> list[Location]:
    """ "L1", "T12-L2", "L4-5", "fifth lumbar vertebra", each level a location of its own."""
    if not (_DIGIT.search(" ".join(words)) or not _SPINE.keys().isdisjoint(words)):
        return []
    telling = [i for i, word in enumerate(words) if word[-1].isdecimal() or word in _SPINE]
    taken = {i for location in locations if location.end - location.start > 1 for i in range(*location.span)}
    found: list[Location] = []
    last: tuple[Level, int] | None = None
    for i in telling:
        word, level = words[i], _level(words, i)
        joined = last is not None and _ranged(words, tied, last[1], i)
        if level is None and joined and last and word.isdecimal() and len(word) < 3:
            level = (last[0][0], int(word))
        if level is None or (i in taken and word not in _SPINE):
            continue
        if i == 0 and _numbers_a_target(words, locations, lexicon):
            continue
        for region, number in _between(last[0], level) if joined and last else [level]:
            name = f"vertebrae_{region}{number}"
            if name in lexicon.organs:
                found.append(Location(Span(i, i + 1), lexicon.term_of(name), level=f"{region}{number}"))
        last = (level, i)
    return found


def _numbers_a_target(words: list[str], locations: Sequence[Location], lexicon: Lexicon) -> bool:
    """ "T1 RUL nodule": the first target lesion, not a vertebra."""
    following = next((p.term.organ for p in locations if p.start == 1 and p.term.organ), None)
    return words[0][0] == "t" and following is not None and lexicon.organs[following].group not in _SKELETON


def _level(words: list[str], i: int) -> Level | None:
    word = words[i]
    if len(word) in (2, 3) and word[0] in _REGION and word[1:].isdecimal():
        return None if words[i + 1 : i + 2] and words[i + 1] in _SEQUENCES else (_REGION[word[0]], int(word[1:]))
    if word in _SPINE and i and words[i + 1 : i + 2] and words[i + 1] in ("vertebra", "vertebral"):
        before = words[i - 2] if words[i - 1] in _SUFFIXES and i > 1 else words[i - 1]
        number = _ORDINALS.get(before) or (int(before) if before.isdecimal() and len(before) < 3 else None)
        return (_SPINE[word], number) if number else None
    return None


def _ranged(words: list[str], tied: frozenset[int], first: int, second: int) -> bool:
    """Whether two levels are the ends of a range: "L1-L3", "L1 to L3"."""
    if second - first == 2:
        return words[first + 1] in ("to", "through", "until")
    return second - first == 1 and second in tied


def _between(first: Level, last: Level) -> list[Level]:
    """The levels after ``first`` up to ``last`` (``first`` is listed already)."""
    if first in _COLUMN and last in _COLUMN and _COLUMN.index(first) < _COLUMN.index(last):
        return _COLUMN[_COLUMN.index(first) + 1 : _COLUMN.index(last) + 1]
    return [last]


def ribs(words: list[str], tied: frozenset[int], locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """The locations of a sentence, with each rib that has a number a location of its own."""
    if _RIBS.isdisjoint([location.term.organ for location in locations]):
        return locations
    found: list[Location] = []
    for location in locations:
        numbers = _rib_numbers(words, tied, location) if location.term.organ in _RIBS else []
        names = [(f"rib_left_{number}", f"rib_right_{number}") for number in numbers]
        if not names or not all(name in lexicon.organs for pair in names for name in pair):
            found.append(location)
            continue
        side = lexicon.side_of(location.term.organ)
        sides = location.sides | ({side} if side else frozenset())
        for number, pair in zip(numbers, names, strict=True):
            term = OrganTerm.of(location.term.organ, *pair)
            found.append(Location(location.span, term, sides, f"rib {number}"))
    return found


def _rib_numbers(words: list[str], tied: frozenset[int], location: Location) -> list[int]:
    """The numbers in front of "ribs" (ordinals) or behind it, ranges filled in."""
    low, high = location.start, location.end
    while low > 0 and (rib_number(words, low - 1) or words[low - 1] in _RIB_LINKS):
        low -= 1
    ordinal = [i for i in range(low, location.end) if rib_number(words, i)]
    spelled = any(words[i] in _ORDINALS or words[i + 1] in _SUFFIXES for i in ordinal)
    if not spelled and not any(i in tied and rib_number(words, i - 1) for i in ordinal):
        ordinal = []  # "2 rib fractures"
    while high < len(words) and (rib_number(words, high) or words[high] in _RIB_LINKS or words[high] in _BEFORE_NUMBER):
        high += 1
    behind = [i for i in range(location.end, high) if rib_number(words, i)]
    if behind and words[high : high + 1] and words[high] in ("mm", "cm", "x", "hu", "/"):
        behind.pop()
    numbers: list[int] = []
    for i in ordinal or behind:
        number = rib_number(words, i)
        last = next((j for j in range(i - 1, max(i - 4, -1), -1) if rib_number(words, j)), None)
        ranged = last is not None and (i in tied or not {"to", "through"}.isdisjoint(words[last:i]))
        numbers += range(numbers[-1] + 1, number) if numbers and ranged else ()
        numbers.append(number)
    return list(dict.fromkeys(numbers))


def rib_number(words: list[str], i: int) -> int:
    """1 to 12, else 0."""
    word = words[i]
    number = _ORDINALS.get(word) or (int(word) if word.isdecimal() and len(word) < 3 else 0)
    return number if number <= 12 else 0
