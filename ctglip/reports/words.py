"""Words of a report, and one spelling for each word.

Text and dictionary phrases go through the same ``normal_form``, so "Oedemata", "calculi" and "Nodules" meet the
singular American spelling that the dictionaries use.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ctglip.files import read_yaml

SKIPPED = frozenset({"", "the", "a", "an", "-", "‐", "‑", "–", "'", "´", "`", "’"})
"""Words and signs that phrases read over: "lobe of the lung" is "lobe of lung", "ground-glass" is "ground glass"."""
_DEFINITE = frozenset({"the", "this", "these", "those", "that"})
_HYPHENS = frozenset({"-", "‐", "‑", "–"})

_CONTRACTED = re.compile(r"\b(there|that|it|one|here|s?he|they|this)['’](s|re)\b|['’]s(?= been\b)", re.IGNORECASE)
_TOKEN = re.compile(r"[CDLTScdlts]\d{1,2}(?![^\W_])|[^\W\d_]+|\d+(?:[.,]\d+)*|\S")
_PLAIN = re.compile(r"[CDLTScdlts][0-9]{1,2}(?![A-Za-z0-9])|[A-Za-z]+|[0-9]+(?:[.,][0-9]+)*|\S")
"""The same of a text without any sign beyond ASCII, in half the time."""
_DENIED = re.compile(rf"[A-Za-z]+[Nn]['’][Tt]\b|{_TOKEN.pattern}")
_FORMS: dict[str, dict[str, str]] = read_yaml(Path(__file__).with_name("words.yaml"))
_IRREGULAR, _SPELLING = _FORMS["irregular"], tuple(_FORMS["spelling"].items())


class Forms(dict[str, str]):
    """Words and their forms, each made once; so many at most, then it begins anew.

    Args:
        make: gives the form of a word.
        most: words kept.
    """

    def __init__(self, make: Callable[[str], str], most: int = 100_000) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, word: str) -> str:
        if len(self) >= self._most:
            self.clear()
        form = self[word] = self._make(word)
        return form


def read_words(text: str, form: Callable[[str], str] | None = None) -> tuple[list[str], frozenset[int]]:
    """The words and signs of a text in order, articles and hyphens left out.

    Args:
        text: one sentence or phrase.
        form: what makes a word's form, ``normal_form`` by default.

    Returns:
        the words, and the indices of those that a hyphen ties to the word before ("L1-L3").
    """
    form = form or normal_form
    forms = list(map(form, _tokens(text)))
    words = [word for word in forms if word not in SKIPPED]
    if _HYPHENS.isdisjoint(forms):
        return words, frozenset()
    tied: list[int] = []
    count = 0
    for word in forms:
        if word not in SKIPPED:
            count += 1
        elif word in _HYPHENS:
            tied.append(count)
    return words, frozenset(tied)


def _tokens(text: str) -> list[str]:
    """The words and signs of a text, "there's" and "gallbladder's been" with their verbs."""
    if "'" not in text and "’" not in text:
        return (_PLAIN if text.isascii() else _TOKEN).findall(text)
    text = _CONTRACTED.sub(lambda m: f"{m[1]} {'is' if m[2] in 'sS' else 'are'}" if m[1] else " has", text)
    return _DENIED.findall(text)


def definite(text: str, form: Callable[[str], str] | None = None) -> frozenset[int]:
    """Indices, among ``read_words``, of the words right behind "the", "this" and "these"."""
    form = form or normal_form
    found: set[int] = set()
    count, known = 0, False
    for token in _tokens(text):
        word = form(token)
        if word not in SKIPPED:
            if known:
                found.add(count)
            count, known = count + 1, False
        known = known or word in _DEFINITE
    return frozenset(found)


def phrase(text: str) -> tuple[str, ...]:
    """A dictionary phrase as normal forms, to be matched against ``read_words``."""
    return tuple(read_words(text.replace("_", " "))[0])


@lru_cache(maxsize=100_000)
def normal_form(word: str) -> str:
    """Lower case, no accents, American spelling, singular."""
    word = word.lower()
    if word.endswith(("n't", "n’t")):
        return "cannot" if word.startswith("can") else "not"
    if not word.isascii():
        word = word.replace("ı", "i").replace("æ", "ae").replace("œ", "oe")
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    if len(word) < 4 or not word.isalpha():
        return word
    for british, american in _SPELLING:
        if british in word:
            word = word.replace(british, american)
    return _IRREGULAR.get(word) or _singular(word)


def _singular(word: str) -> str:
    if not word.endswith("s") or word.endswith(("ss", "us", "is", "ous")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 5 else word
    if word.endswith(("eases", "phases", "cases")):
        return word[:-1]
    if word.endswith(("ases", "oses", "eses", "yses")):
        return word[:-2] + "is"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1]
