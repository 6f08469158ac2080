"""Ribs by their numbers: "ribs 4-7", "5th and 6th ribs on the left"."""

from __future__ import annotations

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import Location
from ctglip.reports.where import Where

ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
             "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12}  # fmt: skip
_RIBS = ("ribs", "ribs_left", "ribs_right")
_SUFFIXES = frozenset({"th", "st", "nd", "rd"})
_RIB_LINKS = (
    frozenset({"and", ",", "to", "through", "or", "&", "lateral", "posterior", "anterior", "left", "right", "on"})
    | _SUFFIXES
)
_BEFORE_NUMBER = frozenset({"fracture", "no", "number", "(", "#"})


def ribs(words: list[str], tied: frozenset[int], locations: list[Location], lexicon: Lexicon) -> list[Location]:
    """The places of a sentence, with each rib that is told by its number a place of its own."""
    if not any(location.where.organ in _RIBS for location in locations):
        return locations
    found: list[Location] = []
    for location in locations:
        known = _rib_numbers(words, tied, location) if location.where.organ in _RIBS else []
        names = [[f"rib_{side}_{number}" in lexicon.organs for side in ("left", "right")] for number in known]
        if not names or not all(all(pair) for pair in names):
            found.append(location)
            continue
        own = lexicon.organs[location.where.organ or ""].side
        sides = location.sides | ({own} if own else set())
        for number in known:
            where = Where.of(location.where.organ, f"rib_left_{number}", f"rib_right_{number}")
            found.append(Location(location.start, location.end, where, set(sides), f"rib {number}"))
    return found


def _rib_numbers(words: list[str], tied: frozenset[int], location: Location) -> list[int]:
    """The numbers in front of "ribs" (ordinals) or behind it, ranges filled in."""
    low, high = location.start, location.end
    inside = [i for i in range(low, high) if rib_number(words, i)]
    while low > 0 and (rib_number(words, low - 1) or words[low - 1] in _RIB_LINKS):
        low -= 1
    ordinal = [*(i for i in range(low, location.start) if rib_number(words, i)), *inside]
    spelled = any(words[i] in ORDINALS or words[i + 1] in _SUFFIXES for i in ordinal)
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
    number = ORDINALS.get(word) or (int(word) if word.isdecimal() and len(word) < 3 else 0)
    return number if number <= 12 else 0
