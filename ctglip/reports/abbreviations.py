"""Abbreviations and what they stand for.

``abbreviations.yaml`` says it. One that means one thing is another phrase for it. One that means other things too is
read by the words beside it: where they allow it, its words are replaced by what it stands for; elsewhere it stays.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.files import read_yaml
from ctglip.reports.mentions import SIDES, Concept
from ctglip.reports.trie import Trie
from ctglip.reports.words import normal_form, phrase

_FILE = Path(__file__).with_name("abbreviations.yaml")


class Abbreviation(Settings):
    """One abbreviation.

    Attributes:
        means: the words it stands for, as the dictionaries or the cues have them.
        finding: the abnormality that it names.
        organ: the organ that it names.
        unless: words of the sentence beside which it means something else.
        only_with: words of the sentence of which one must stand beside it.
        exact: other letters in the same order are another word ("TIPS" and "tips"): capitals count.
    """

    means: str
    finding: str | None = None
    organ: str | None = None
    unless: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    exact: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is read the same wherever it stands."""
        return not (self.unless or self.only_with or self.exact)


class AbbreviationFile(Settings):
    """``abbreviations.yaml``.

    ``compounds`` are words for two findings at once, ``written_out`` for two words, ``slips`` words typed wrongly,
    ``left_out`` tells why an abbreviation is not read.
    """

    version: int = 1
    abbreviations: dict[str, Abbreviation]
    compounds: dict[str, tuple[str, str]] = Field(default_factory=dict)
    written_out: dict[str, str] = Field(default_factory=dict)
    slips: dict[str, str] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


def load_abbreviations() -> AbbreviationFile:
    """Read the shipped abbreviations."""
    return validate(AbbreviationFile, read_yaml(_FILE), str(_FILE))


class Expansion:
    """Replaces abbreviations by the words that they stand for.

    Args:
        abbreviations: text to abbreviation.
        unchanged: abbreviations that stay as they are, though a part of them is one of the others ("L-spine").
    """

    def __init__(self, abbreviations: Mapping[str, Abbreviation], unchanged: Iterable[str] = ()) -> None:
        self._found = Trie()
        self._exact: set[str] = set()
        capitals = {text for text, entry in abbreviations.items() if entry.exact and text.isupper()}
        for text, entry in abbreviations.items():
            value = (
                phrase(entry.means),
                frozenset(word for near in entry.unless for word in phrase(near)),
                frozenset(word for near in entry.only_with for word in phrase(near)),
            )
            if entry.exact:
                spellings = {text} if text[:-1].isupper() else {text, text.capitalize(), text.upper()}
                self._exact |= spellings
                for spelling in spellings:
                    self._found.add((spelling,), value)
            else:
                self._add(phrase(text), value, capitals)
        for text in unchanged:
            self._add(phrase(text), (phrase(text), frozenset(), frozenset()), capitals)

    def _add(self, words: Sequence[str], value: Any, capitals: set[str]) -> None:
        self._found.add(words, value)
        self._found.add([word.upper() if word.upper() in capitals else word for word in words], value)

    def is_exact(self, token: str) -> bool:
        """Whether a word of a text is an abbreviation as it is spelled."""
        return token in self._exact

    def apply(self, words: list[str], tied: frozenset[int]) -> tuple[list[str], frozenset[int]]:
        """The words with abbreviations replaced, and the indices of those tied to the word before, moved along."""
        found = self._found.find(words)
        if not found:
            return words, tied
        around = frozenset(words)
        out: list[str] = []
        moved: dict[int, int] = {}
        mentions = {hit.start: hit for hit in found}
        i = 0
        while i < len(words):
            moved[i] = len(out)
            hit = mentions.get(i)
            if hit is None:
                out.append(normal_form(words[i]) if words[i] in self._exact else words[i])
                i += 1
                continue
            means, unless, only_with = hit.value
            fits = unless.isdisjoint(around) and (not only_with or not only_with.isdisjoint(around))
            written = words[i : hit.end]
            put = means if fits else [normal_form(word) if word in self._exact else word for word in written]
            if len(put) == len(written):
                moved |= {i + k: len(out) + k for k in range(len(put))}
            out += put
            i = hit.end
        return out, frozenset(moved[i] for i in tied if i in moved)


def add_abbreviations(concepts: Trie, locations: Trie, findings: Container[str], organs: Container[str]) -> Expansion:
    """Take the shipped abbreviations into the phrases of findings and of organs.

    Those that mean one thing become phrases for it; the others, and those of several things, are replaced in the text.
    What names an entry that the dictionaries do not hold is left out.

    Args:
        concepts: phrases of findings.
        locations: phrases of organs.
        findings: names of abnormalities.
        organs: names of organs.
    """
    data = load_abbreviations()
    replaced = {text: Abbreviation(means=means) for text, means in (data.slips | data.written_out).items()}
    unchanged: list[str] = []
    for text, entry in data.abbreviations.items():
        if (entry.finding and entry.finding not in findings) or (entry.organ and entry.organ not in organs):
            continue
        trie = concepts if entry.finding else locations
        if text.isupper() and entry.finding:
            replaced[f"{text}s"] = entry.model_copy(update={"exact": True})  # "PEs"
        sided = entry.organ and not SIDES.keys().isdisjoint(phrase(entry.means)) and not _sided(entry.organ)
        named = entry.plain and (entry.finding or entry.organ) and not sided
        meaning = (trie.get(phrase(text)) or trie.get(phrase(entry.means))) if named else None
        if meaning is None:
            replaced[text] = entry
        else:
            trie.add(phrase(text), meaning)
            unchanged.append(text)
    return Expansion(replaced, [text for text in unchanged if len(phrase(text)) > 1])


def _sided(organ: str) -> bool:
    return not {"left", "right"}.isdisjoint(organ.split("_"))


def add_compounds(concepts: Trie, findings: Container[str]) -> dict[tuple[str, ...], str]:
    """Take words for two findings at once into the phrases; the second finding of each, by the word's normal form."""
    second: dict[tuple[str, ...], str] = {}
    for text, names in load_abbreviations().compounds.items():
        if all(name in findings for name in names):
            concepts.add(phrase(text), Concept("abnormality", names[0]), replace=True)
            second[phrase(text)] = names[1]
    return second
