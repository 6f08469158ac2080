"""Which name of a sentence a side word belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import NO_SIDE, SIDES, Location, Span
from ctglip.reports.numbered import rib_number

_DIRECTIONS = frozenset(
    {"superior", "inferior", "anterior", "posterior", "upper", "lower", "medial", "lateral", "middle"}
)
_LISTED = frozenset({",", "and", "or"})
_DESCRIBING = frozenset({"prominent", "dominant", "significant", "marked", "larger"})
_BETWEEN_SIDES = ("and", "or", "to", "/", ",")
_PREPOSITIONS = frozenset({"on", "in", "at", "to", "from", "of", "with", "for", "by"})
NONE = frozenset({"none", "nil", "nothing"})
_REACH = 6
"""Words at most between a side and the name that it stands in front of."""

Owner = tuple[Literal["location", "mention"], int]
"""What a side is given to: its kind and its number among those of the sentence."""


def give_sides(
    words: list[str], sided: Sequence[int], locations: Sequence[Location], mentions: Sequence[Span], lexicon: Lexicon
) -> tuple[list[Location], dict[int, frozenset[str]]]:
    """Each side word (at the indices ``sided``) goes to the name it stands in front of, else to the nearest before it.

    Returns:
        the locations with their sides, and for the index of each mention its sides.
    """
    located = list(locations)
    given: dict[int, frozenset[str]] = {}
    inside = {i for location in locations for i in range(*location.span)}
    elliptic = {location.start for location in locations if location.elliptic}
    starts = _starts(locations, mentions)
    for i in sided:
        side = SIDES[words[i]]
        if i in elliptic or (i in inside and words[i] not in ("both", "bilateral")):
            continue
        holder = _holder(i, located) if i in inside else None
        if holder is not None:
            located[holder] = located[holder]._replace(sides=located[holder].sides | {side})
            continue
        for kind, number in _owners(words, i, located, mentions, lexicon, starts):
            if kind == "location":
                located[number] = _with_side(located[number], side, lexicon)
            else:
                given[number] = given.get(number, NO_SIDE) | {side}
    return located, given


def _holder(i: int, locations: Sequence[Location]) -> int | None:
    """The location that a side stands inside of: "parenchyma of both lungs"."""
    return next((n for n, p in enumerate(locations) if p.start < i < p.end and p.sidable), None)


def _starts(locations: Sequence[Location], mentions: Sequence[Span]) -> dict[int, list[Owner]]:
    """What begins at each word that a name begins at."""
    starts: dict[int, list[Owner]] = {}
    for number, location in enumerate(locations):
        starts.setdefault(location.start, [] if location.elliptic else [("location", number)])
    for start, number in {start: number for number, (start, _) in enumerate(mentions)}.items():
        starts.setdefault(start, []).append(("mention", number))
    return starts


def _owners(
    words: list[str],
    i: int,
    locations: Sequence[Location],
    mentions: Sequence[Span],
    lexicon: Lexicon,
    starts: dict[int, list[Owner]],
) -> list[Owner]:
    """What the side at a word belongs to."""
    if words[i] == "two" and not any(location.start == i + 1 for location in locations):
        return []  # "two nodules" are not on two sides
    compared = _compared(words, i, lexicon)
    comparing = not lexicon.lists["comparing"].isdisjoint(words[max(0, i - 3) : i])
    comparing = comparing and not (words[i - 1] in _DESCRIBING and i + 1 in starts)  # "a prominent left hilar node"
    if not compared and comparing and "other" not in words[max(0, i - 4) : i]:
        return []
    alone = i > 1 and (words[i - 1] == "on" or (words[i - 1] == "in" and words[i + 1 : i + 2] in ([], ["."], [","])))
    stands_for = (
        next((w for w in reversed(words[: max(i - 1, 0)]) if w not in lexicon.lists["perceiving"]), "") if alone else ""
    )
    amount = i > 2 and words[i - 3] == "," and stands_for in lexicon.lists["quantity"]
    if (
        amount
        or stands_for in lexicon.lists["pronoun"]
        or (i and words[i - 1] in NONE)
        or words[i + 1 : i + 2] == ["one"]
    ):
        return []  # "a small one on the left", "none left", ", trace on the left": read with what is named before
    if _fronted(words, i, lexicon):
        owners = _first_after(i, locations, mentions)
    else:
        owners = _named_ahead(words, i, starts, lexicon) or _named_behind(words, i, locations, mentions, lexicon)
    return owners or (_named_ahead(words, min(i + 3, len(words) - 1), starts, lexicon) if compared else [])


def _with_side(location: Location, side: str, lexicon: Lexicon) -> Location:
    """One more side of a location; "right and left pleural" is both."""
    organ_side = lexicon.side_of(location.term.organ)
    pair = lexicon.pair_of(location.term)
    if organ_side and organ_side != side and pair is not None:
        return location._replace(term=pair, sides=frozenset({organ_side, side}))
    return location._replace(sides=location.sides | {side})


def _named_ahead(words: list[str], i: int, starts: dict[int, list[Owner]], lexicon: Lexicon) -> list[Owner]:
    j, limit = i, i + _REACH
    while j < min(limit, len(words)):
        if j in starts:
            return starts[j]
        j += 1
        following = words[j + 1] if j + 1 < len(words) else ""
        if j >= len(words):
            break
        if words[j] in _BETWEEN_SIDES and _side_follows(words, j + 1, starts):
            j, limit = j + 1, limit + 3
        elif words[j] in _BETWEEN_SIDES and following in _DIRECTIONS:
            j, limit = j + 1, limit + 2  # "bilateral superior and inferior pubic rami"
        elif words[j] in (*_BETWEEN_SIDES, "through") and following and rib_number(words, j + 1):
            limit += 3  # "left 2nd, 3rd and 5th ribs"
        elif words[j] in lexicon.lists["boundary"]:
            break
    return []


def _compared(words: list[str], i: int, lexicon: Lexicon) -> bool:
    """Whether it is a side of "left greater than right": both are meant."""
    for first, second in ((i, i + 3), (i - 3, i)):
        if first < 0 or second >= len(words) or words[second - 1] != "than":
            continue
        if words[first + 1] in lexicon.lists["comparing"] and words[first] in SIDES and words[second] in SIDES:
            return True
    return False


def _fronted(words: list[str], i: int, lexicon: Lexicon) -> bool:
    """ "On the left there is ..." and "The left shows ...": the side is of what follows."""
    after = words[i + 1 : i + 2]
    if i == 0:
        return bool(after) and after[0] in lexicon.lists["verb"]
    opens = words[i - 1] == "on" and (i == 1 or words[i - 2] in (",", ";", "and", "but"))
    return opens and bool(after) and (after[0] in ("there", ",", ":") or after[0] in lexicon.lists["verb"])


def _first_after(i: int, locations: Sequence[Location], mentions: Sequence[Span]) -> list[Owner]:
    """The first name behind a side that can take it: a location, else each concept."""
    sidable = next((n for n, location in enumerate(locations) if location.start > i and location.sidable), None)
    if sidable is not None:
        return [("location", sidable)]
    return [("mention", n) for n, (start, _) in enumerate(mentions) if start > i]


def _side_follows(words: list[str], start: int, starts: dict[int, list[Owner]]) -> bool:
    """ "right and small left effusions": the other side of the same name comes within three words."""
    for j in range(start, min(start + 3, len(words))):
        if words[j] in SIDES:
            return True
        if j in starts or not words[j].isalpha():
            return False
    return False


def _named_behind(
    words: list[str], i: int, locations: Sequence[Location], mentions: Sequence[Span], lexicon: Lexicon
) -> list[Owner]:
    parted = max((j for j in range(i) if words[j] in lexicon.lists["contrast"]), default=-1)
    ends = [(p.end, "location", n) for n, p in enumerate(locations) if parted < p.end <= i and p.sidable]
    ends += [(end, "mention", n) for n, (_, end) in enumerate(mentions) if parted < end <= i]
    if not ends:
        return []
    _, kind, number = max(ends)
    if kind == "location" and locations[number].level and words[i - 1] == "on":
        return _listed_levels(words, number, locations)
    last = mentions[number].start if kind == "mention" else locations[number].start
    found: list[Owner] = [("location" if kind == "location" else "mention", number)]
    for n in range(len(mentions) - 1, -1, -1):  # "a stone, hydronephrosis and stranding on the left"
        start, end = mentions[n]
        if end > last or words[i - 1] != "on":
            continue
        between = words[end:last]
        apart = not (lexicon.lists["boundary"] - _LISTED).isdisjoint(between)
        if apart or _LISTED.isdisjoint(between) or not SIDES.keys().isdisjoint(between):
            break
        found.append(("mention", n))
        last = start
    return found


def _listed_levels(words: list[str], number: int, locations: Sequence[Location]) -> list[Owner]:
    """The levels listed before: "of L2, L3 and L4 on the left"."""
    found: list[Owner] = [("location", number)]
    while number > 0 and locations[number - 1].level:
        if set(words[locations[number - 1].end : locations[number].start]) - _LISTED:
            break
        number -= 1
        found.append(("location", number))
    return found


def _is_subject(words: list[str], after: int, lexicon: Lexicon) -> bool:
    """Whether what is said behind a side is said of it: "the left is small", "left clear", "right resolved"."""
    if after >= len(words) or words[after] in lexicon.lists["verb"]:
        return after < len(words)
    stated = words[after] in lexicon.lists["state"] or words[after] in lexicon.lists["amount"]
    return stated and (after + 1 == len(words) or words[after + 1] in lexicon.lists["boundary"])


def other_sides(
    words: list[str],
    sided: Sequence[int],
    locations: list[Location],
    lexicon: Lexicon,
    homes: Sequence[tuple[int, str]] = (),
) -> list[Location]:
    """ "The right kidney is normal, the left is small": a side that stands for the organ named before."""
    inside = {i for location in locations for i in range(*location.span)}
    found: list[Location] = []
    for i in sided:
        word = words[i]
        if SIDES[word] not in ("left", "right") or i in inside or i == 0:
            continue
        after = i + 2 if words[i + 1 : i + 2] and words[i + 1] in ("side", "one") else i + 1
        if words[i - 1] in _PREPOSITIONS or not _is_subject(words, after, lexicon):
            continue
        named = [(location.end, location.term) for location in locations if location.end <= i]
        at_home = [(end, lexicon.term_of(home)) for end, home in homes if end <= i and home != "body"]
        for known in (named, at_home):
            pairs = [(end, pair) for end, term in known if (pair := lexicon.pair_of(term))]
            if pairs:
                _, pair = max(pairs, key=lambda known: known[0])
                found.append(Location(Span(i, i + 1), pair, frozenset({SIDES[word]}), elliptic=True))
                break
    return found
