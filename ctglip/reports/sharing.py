"""Names that share their last words: "ascending and descending aorta", "epidural or subdural bleed"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctglip.reports.trie import Match, Trie
from ctglip.reports.where import SIDES

JOINTS = frozenset({"and", "or", ",", "/", "nor"})


def elided(words: Sequence[str], hit: Match, covered: set[int], locations: Trie) -> Iterator[Match]:
    """Names that share their last words with a place: "ascending" in "ascending and descending aorta"."""
    rest = tuple(words[hit.start + 1 : hit.end])
    i = hit.start - 1
    if i < 0 or words[i] in SIDES:
        return  # "right main pulmonary artery"
    while rest and i >= 0:
        if words[i] in JOINTS:
            i -= 1
            continue
        where = locations.get((words[i], *rest)) if i not in covered else None
        if where is None:
            return
        yield Match(i, i + 1, where)
        i -= 1


def sharing(words: Sequence[str], hit: Match, covered: set[int], seen: Trie, locations: Trie) -> Iterator[Match]:
    """Adjectives before a finding that share its last words: "epidural" in "epidural or subdural bleed"."""
    i = hit.start - 1
    while i > 0 and words[i] in JOINTS:
        i -= 1
        endings = (tuple(words[k : hit.end]) for k in range(hit.start + 1, hit.end))
        known = next((seen.get((words[i], *rest)) for rest in endings if seen.get((words[i], *rest))), None)
        location = locations.get((words[i],))
        if known is None or i in covered or (location is not None and not location.adjective):
            return
        yield Match(i, i + 1, known)
        i -= 1
        while i > 0 and words[i] in JOINTS and words[i - 1] in JOINTS:
            i -= 1
