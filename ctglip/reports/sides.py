"""Which name of a sentence a side word belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import Location
from ctglip.reports.ribs import rib_number
from ctglip.reports.where import SIDES

_BETWEEN_RIBS = ("and", "or", "to", "/", ",", "through")
_DIRECTIONS = frozenset(
    {"superior", "inferior", "anterior", "posterior", "upper", "lower", "medial", "lateral", "middle"}
)
_LISTED = frozenset({",", "and", "or"})
_BETWEEN_SIDES = ("and", "or", "to", "/", ",")


def give_sides(
    words: list[str], locations: Sequence[Location], mentions: Sequence[tuple[int, int]], lexicon: Lexicon
) -> dict[int, set[str]]:
    """Each side word goes to the name it stands in front of, else to the nearest name before it."""
    given: dict[int, set[str]] = {}
    if SIDES.keys().isdisjoint(words):
        return given
    inside = {i for location in locations for i in range(location.start, location.end)}
    elliptic = {location.start for location in locations if location.elliptic}
    location_at = {location.start: location for location in locations}
    mention_at = {start: n for n, (start, _) in enumerate(mentions)}
    for i, word in enumerate(words):
        side = SIDES.get(word)
        if side is None or (i in inside and word not in ("both", "bilateral")):
            continue
        holder = next((p for p in locations if p.start < i < p.end and p.sidable), None) if i in inside else None
        if holder is not None:
            holder.sides.add(side)  # "parenchyma of both lungs"
            continue
        if word == "two" and i + 1 not in location_at:
            continue  # "two nodules" are not on two sides
        compared = _compared(words, i, lexicon)
        before = [w for w in words[max(0, i - 3) : i] if w in lexicon.words["comparing"]]
        if not compared and before and words[max(0, i - 4) : i].count("other") == 0:
            continue
        if i in elliptic or (i > 1 and words[i - 1] == "on" and words[i - 2] in ("none", "nil")):
            continue
        if _fronted(words, i, lexicon):
            owner = _first_after(i, locations, mentions)
        else:
            owner = _named_ahead(words, i, location_at, mention_at, lexicon) or _named_behind(
                words, i, locations, mentions, lexicon
            )
        if compared and owner is None:
            owner = _named_ahead(words, min(i + 3, len(words) - 1), location_at, mention_at, lexicon)
        for kind, key in owner or ():
            if kind == "place":
                _add_side(locations[key], side, lexicon)
            else:
                given.setdefault(key, set()).add(side)
    return given


def _add_side(location: Location, side: str, lexicon: Lexicon) -> None:
    """One more side of a place; "right and left pleural" is both."""
    own = lexicon.organs[location.where.organ].side if location.where.organ else None
    pair = lexicon.pair_of(location.where)
    if own and own != side and pair is not None:
        location.where, location.sides = pair, {own}
    location.sides.add(side)


def _named_ahead(
    words: list[str], i: int, location_at: dict[int, Location], mention_at: dict[int, int], lexicon: Lexicon
) -> list[tuple[str, int]] | None:
    order = {id(location): n for n, location in enumerate(sorted(location_at.values(), key=lambda p: p.start))}
    j, limit = i, i + 6
    while j < min(limit, len(words)):
        found: list[tuple[str, int]] = []
        if j in location_at:
            found.append(("place", order[id(location_at[j])]))
        if j in mention_at:
            found.append(("thing", mention_at[j]))
        if found:
            return found
        j += 1
        if j < len(words) and words[j] in _BETWEEN_SIDES and _side_follows(words, j + 1, location_at, mention_at):
            j += 1
            limit += 3
        elif j < len(words) and words[j] in _BETWEEN_SIDES and words[j + 1 : j + 2] and words[j + 1] in _DIRECTIONS:
            j, limit = j + 1, limit + 2  # "bilateral superior and inferior pubic rami"
        elif j < len(words) and words[j] in _BETWEEN_RIBS and words[j + 1 : j + 2] and rib_number(words, j + 1):
            limit += 3  # "left 2nd, 3rd and 5th ribs"
        elif j < len(words) and words[j] in lexicon.words["boundary"]:
            return None
    return None


def _compared(words: list[str], i: int, lexicon: Lexicon) -> bool:
    """Whether it is a side of "left greater than right": both are meant."""
    for first, second in ((i, i + 3), (i - 3, i)):
        if first < 0 or second >= len(words) or words[second - 1] != "than":
            continue
        if words[first + 1] in lexicon.words["comparing"] and words[first] in SIDES and words[second] in SIDES:
            return True
    return False


def _fronted(words: list[str], i: int, lexicon: Lexicon) -> bool:
    """ "On the left there is ..." and "The left shows ...": the side is of what follows."""
    after = words[i + 1 : i + 2]
    if i == 0:
        return bool(after) and after[0] in lexicon.words["verb"]
    opens = words[i - 1] == "on" and (i == 1 or words[i - 2] in (",", ";", "and", "but"))
    return opens and bool(after) and (after[0] in ("there", ",", ":") or after[0] in lexicon.words["verb"])


def _first_after(
    i: int, locations: Sequence[Location], mentions: Sequence[tuple[int, int]]
) -> list[tuple[str, int]] | None:
    """The first name behind a side that can take it: a place, else each finding."""
    sidable = next((n for n, location in enumerate(locations) if location.start > i and location.sidable), None)
    if sidable is not None:
        return [("place", sidable)]
    return [("thing", n) for n, (start, _) in enumerate(mentions) if start > i] or None


def _side_follows(words: list[str], start: int, location_at: dict[int, Location], mention_at: dict[int, int]) -> bool:
    """ "right and small left effusions": the other side of the same name comes within three words."""
    for j in range(start, min(start + 3, len(words))):
        if words[j] in SIDES:
            return True
        if j in location_at or j in mention_at or not words[j].isalpha():
            return False
    return False


def other_sides(
    words: list[str], locations: list[Location], lexicon: Lexicon, homes: Sequence[tuple[int, str]] = ()
) -> list[Location]:
    """ "The right kidney is normal, the left is small": a side that stands for the organ named before."""
    inside = {i for location in locations for i in range(location.start, location.end)}
    found: list[Location] = []
    for i, word in enumerate(words):
        if SIDES.get(word) not in ("left", "right") or i in inside or i == 0:
            continue
        after = i + 2 if words[i + 1 : i + 2] and words[i + 1] in ("side", "one") else i + 1
        stands = after < len(words) and (
            words[after] in lexicon.words["verb"] or words[after] in lexicon.words["state"]
        )
        if not stands or words[i - 1] in ("on", "in", "at", "to"):
            continue
        named = [(p.end, p.where) for p in locations if p.end <= i]
        named += [(end, lexicon.where(home)) for end, home in homes if end <= i]
        pairs = [(end, lexicon.pair_of(where)) for end, where in named]
        _, where = max(((end, pair) for end, pair in pairs if pair), key=lambda known: known[0], default=(0, None))
        if where is not None:
            found.append(Location(i, i + 1, where, {SIDES[word]}, elliptic=True))
    return found


def _named_behind(
    words: list[str], i: int, locations: Sequence[Location], mentions: Sequence[tuple[int, int]], lexicon: Lexicon
) -> list[tuple[str, int]] | None:
    ends = [
        (location.end, "place", n) for n, location in enumerate(locations) if location.end <= i and location.sidable
    ]
    ends += [(end, "thing", n) for n, (_, end) in enumerate(mentions) if end <= i]
    if not ends:
        return None
    _, kind, key = max(ends)
    found = [(kind, key)]
    if kind == "place" and locations[key].level and words[i - 1] == "on":  # "of L2, L3 and L4 on the left"
        while (
            key > 0
            and locations[key - 1].level
            and not set(words[locations[key - 1].end : locations[key].start]) - _LISTED
        ):
            key -= 1
            found.append((kind, key))
        return found
    last = mentions[key][0] if kind == "thing" else locations[key].start
    for n in range(len(mentions) - 1, -1, -1):  # "a stone, hydronephrosis and stranding on the left"
        start, end = mentions[n]
        if end > last or words[i - 1] != "on":
            continue
        between = words[end:last]
        apart = [w for w in between if w in lexicon.words["boundary"] and w not in (",", "and", "or")]
        if apart or not {",", "and", "or"} & set(between) or any(w in SIDES for w in between):
            break
        found.append(("thing", n))
        last = start
    return found
