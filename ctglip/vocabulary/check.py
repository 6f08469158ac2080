"""Does a pair of dictionaries make sense? Everything that is wrong with it at once, in words a person can act on."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctglip.errors import CTGLIPError
from ctglip.resources import resource
from ctglip.types import Finding, Status
from ctglip.vocabulary.abnormalities import Abnormality, AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs, normalise
from ctglip.vocabulary.prompts import PLACEHOLDERS, fill, negative_prompts, positive_prompts
from ctglip.vocabulary.sources import load_sources, unknown_targets

SentenceReader = Callable[[str], Sequence[Finding]]
"""Reads one sentence, as a report parser does."""

FEWEST_PHRASINGS = 3
_DENIAL = re.compile(r"\b(no|not|without|free of|absence of|absent|neither|nor)\b")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        entry: organ or abnormality, or the file when it cannot be read at all.
        what: what is wrong and what to do about it.
        severity: an ``error`` breaks what relies on the dictionaries, a ``warning`` weakens it.
    """

    entry: str
    what: str
    severity: Literal["error", "warning"] = "error"


def check_dictionaries(
    organs_path: Path | None = None, abnormalities_path: Path | None = None, reader: SentenceReader | None = None
) -> tuple[Fault, ...]:
    """Check two dictionary files, by default the shipped ones.

    Args:
        organs_path: an ``organs.yaml``.
        abnormalities_path: an ``abnormalities.yaml`` that refers to it.
        reader: a report parser; with one, every phrasing must be read back with the right status.

    Returns:
        All problems; a file that cannot be loaded (bad YAML, an unknown field or name, a cycle) is a single one.
    """
    try:
        organs = load_organs(organs_path)
        abnormalities = load_abnormalities(abnormalities_path, organs)
    except CTGLIPError as error:
        return (Fault(str(abnormalities_path or organs_path or "dictionary"), str(error)),)
    return (
        *check_organs(organs),
        *check_abnormalities(abnormalities, organs),
        *check_sources(abnormalities_path, abnormalities, organs),
        *(read_back(abnormalities, organs, reader) if reader else ()),
    )


def check_organs(organs: OrganDictionary) -> tuple[Fault, ...]:
    """Clashing words, organs of no group, sides that contradict each other."""
    words = ((phrase, o.name) for o in organs.organs.values() for phrase in (*o.phrases, *o.adjectives))
    return (*_clashes(words, "organ"), *_lonely_organs(organs), *_wrong_sides(organs))


def check_abnormalities(abnormalities: AbnormalityDictionary, organs: OrganDictionary) -> tuple[Fault, ...]:
    """Clashing words, unknown placeholders, phrasings that say the wrong thing, contradictions in the hierarchy."""
    entries = abnormalities.abnormalities.values()
    words = ((phrase, entry.name) for entry in entries for phrase in entry.phrases)
    sentences = ((s, entry.name) for entry in entries for s in dict.fromkeys((*entry.positive, *entry.negative)))
    return (
        *_clashes(words, "abnormality"),
        *_organ_words(abnormalities, organs),
        *_clashes(sentences, "abnormality"),
        *(problem for entry in entries for problem in _phrasings(entry, organs)),
        *(problem for entry in entries for problem in _contradictions(entry, abnormalities)),
    )


def check_sources(
    abnormalities_path: Path | None, abnormalities: AbnormalityDictionary, organs: OrganDictionary
) -> tuple[Fault, ...]:
    """Entries that a ``sources.yaml`` beside the abnormality dictionary names and the dictionaries do not hold."""
    path = (abnormalities_path or resource("abnormality_dictionary", "abnormalities.yaml")).parent / "sources.yaml"
    if not path.is_file():
        return ()
    try:
        unknown = unknown_targets(load_sources(path), organs, abnormalities)
    except CTGLIPError as error:
        return (Fault(str(path), str(error)),)
    return tuple(
        Fault(path.name, f"{name}: {item!r} is mapped to {target!r}, which is not there.")
        for name, item, target in unknown
    )


def read_back(
    abnormalities: AbnormalityDictionary, organs: OrganDictionary, reader: SentenceReader
) -> tuple[Fault, ...]:
    """Phrasings that a parser does not read back as what they say, each about the first organ that can be named."""
    found: list[Fault] = []
    for entry in abnormalities.abnormalities.values():
        organ = organs[
            next((first_organ for first_organ in entry.organs if first_organ != "body"), entry.default_organ)
        ]
        meant = {entry.name, abnormalities.specialise(entry.name, organ.name)}
        expected: tuple[tuple[Status, tuple[str, ...]], ...] = (
            ("affirmed", positive_prompts(entry, organ)),
            ("negated", negative_prompts(entry, organ)),
        )
        for status, sentences in expected:
            for sentence in sentences:
                rows = reader(sentence)
                found += _findings_beyond(sentence, rows, entry, abnormalities, organs)
                statuses = {row.status for row in rows if row.abnormality in meant}
                if statuses != {status}:
                    read = f"as {', '.join(sorted(statuses))}" if statuses else "as something else"
                    found.append(Fault(entry.name, f"{sentence!r} should be read as {status}, it is read {read}."))
    return tuple(found)


