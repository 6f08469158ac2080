"""Tags of a report: which of a fixed list of findings it affirms, denies, or does not speak of.

The lists (ASG's 40 tags, ECAMP's entities) are ``cxr/tags.yaml``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.cxr import regions
from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.files import read_yaml
from ctglip.reports.parser import get_parser
from ctglip.reports.sentence import Sentence
from ctglip.types import Finding, Status

TagList = Literal["tags", "entities"]
PRESENT, ABSENT, UNSAID = 1, 0, -1
_RANK: dict[Status, int] = {"affirmed": PRESENT, "negated": ABSENT, "normal": ABSENT}
"""What is uncertain or historical counts as unsaid."""


class TagEntry(Settings):
    """One tag: dictionary abnormalities (their kinds included) and words that mean it."""

    abnormalities: tuple[str, ...] = ()
    words: tuple[str, ...] = Field(default=())


@functools.cache
def tag_entries(name: TagList = "tags") -> Mapping[str, TagEntry]:
    """The list ``tags`` (ASG's 40) or ``entities`` (ECAMP's), in its published order."""
    tree = read_yaml(Path(regions.__file__).with_name("tags.yaml"))[name]
    return {tag: validate(TagEntry, fields or {}, f"tags.yaml: {tag}") for tag, fields in tree.items()}


class Tagger:
    """Tags reports; build it once. Sentences are remembered, reports repeat them.

    Args:
        name: which list, ``tags`` or ``entities``.
    """

    def __init__(self, name: TagList = "tags") -> None:
        self.lexicon = get_parser().lexicon
        abnormalities = self.lexicon.abnormalities
        entries = tag_entries(name)
        self.names: tuple[str, ...] = tuple(entries)
        self._kinds: dict[str, list[int]] = {}
        self._words: dict[tuple[str, ...], list[int]] = {}
        for number, entry in enumerate(entries.values()):
            for abnormality in entry.abnormalities:
                for kind in (abnormality, *abnormalities.descendants(abnormality)):
                    self._kinds.setdefault(kind, []).append(number)
            for phrase in entry.words:
                words, _ = self.lexicon.read(phrase)
                self._words.setdefault(tuple(words), []).append(number)
        self._longest = max(map(len, self._words), default=0)
        self._of_sentence = functools.lru_cache(maxsize=20_000)(self._read)

    def tags(self, findings: Iterable[Finding]) -> np.ndarray:
        """int8 ``[tags]``: 1 affirmed anywhere in findings or impression, 0 denied, -1 not mentioned or uncertain."""
        found = np.full(len(self.names), UNSAID, np.int8)
        for row in findings:
            if row.section not in SECTIONS:
                continue
            state = _RANK.get(row.status)
            if row.abnormality is not None and state is not None:
                numbers = self._kinds.get(row.abnormality, [])
                found[numbers] = np.maximum(found[numbers], state)
            for number, state in self._of_sentence(row.sentence):
                found[number] = max(found[number], state)
        return found

    def _read(self, text: str) -> tuple[tuple[int, int], ...]:
        """(tag, state) of the words of one sentence."""
        sentence = Sentence(text, self.lexicon)
        found: list[tuple[int, int]] = []
        for start in range(len(sentence.words)):
            for end in range(start + 1, min(start + self._longest, len(sentence.words)) + 1):
                numbers = self._words.get(tuple(sentence.words[start:end]), ())
                state = _RANK.get(sentence.scopes.assertion(start, end)) if numbers else None
                if state is not None:
                    found += [(number, state) for number in numbers]
        return tuple(found)
