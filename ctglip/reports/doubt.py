"""What is doubted without a word for it beside it: question marks, alternatives, "rule ... out"."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from ctglip.reports.mentions import Span

_OPENING = frozenset({",", "(", ":", ";"})
_RULING = frozenset({"rule", "ruling"})
_AGAINST = frozenset({"versus", "vs", "v"})
DOUBTING = _RULING | _AGAINST | {"?", "or"}
"""A sentence without any of these words leaves nothing open by itself."""
_NUMBERED = frozenset({"segment", "seg", "grade", "type", "stage", "level", "aast", "iv", "vi", "vii", "viii"})
_FARTHEST = 9
"""Words at most between "rule" and "out"."""


def doubts(
    words: Sequence[str],
    mentions: Sequence[Span],
    clause_of: Callable[[int], Span],
    lists: Mapping[str, frozenset[str]],
) -> list[Span]:
    """Stretches of a sentence that are only thought of."""
    if "v" in words:  # "segments IV, V and VI", "grade V"
        words = ["" if w == "v" and _numeral(words, i) else w for i, w in enumerate(words)]
    found = [span for i, word in enumerate(words) if word == "?" for span in _questioned(words, mentions, clause_of, i)]
    found += _alternatives(words, mentions, clause_of, lists)
    for i, word in enumerate(words):
        if word in _RULING:
            out = next((j for j in range(i + 2, min(i + _FARTHEST, len(words))) if words[j] == "out"), None)
            found += [Span(i, out)] if out is not None else []
    return found


def _numeral(words: Sequence[str], i: int) -> bool:
    """Whether a "v" is a number."""
    near = {*words[max(0, i - 3) : i], *words[i + 1 : i + 3]}
    return not _NUMBERED.isdisjoint(near)


def _questioned(
    words: Sequence[str], mentions: Sequence[Span], clause_of: Callable[[int], Span], at: int
) -> list[Span]:
    """ "metastasis?" asks what stands before, "?appendicitis" what stands behind."""
    start, end = clause_of(at)
    if at == start or words[at - 1] in _OPENING:
        return [Span(at, next((j for j in range(at + 1, end) if words[j] in (",", "?", ";")), end))]
    for j in range(at - 1, start - 1, -1):
        if words[j] == "(" and ")" not in words[j:at]:
            return [Span(j, at)]
        if words[j] in ("(", ",", ";", "?") and any(j <= begin < at for begin, _ in mentions):
            return [Span(j, at)]
    return [Span(start, at)]


def _versus(words: Sequence[str], mentions: Sequence[Span], lists: Mapping[str, frozenset[str]], at: int) -> list[Span]:
    """What stands right before and right behind "versus", whether or not the other side is known."""
    before = max((span for span in mentions if span[1] <= at), default=None)
    behind = min((span for span in mentions if span[0] > at), default=None)
    stretches = (
        (before, words[before[1] : at]) if before else None,
        (behind, words[at + 1 : behind[0]]) if behind else None,
    )
    return [s[0] for s in stretches if s and lists["boundary"].isdisjoint(s[1]) and lists["verb"].isdisjoint(s[1])]


def _alternatives(
    words: Sequence[str],
    mentions: Sequence[Span],
    clause_of: Callable[[int], Span],
    lists: Mapping[str, frozenset[str]],
) -> list[Span]:
    """ "A versus B" and "A or B": neither is sure."""
    if _AGAINST.isdisjoint(words) and "or" not in words:
        return []
    found = [span for at, word in enumerate(words) if word in _AGAINST for span in _versus(words, mentions, lists, at)]
    ordered = sorted(mentions)
    for first, second in itertools.pairwise(ordered):
        between = words[first[1] : second[0]]
        linked = not _AGAINST.isdisjoint(between) or ("or" in between and len(between) < 4)
        if linked and clause_of(first[0]) == clause_of(second[0]):
            others = [w for w in between if w not in _AGAINST and w != "or"]
            if lists["boundary"].isdisjoint(others) and lists["verb"].isdisjoint(others):
                found.append(Span(first.start, second.end))
    return found
