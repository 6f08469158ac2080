"""What the dictionaries contradict in a passage about one organ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ctglip.reports.parser import ReportParser
from ctglip.types import Finding, Report
from ctglip.vocabulary.evidence import organs_named


class CheckedSentence(NamedTuple):
    """A sentence of a passage, what the parser reads in it, and what speaks against it; "" where nothing does."""

    text: str
    findings: tuple[Finding, ...]
    fault: str


def check_passage(text: str, organ: str, parser: ReportParser) -> tuple[CheckedSentence, ...]:
    """The sentences of a passage about an organ.

    A sentence is contradicted where it speaks of another organ or side, names an abnormality that finds no place in the
    organ, says nothing that the dictionaries know, or goes against one before it: the same affirmed and denied, two
    that exclude each other, or a finding in an organ that is called normal.

    Args:
        text: of the passage.
        organ: name in the dictionary.
        parser: with the dictionaries.
    """
    found: list[CheckedSentence] = []
    kept: list[Finding] = []
    for _, several in groupby(parser.parse(Report(findings=text)), key=lambda row: row.sentence_index):
        rows = tuple(several)
        fault = _misplaced(rows, organ, parser) or _against(rows, (*kept, *rows), parser)
        found.append(CheckedSentence(rows[0].sentence, rows, fault))
        kept += () if fault else rows
    return tuple(found)


def first_sound(texts: Sequence[str], organ: str, parser: ReportParser) -> str:
    """The first of several passages in which nothing is contradicted, else what is not contradicted of the first."""
    checked = [check_passage(text, organ, parser) for text in texts]
    for text, sentences in zip(texts, checked, strict=True):
        if not any(one.fault for one in sentences):
            return text
    return " ".join(one.text for one in checked[0] if not one.fault) if checked else ""


def _misplaced(rows: Sequence[Finding], organ: str, parser: ReportParser) -> str:
    organs, abnormalities = parser.lexicon.organs, parser.lexicon.abnormalities
    near = {organ} | organs.parts_of(organ) | organs.containing(organ)
    if all(row.organ is None for row in rows):
        return "nothing in it is known of this organ"
    for row in rows:
        named = organs_named(row, organs)
        entry = abnormalities[row.abnormality] if row.abnormality and row.abnormality in abnormalities else None
        if entry is not None and entry.shared and organ in entry.organs:
            continue
        if other := next((name for name in named if name not in near), None):
            return f"it speaks of the {organs[other].display}"
        if entry is not None and organ not in entry.organs and not set(named) & set(entry.organs):
            return f"there is no {entry.display} of the {organs[organ].display}"
    return ""


def _against(rows: Sequence[Finding], kept: Sequence[Finding], parser: ReportParser) -> str:
    abnormalities = parser.lexicon.abnormalities
    affirmed = {(row.organ, row.abnormality) for row in kept if row.abnormality and row.status == "affirmed"}
    for row in rows:
        key = (row.organ, row.abnormality)
        if row.status == "negated" and key in affirmed:
            return f"{abnormalities[str(row.abnormality)].display} is affirmed and denied"
        if row.status == "normal" and any(one == row.organ for one, _ in affirmed):
            return "the organ is called normal beside a finding"
        if row.status != "affirmed" or not row.abnormality:
            continue
        if any(one.status == "negated" and (one.organ, one.abnormality) == key for one in kept):
            return f"{abnormalities[row.abnormality].display} is affirmed and denied"
        if any(one.status == "normal" and one.organ == row.organ for one in kept):
            return "the organ is called normal beside a finding"
        rivals = set(abnormalities[row.abnormality].mutually_exclusive)
        if other := next((name for one, name in affirmed if one == row.organ and name in rivals), None):
            return f"{abnormalities[row.abnormality].display} and {abnormalities[other].display} exclude each other"
    return ""
