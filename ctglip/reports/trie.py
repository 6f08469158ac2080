"""Many phrases looked up at once: the longest that begins at each word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple


class TrieMatch(NamedTuple):
    """A phrase found in a sentence: words ``start`` to ``end`` (half-open) and its meaning."""

    start: int
    end: int
    value: Any


class Trie:
    """Phrases to meanings; ``find`` gives the longest match at each place, left to right, without overlap.

    Words of ``skipped`` are read over inside a phrase.
    """

    def __init__(self) -> None:
        self._root: dict[Any, Any] = {}
        self.words: set[str] = set()
        self.skipped: frozenset[str] = frozenset()

    def add(self, words: Sequence[str], value: Any, replace: bool = False) -> None:
        """Store a phrase; the first meaning stays unless told otherwise. Empty phrases are ignored."""
        if not words:
            return
        node = self._root
        for word in words:
            node = node.setdefault(word, {})
        if replace or None not in node:
            node[None] = value
        self.words.update(words)

    def get(self, words: Sequence[str]) -> Any:
        """The meaning of exactly this phrase, or None."""
        node = self._root
        for word in words:
            node = node.get(word)
            if node is None:
                return None
        return node.get(None)

    def find(self, words: Sequence[str]) -> list[TrieMatch]:
        """All longest matches in order."""
        root, skipped = self._root, self.skipped
        found: list[TrieMatch] = []
        count, taken = len(words), 0
        for i in compress(range(count), map(root.__contains__, words)):
            if i < taken:
                continue
            node, j = root[words[i]], i + 1
            end, value = (j, node[None]) if None in node else (0, None)
            while j < count:
                word = words[j]
                j += 1
                if word in node:
                    node = node[word]
                    if None in node:
                        end, value = j, node[None]
                elif word not in skipped:
                    break
            if end:
                found.append(tuple.__new__(TrieMatch, (i, end, value)))  # half the time of TrieMatch()
                taken = end
        return found
