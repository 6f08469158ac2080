"""Slips of one letter: "siliding", "plural effusin", found again among the words that the parser knows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

LEAST = 7
"""Words shorter than this are mended with more care: too many of them are one letter apart."""
SHORTEST = 4
"""Words shorter than this are left as they are."""


class Spelling:
    """Known words, and the one that a long unknown word must have been meant to be.

    Two words are one slip apart when they become equal by leaving out at most one letter of each at the same place or
    by exchanging neighbours. A word with two such readings, or another first letter, is left as it is.

    Args:
        words: every word of the phrases, in normal form.
        spelled: words that stand in no phrase and are right all the same.
        short: short words that slips are mended to: names, not words around them.
    """

    def __init__(self, words: Iterable[str], spelled: Iterable[str] = (), short: Iterable[str] = ()) -> None:
        words = frozenset(words)
        self._known = words | frozenset(spelled)
        self._shortened: dict[str, set[str]] = {}
        for word in words:
            if len(word) >= LEAST and word.isalpha():
                for part in _shortened(word):
                    self._shortened.setdefault(part, set()).add(word)
        self._omitted: dict[str, set[str]] = {}
        self._short = frozenset(short)
        for word in self._short:
            if SHORTEST < len(word) < LEAST + 1 and word.isalpha():
                for i in range(1, len(word) - 1):
                    self._omitted.setdefault(word[:i] + word[i + 1 :], set()).add(word)
        self.correct = lru_cache(maxsize=65_536)(self._correct)

    def _correct(self, word: str) -> str:
        if word in self._known or not word.isalpha():
            return word
        if len(word) < LEAST:
            return self._correct_short(word)
        if word.endswith("it") and f"{word}is" in self._known:  # "appendicits", singular
            return f"{word}is"
        near = {known for short in _shortened(word) for known in self._shortened.get(short, ())}
        near = {known for known in near if known[0] == word[0] and _one_slip(word, known)}
        return near.pop() if len(near) == 1 else word

    def _correct_short(self, word: str) -> str:
        """A short word with a letter left out, or with two exchanged; never one with another letter."""
        if len(word) < SHORTEST:
            return word
        near = set(self._omitted.get(word, ()))
        swapped = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
        near |= {other for other in swapped if other in self._short and len(other) > SHORTEST}
        return near.pop() if len(near) == 1 else word


def _shortened(word: str) -> set[str]:
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def _one_slip(a: str, b: str) -> bool:
    """At most one letter left out, put in, replaced, or exchanged with its neighbour."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    if len(a) == len(b):
        return rest_a[1:] == rest_b[1:] or (rest_a[2:] == rest_b[2:] and rest_a[:2] == rest_b[1::-1])
    return rest_a[1:] == rest_b if len(a) > len(b) else rest_a == rest_b[1:]