def _findings_beyond(
    sentence: str,
    rows: Iterable[Finding],
    entry: Abnormality,
    abnormalities: AbnormalityDictionary,
    organs: OrganDictionary,
) -> Iterator[Fault]:
    """What a phrasing affirms that nobody who only means the entry has said."""
    meant = abnormalities.related(entry.name)
    for row in rows:
        name, organ = row.abnormality, row.organ
        if row.status != "affirmed" or name is None or organ is None or name in meant:
            continue
        if set(abnormalities[name].phrases).isdisjoint(organs[organ].phrases):  # else only the organ was named
            yield Fault(entry.name, f"{sentence!r} also affirms {name}.", "warning")


def _clashes(words: Iterable[tuple[str, str]], kind: str) -> Iterator[Fault]:
    owners: dict[str, str] = {}
    for word, name in words:
        owner = owners.setdefault(normalise(word), name)
        if owner != name:
            yield Fault(name, f"{word!r} belongs to the {kind} {owner} already.")


def _lonely_organs(organs: OrganDictionary) -> Iterator[Fault]:
    for name, organ in organs.organs.items():
        if organ.group is None:
            yield Fault(name, "It has no group.", "warning")


def _wrong_sides(organs: OrganDictionary) -> Iterator[Fault]:
    for name, organ in organs.organs.items():
        parts = (organs[part] for part in organ.parts) if organ.side else ()
        for part in parts:
            if part.side not in (None, organ.side):
                yield Fault(name, f"It is on the {organ.side}, its part {part.name} on the {part.side}.")
        if organ.side and organ.side not in normalise(organ.display).split():
            yield Fault(name, f"It is on the {organ.side}, its display name {organ.display!r} does not say so.")


def _organ_words(abnormalities: AbnormalityDictionary, organs: OrganDictionary) -> Iterator[Fault]:
    owned = {normalise(p): o.name for o in organs.organs.values() for p in (*o.phrases, *o.adjectives)}
    for entry in abnormalities.abnormalities.values():
        for phrase in entry.phrases:
            owner = owned.get(normalise(phrase))
            if owner not in (None, entry.default_organ):  # where seeing the organ is the finding, they share its name
                yield Fault(entry.name, f"{phrase!r} is what the organ {owner} is called.")


def _phrasings(entry: Abnormality, organs: OrganDictionary) -> Iterator[Fault]:
    unknown = sorted({p for s in (*entry.positive, *entry.negative) for p in _placeholders(s) - PLACEHOLDERS})
    if unknown:
        yield Fault(entry.name, f"Unknown placeholders {unknown}; known are {sorted(PLACEHOLDERS)}.")
        return
    for kind, sentences in (("positive", entry.positive), ("negative", entry.negative)):
        if len(sentences) < FEWEST_PHRASINGS and (entry.positive or entry.negative):  # none at all: the templates'
            yield Fault(entry.name, f"It has {len(sentences)} {kind} phrasings, fewer than three.", "warning")
        for sentence in sentences:
            text = fill(sentence, organs[entry.default_organ], entry).lower()
            if not any(normalise(phrase) in text for phrase in entry.phrases):
                yield Fault(entry.name, f"{sentence!r} holds neither the display name nor a synonym.")
            if bool(_DENIAL.search(_without_phrases(text, entry))) != (kind == "negative"):
                yield Fault(entry.name, f"{sentence!r} stands among the {kind} phrasings but does not read so.")
    if not entry.ct_appearance:
        yield Fault(entry.name, "It does not describe its appearance on CT.", "warning")


def _without_phrases(text: str, entry: Abnormality) -> str:
    """The text without the abnormality's own words: "absent gallbladder" denies nothing."""
    for phrase in sorted((normalise(p) for p in entry.phrases), key=len, reverse=True):
        text = text.replace(phrase, "*")
    return text


def _placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


def _contradictions(entry: Abnormality, abnormalities: AbnormalityDictionary) -> Iterator[Fault]:
    for other in entry.mutually_exclusive:
        if other in abnormalities.related(entry.name):
            yield Fault(entry.name, f"It excludes {other}, which it is a kind of, or the other way round.")
