"""Names that share their last words: "ascending and descending aorta", "epidural or subdural bleed"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctglip.reports.mentions import SIDES
from ctglip.reports.trie import Trie, TrieMatch

JOINTS = frozenset({"and", "or", ",", "/", "nor"})


def elided(words: Sequence[str], hit: TrieMatch, covered: set[int], locations: Trie) -> Iterator[TrieMatch]:
    """Names that share their last words with a location: "ascending" in "ascending and descending aorta"."""
    rest = tuple(words[hit.start + 1 : hit.end])
    i = hit.start - 1
    if words[i] in SIDES:
        return  # "right main pulmonary artery"
    while rest and i >= 0:
        if words[i] in JOINTS:
            i -= 1
            continue
        term = locations.get((words[i], *rest)) if i not in covered else None
        if term is None:
            return
        yield TrieMatch(i, i + 1, term)
        i -= 1


def sharing(
    words: Sequence[str], hit: TrieMatch, covered: set[int], concepts: Trie, locations: Trie
) -> Iterator[TrieMatch]:
    """Adjectives before a finding that share its last words: "epidural" in "epidural or subdural bleed"."""
    i = hit.start - 1
    while i > 0 and words[i] in JOINTS:
        i -= 1
        endings = (tuple(words[k : hit.end]) for k in range(hit.start + 1, hit.end))
        known = next((concepts.get((words[i], *rest)) for rest in endings if concepts.get((words[i], *rest))), None)
        location = locations.get((words[i],))
        if known is None or i in covered or (location is not None and not location.adjective):
            return
        yield TrieMatch(i, i + 1, known)
        i -= 1
        while i > 0 and words[i] in JOINTS and words[i - 1] in JOINTS:
            i -= 1
