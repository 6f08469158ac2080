"""Entity-centred context (ECAMP): for each entity that a report mentions one short sentence about it.

    Small bilateral effusions, larger than before. No pneumothorax.
    -> "There is small bilateral effusion, increased."   "There is no evidence of pneumothorax."

The sentences are made from findings, so whoever reads reports can distil them: the rule parser, or a language model on
your own machine (``reports.llm``). The published prompt and its answers are not public; sentence form and word lists
are ours, the absent one in the words that ECAMP's masking knows as a template. The entity lists are data: ``cxr`` is
ECAMP's (``cxr/tags.yaml``), ``ct`` ours (``entities.yaml``).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ctglip.config import Settings, validate
from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.files import read_json, read_yaml, write_json
from ctglip.reports.cohort_reports import Reader, by_rules
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.llm import PROMPT_VERSION, LLMParser, LLMSettings
from ctglip.reports.parser import get_parser
from ctglip.reports.sections import split_sections
from ctglip.reports.sentence import Sentence
from ctglip.reports.sentences import split_sentences
from ctglip.reports.tags import TagEntry, tag_entries
from ctglip.reports.trie import Trie
from ctglip.reports.words import phrase
from ctglip.types import Finding, Progress
from ctglip.vocabulary.organs import Organ

VERSION = 1
"""Of the form of the sentences: part of the key that they are kept by."""
_DATA = Path(__file__).with_name("entities.yaml")
_PRESENCE = {"affirmed": 2, "uncertain": 1, "negated": 0, "normal": 0}
_SIDES = ("left", "right")

EntitySentences = dict[str, str]
"""Entity -> its sentence, in the order of the list."""


class EntitySettings(Settings):
    """Which entities are looked for, and who reads the reports.

    Attributes:
        entities: ``cxr`` (ECAMP's 44) or ``ct``.
        llm: a language model on your own machine; the rule parser reads where it is None.
        released: file of sentences that others distilled, by study (``reports.released_sentences``), in place of
            either; studies that it does not name have none.
        cohort: cohort table whose image paths name the studies of that file (MIMIC-CXR).
    """

    entities: Literal["cxr", "ct"] = "cxr"
    llm: LLMSettings | None = None
    released: Path | None = None
    cohort: Path | None = None

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        if self.released is None:
            return {"cohort": "released is not set"}
        return {"llm": "released is set"}


@functools.cache
def entity_entries(name: str) -> Mapping[str, TagEntry]:
    """The list ``cxr`` or ``ct``."""
    if name == "cxr":
        return tag_entries("entities")
    return {entity: validate(TagEntry, fields, f"{_DATA.name}: {entity}") for entity, fields in _data()[name].items()}


def entity_words(name: str) -> frozenset[str]:
    """Single lower-case words that stand for an entity of a list: what entity-aware masking looks for."""
    entries = entity_entries(name)
    return frozenset(w.lower() for entity, entry in entries.items() for w in (entity, *entry.words) if " " not in w)


def entity_templates(name: str) -> list[str]:
    """A sentence of each kind for every entity of a list: words that a vocabulary should know."""
    forms = ("There is {}.", "There may be {}.", "There is no evidence of {}.", "The {} is normal.")
    return [form.format(entity) for entity in entity_entries(name) for form in forms]


@dataclass
class _EntityState:
    """What a report says of one entity; a higher presence overrides a lower one."""

    presence: int = -1
    severity: dict[str, None] = field(default_factory=dict)
    sides: set[str] = field(default_factory=set)
    locations: dict[str, None] = field(default_factory=dict)
    change: dict[str, None] = field(default_factory=dict)

    def add(self, other: _EntityState) -> None:
        """Take in another mention of the same entity: descriptors add up among mentions of the highest presence."""
        if other.presence > self.presence:
            self.presence = other.presence
            self.severity, self.sides, self.locations, self.change = {}, set(), {}, {}
        if other.presence == self.presence:
            self.severity |= other.severity
            self.sides |= other.sides
            self.locations |= other.locations
            self.change |= other.change

    def sentence(self, entity: str) -> str:
        """The short sentence; absent entities have no descriptors."""
        if entity in _data()["anatomy"]:
            words = ("normal",) if self.presence == 0 else (*self.severity, *self.change)
            return f"The {entity} is {' and '.join(words)}." if words else f"The {entity} is described."
        if self.presence == 0:
            return f"There is no evidence of {entity}."
        side = "bilateral" if len(self.sides) == 2 else "".join(self.sides)
        head = " ".join(filter(None, ("There is" if self.presence == 2 else "There may be", *self.severity, side)))
        location = " in the " + " and ".join(list(self.locations)[:2]) if self.locations else ""
        change = ", " + " and ".join(self.change) if self.change else ""
        return f"{head} {entity}{location}{change}."


class EntityContext:
    """Distils reports and keeps what it distilled.

    Args:
        settings: which entities, and who reads.
        folder: where sentences are kept, in JSON files that are written whole and never change; None keeps them in
            memory alone. The key is the text, the list, and what reads it (dictionaries, model, versions).
    """

    def __init__(self, settings: EntitySettings | None = None, folder: Path | None = None) -> None:
        settings = settings or EntitySettings()
        parser = get_parser()
        self.lexicon: Lexicon = parser.lexicon
        self.folder = folder
        self._read: Reader = by_rules
        identity = [VERSION, settings.entities, self.lexicon.organs.hash, self.lexicon.abnormalities.hash]
        if settings.llm is not None:
            self._read = LLMParser(settings.llm, parser).read
            identity += [settings.llm.model, PROMPT_VERSION]
        self.identity = json.dumps(identity)
        self._entries = entries = entity_entries(settings.entities)
        self.entities: tuple[str, ...] = tuple(entries)
        self._kinds = self._narrowest(entries)
        self._named = Trie()
        for entity, entry in entries.items():
            for text in (entity.lower(), *entry.words):
                self._named.add(tuple(self.lexicon.read(text)[0]), entity)
        self._severity, self._change = Trie(), Trie()
        for word in _data()["severity"]:
            self._severity.add(phrase(word), word)
        for change, phrases in _data()["change"].items():
            for text in phrases:
                self._change.add(phrase(text), change)
        self._known: dict[str, EntitySentences] = {}
        for part in sorted(folder.glob("*.json")) if folder and folder.is_dir() else ():
            self._known |= read_json(part)

    def __call__(self, texts: Sequence[str], progress: Progress | None = None) -> list[EntitySentences]:
        """The sentences of some reports: those that are kept, and the others distilled now.

        Args:
            texts: whole reports, or parts of them.
            progress: called with (texts read, texts to read).
        """
        keys = [hashlib.sha256(f"{self.identity}\n{text}".encode()).hexdigest()[:32] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        distilled: dict[str, EntitySentences] = {}
        for done, (key, text) in enumerate(missing.items(), start=1):
            self._known[key], complete = self._distilled(text)
            distilled |= {key: self._known[key]} if complete else {}
            if progress:
                progress(done, len(missing))
        if distilled and self.folder is not None:
            name = hashlib.sha256("".join(sorted(distilled)).encode()).hexdigest()[:16]
            write_json(self.folder / f"{name}.json", distilled)
        return [self._known[key] for key in keys]

    def of(self, findings: Iterable[Finding]) -> EntitySentences:
        """The sentences of a report's findings (rows of any parser)."""
        found: dict[str, _EntityState] = {}
        rows: dict[tuple[int, str], list[Finding]] = {}
        for row in findings:
            if row.section in SECTIONS and row.status != "historical":
                rows.setdefault((row.sentence_index, row.sentence), []).append(row)
        for (_, text), stated in rows.items():
            for entity, mention in self._mentions(text, stated):
                found.setdefault(entity, _EntityState()).add(mention)
        return {entity: found[entity].sentence(entity) for entity in self.entities if entity in found}

    def _narrowest(self, entries: Mapping[str, TagEntry]) -> dict[str, list[str]]:
        """Abnormality -> the entities that name it most narrowly: a consolidation is not an opacity besides."""
        known = self.lexicon.abnormalities
        entity_of = {name: entity for entity, entry in entries.items() for name in entry.abnormalities}
        found: dict[str, list[str]] = {}
        for name in entity_of:
            for kind in (name, *known.descendants(name)):
                narrower = [other for other in entity_of if other in known.descendants(name)]
                if not any(kind == other or kind in known.descendants(other) for other in narrower):
                    found.setdefault(kind, []).append(entity_of[name])
        return found

    def _distilled(self, text: str) -> tuple[EntitySentences, bool]:
        """A text's sentences, and whether they are its reader's (a model that failed is asked again next time)."""
        findings, failure = self._read(split_sections(text), "report")
        return self.of(findings), failure is None

    def _mentions(self, text: str, rows: Sequence[Finding]) -> Iterator[tuple[str, _EntityState]]:
        """What a sentence says of each entity: by its findings, and by its words."""
        sentence = Sentence(text, self.lexicon)
        words = sentence.words
        named = {mention.value: mention for mention in reversed(self._named.find(words))}
        by_row: dict[str, list[Finding]] = {}
        for row in rows:
            for entity in self._kinds.get(row.abnormality or "", ()):
                by_row.setdefault(entity, []).append(row)
        for entity in dict.fromkeys((*by_row, *named)):
            at = named.get(entity)
            start, end = sentence.scopes.clause_of(at.start) if at else (0, len(words))
            status = sentence.scopes.assertion(at.start, at.end) if at else "historical"
            if status == "affirmed" and sentence.scopes.has("normal", start, end):
                status = "normal"
            stated = by_row.get(entity, [])
            presence = max((_PRESENCE.get(row.status, -1) for row in stated), default=_PRESENCE.get(status, -1))
            if presence < 0:
                continue
            clause = words[start:end]
            change = {m.value: None for m in self._change.find(words)}
            severity = {m.value: None for m in self._severity.find(clause)}
            mention = _EntityState(presence, severity, change=change)
            self._locate(mention, entity, stated)
            yield entity, mention

    def _locate(self, mention: _EntityState, entity: str, rows: Sequence[Finding]) -> None:
        """Side and location by the findings; of the default organ the side alone."""
        for row in rows:
            organ = self.lexicon.organs[row.organ] if row.organ else None
            side = organ.side if organ else None
            if row.level:
                mention.locations[f"{side} {row.level}" if side and side not in row.level else row.level] = None
            elif organ and not self._at_default_organ(organ, entity):
                mention.locations[organ.display] = None
            else:
                mention.sides |= {side} if side else set(_SIDES) if row.laterality == "bilateral" else set()

    def _at_default_organ(self, organ: Organ, entity: str) -> bool:
        home = self.lexicon.organs[self.lexicon.abnormalities[self._entries[entity].abnormalities[0]].default_organ]
        return organ == home or (organ.side is not None and organ.name in home.parts)


def with_context(report: str, sentences: Iterable[str], rng: np.random.Generator, chance: float = 0.8) -> str:
    """A report with its entities' sentences put between two of its own (or before or after them), or as it is.

    Args:
        report: the text.
        sentences: of ``EntityContext``.
        rng: draws whether, and term.
        chance: that they are put in (ECAMP: 0.8).
    """
    context = " ".join(sentences)
    if rng.random() >= chance or not context:
        return report
    sentences_of_report = list(split_sentences(report))
    location = int(rng.integers(len(sentences_of_report) + 1))
    return " ".join((*sentences_of_report[:location], context, *sentences_of_report[location:]))


@functools.cache
def _data() -> dict[str, dict[str, dict[str, list[str]]]]:
    return read_yaml(_DATA)
