"""Which name of a sentence a side word belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.text.lexicon import Lexicon
from ctglip.text.place import Place
from ctglip.text.ribs import rib_number
from ctglip.text.where import SIDES

_BETWEEN_RIBS = ("and", "or", "to", "/", ",", "through")
_DIRECTIONS = frozenset(
    {"superior", "inferior", "anterior", "posterior", "upper", "lower", "medial", "lateral", "middle"}
)
_LISTED = frozenset({",", "and", "or"})
_BETWEEN_SIDES = ("and", "or", "to", "/", ",")


def give_sides(
    words: list[str], places: Sequence[Place], things: Sequence[tuple[int, int]], lexicon: Lexicon
) -> dict[int, set[str]]:
    """Each side word goes to the name it stands in front of, else to the nearest name before it."""
    given: dict[int, set[str]] = {}
    if SIDES.keys().isdisjoint(words):
        return given
    inside = {i for place in places for i in range(place.start, place.end)}
    elliptic = {place.start for place in places if place.elliptic}
    place_at = {place.start: place for place in places}
    thing_at = {start: n for n, (start, _) in enumerate(things)}
    for i, word in enumerate(words):
        side = SIDES.get(word)
        if side is None or (i in inside and word not in ("both", "bilateral")):
            continue
        holder = next((p for p in places if p.start < i < p.end and p.sidable), None) if i in inside else None
        if holder is not None:
            holder.sides.add(side)  # "parenchyma of both lungs"
            continue
        if word == "two" and i + 1 not in place_at:
            continue  # "two nodules" are not on two sides
        compared = _compared(words, i, lexicon)
        before = [w for w in words[max(0, i - 3) : i] if w in lexicon.words["comparing"]]
        if not compared and before and words[max(0, i - 4) : i].count("other") == 0:
            continue
        if i in elliptic or (i > 1 and words[i - 1] == "on" and words[i - 2] in ("none", "nil")):
            continue
        if _fronted(words, i, lexicon):
            owner = _first_after(i, places, things)
        else:
            owner = _named_ahead(words, i, place_at, thing_at, lexicon) or _named_behind(
                words, i, places, things, lexicon
            )
        if compared and owner is None:
            owner = _named_ahead(words, min(i + 3, len(words) - 1), place_at, thing_at, lexicon)
        for kind, key in owner or ():
            if kind == "place":
                _add_side(places[key], side, lexicon)
            else:
                given.setdefault(key, set()).add(side)
    return given


def _add_side(place: Place, side: str, lexicon: Lexicon) -> None:
    """One more side of a place; "right and left pleural" is both."""
    own = lexicon.organs[place.where.organ].side if place.where.organ else None
    pair = lexicon.pair_of(place.where)
    if own and own != side and pair is not None:
        place.where, place.sides = pair, {own}
    place.sides.add(side)


def _named_ahead(
    words: list[str], i: int, place_at: dict[int, Place], thing_at: dict[int, int], lexicon: Lexicon
) -> list[tuple[str, int]] | None:
    order = {id(place): n for n, place in enumerate(sorted(place_at.values(), key=lambda p: p.start))}
    j, limit = i, i + 6
    while j < min(limit, len(words)):
        found: list[tuple[str, int]] = []
        if j in place_at:
            found.append(("place", order[id(place_at[j])]))
        if j in thing_at:
            found.append(("thing", thing_at[j]))
        if found:
            return found
        j += 1
        if j < len(words) and words[j] in _BETWEEN_SIDES and _side_follows(words, j + 1, place_at, thing_at):
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


def _first_after(i: int, places: Sequence[Place], things: Sequence[tuple[int, int]]) -> list[tuple[str, int]] | None:
    """The first name behind a side that can take it: a place, else each finding."""
    sidable = next((n for n, place in enumerate(places) if place.start > i and place.sidable), None)
    if sidable is not None:
        return [("place", sidable)]
    return [("thing", n) for n, (start, _) in enumerate(things) if start > i] or None


def _side_follows(words: list[str], start: int, place_at: dict[int, Place], thing_at: dict[int, int]) -> bool:
    """ "right and small left effusions": the other side of the same name comes within three words."""
    for j in range(start, min(start + 3, len(words))):
        if words[j] in SIDES:
            return True
        if j in place_at or j in thing_at or not words[j].isalpha():
            return False
    return False


def other_sides(
    words: list[str], places: list[Place], lexicon: Lexicon, homes: Sequence[tuple[int, str]] = ()
) -> list[Place]:
    """ "The right kidney is normal, the left is small": a side that stands for the organ named before."""
    inside = {i for place in places for i in range(place.start, place.end)}
    found: list[Place] = []
    for i, word in enumerate(words):
        if SIDES.get(word) not in ("left", "right") or i in inside or i == 0:
            continue
        after = i + 2 if words[i + 1 : i + 2] and words[i + 1] in ("side", "one") else i + 1
        stands = after < len(words) and (
            words[after] in lexicon.words["verb"] or words[after] in lexicon.words["state"]
        )
        if not stands or words[i - 1] in ("on", "in", "at", "to"):
            continue
        named = [(p.end, p.where) for p in places if p.end <= i]
        named += [(end, lexicon.where(home)) for end, home in homes if end <= i]
        pairs = [(end, lexicon.pair_of(where)) for end, where in named]
        _, where = max(((end, pair) for end, pair in pairs if pair), key=lambda known: known[0], default=(0, None))
        if where is not None:
            found.append(Place(i, i + 1, where, {SIDES[word]}, elliptic=True))
    return found


def _named_behind(
    words: list[str], i: int, places: Sequence[Place], things: Sequence[tuple[int, int]], lexicon: Lexicon
) -> list[tuple[str, int]] | None:
    ends = [(place.end, "place", n) for n, place in enumerate(places) if place.end <= i and place.sidable]
    ends += [(end, "thing", n) for n, (_, end) in enumerate(things) if end <= i]
    if not ends:
        return None
    _, kind, key = max(ends)
    found = [(kind, key)]
    if kind == "place" and places[key].level and words[i - 1] == "on":  # "of L2, L3 and L4 on the left"
        while key > 0 and places[key - 1].level and not set(words[places[key - 1].end : places[key].start]) - _LISTED:
            key -= 1
            found.append((kind, key))
        return found
    last = things[key][0] if kind == "thing" else places[key].start
    for n in range(len(things) - 1, -1, -1):  # "a stone, hydronephrosis and stranding on the left"
        start, end = things[n]
        if end > last or words[i - 1] != "on":
            continue
        between = words[end:last]
        apart = [w for w in between if w in lexicon.words["boundary"] and w not in (",", "and", "or")]
        if apart or not {",", "and", "or"} & set(between) or any(w in SIDES for w in between):
            break
        found.append(("thing", n))
        last = start
    return found
