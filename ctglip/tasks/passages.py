"""What reports say of each organ: one passage an organ, in reading order, and what is true by the parser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ctglip.inference.scoring import Dictionaries
from ctglip.reports.facts import FactReader, ReportFact
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import Finding
from ctglip.vocabulary.evidence import organs_named
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

PassageKey = tuple[str, str]
"""A study and an organ."""


@dataclass(frozen=True)
class Passages:
    """What the reports of some studies say of organs.

    Attributes:
        organs: those that are written about, in reading order.
        texts: each passage.
        affirming: those that affirm something.
        facts: of each report, over ``organs``.
        references: what the sections that are written say, in the report's own words.
    """

    organs: tuple[str, ...]
    texts: Mapping[PassageKey, str]
    affirming: frozenset[PassageKey]
    facts: Mapping[str, frozenset[ReportFact]]
    references: Mapping[str, str]


def read_passages(
    store: Store,
    study_ids: Sequence[str],
    training: Collection[str],
    readable: Collection[str],
    dictionaries: Dictionaries,
    sections: Sequence[str],
    least: int,
) -> Passages:
    """The passages of a store.

    Args:
        study_ids: whose.
        training: the studies of the training split.
        readable: organs that can be read from images.
        sections: in which an organ is looked for, the first that speaks of it.
        least: training passages that an organ needs.
    """
    found = findings_by_study(store, set(study_ids))
    every = FactReader(readable, dictionaries.organs, dictionaries.abnormalities)
    rows = {name: _by_organ(several, every, sections) for name, several in found.items()}
    positions: defaultdict[str, list[float]] = defaultdict(list)
    for name in sorted(training):
        spoken = rows.get(name, {})
        for position, organ in enumerate(spoken):
            positions[organ].append(position / len(spoken))
    usual = {organ: sum(several) / len(several) for organ, several in positions.items() if len(several) >= least}
    organs = tuple(sorted(usual, key=lambda organ: (usual[organ], organ)))
    reader = FactReader(organs, dictionaries.organs, dictionaries.abnormalities)
    texts: dict[PassageKey, str] = {}
    affirming: set[PassageKey] = set()
    for name, several in found.items():
        named = _named_in(several, dictionaries.organs)
        for organ, spoken in _by_organ(several, reader, sections).items():
            if text := _passage(organ, spoken, named, dictionaries):
                texts[name, organ] = text
                if any(row.status == "affirmed" and row.abnormality for row in spoken):
                    affirming.add((name, organ))
    reported = {name: [row for row in several if row.section in sections] for name, several in found.items()}
    facts = {name: reader.facts(several) for name, several in reported.items()}
    return Passages(organs, texts, frozenset(affirming), facts, _references(store, study_ids, sections))


def _by_organ(findings: Sequence[Finding], reader: FactReader, sections: Sequence[str]) -> dict[str, list[Finding]]:
    """The rows about each organ, of the first section that speaks of it, in the order in which organs are spoken of."""
    found: dict[str, list[Finding]] = {}
    for section in sections:
        new: dict[str, list[Finding]] = {}
        for row in findings:
            if row.section == section and row.status != "historical":
                for organ in reader.organs_of(row):
                    new.setdefault(organ, []).append(row)
        found |= {organ: rows for organ, rows in new.items() if organ not in found}
    return found


def _named_in(findings: Iterable[Finding], organs: OrganDictionary) -> dict[int, set[str]]:
    """The organs that each sentence names."""
    named: defaultdict[int, set[str]] = defaultdict(set)
    for row in findings:
        named[row.sentence_index] |= set(organs_named(row, organs))
    return named


def _passage(organ: str, rows: Sequence[Finding], named: Mapping[int, set[str]], dictionaries: Dictionaries) -> str:
    """Sentences that name the organ or its parts alone as they stand, of others what they say of it in the dictionary's
    words."""
    sentences: list[str] = []
    inside = {organ, *dictionaries.organs.parts_of(organ)}
    for number, several in groupby(rows, key=lambda row: row.sentence_index):
        spoken = list(several)
        if named[number] <= inside:
            sentences.append(spoken[0].sentence)
        else:
            sentences += [text for row in spoken if (text := _rendered(row, organ, dictionaries))]
    return " ".join(dict.fromkeys(sentences))


def _rendered(row: Finding, organ: str, dictionaries: Dictionaries) -> str:
    """What a row says of an organ, in the dictionary's words; nothing where it only suspects."""
    entry = dictionaries.organs[organ]
    if row.abnormality is None or row.abnormality not in dictionaries.abnormalities:
        return normal_prompts(entry)[0] if row.status == "normal" else ""
    abnormality = dictionaries.abnormalities[row.abnormality]
    made = {"affirmed": positive_prompts, "negated": negative_prompts}.get(row.status)
    return made(abnormality, entry)[0] if made else ""


def _references(store: Store, study_ids: Sequence[str], sections: Sequence[str]) -> dict[str, str]:
    """The first of the sections that each report has."""
    texts: dict[str, dict[str, str]] = {name: {} for name in study_ids}
    for name, section, text in store.table("reports").select("study_id", "section", "text").iter_rows():
        if name in texts:
            texts[name][section] = text
    return {name: next((texts[name][one] for one in sections if one in texts[name]), "") for name in study_ids}
