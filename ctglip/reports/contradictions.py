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
    that exclude each other, or a finding in an organ that is called normal. An organ that is normal, or
    without an abnormality, has no such parts either, but for those that the same sentence names.

    Args:
        text: of the passage.
        organ: name in the dictionary.
        parser: with the dictionaries.
    """
    found: list[CheckedSentence] = []
    sound: list[Finding] = []
    for _, several in groupby(parser.parse(Report(findings=text)), key=lambda row: row.sentence_index):
        rows = tuple(several)
        fault = _misplaced(rows, organ, parser) or _against((*sound, *rows), parser)
        found.append(CheckedSentence(rows[0].sentence, rows, fault))
        sound += () if fault else rows
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


def _against(findings: Sequence[Finding], parser: ReportParser) -> str:
    """What findings about one organ contradict in each other; what is denied of an organ is denied of its parts."""
    organs, abnormalities = parser.lexicon.organs, parser.lexicon.abnormalities
    affirmed: set[tuple[str, str]] = set()
    denied: set[tuple[str, str]] = set()
    normal: set[str] = set()
    affirming = {row.sentence_index for row in findings if row.abnormality and row.status == "affirmed"}
    for row in findings:
        named = set(organs_named(row, organs))
        covered = named.union(*map(organs.parts_of, named))
        if row.status == "normal":
            normal |= named if row.sentence_index in affirming else covered  # "clear except for a nodule in a lobe"
        elif row.abnormality and row.status == "affirmed":
            affirmed |= {(name, row.abnormality) for name in named}
        elif row.abnormality and row.status == "negated":
            denied |= {(name, row.abnormality) for name in covered}
    for organ, abnormality in sorted(affirmed):
        display = abnormalities[abnormality].display
        if (organ, abnormality) in denied:
            return f"{display} is affirmed and denied"
        if organ in normal:
            return "the organ is called normal beside a finding"
        rivals = (one for one in abnormalities[abnormality].mutually_exclusive if (organ, one) in affirmed)
        if (other := next(rivals, None)) is not None:
            return f"{display} and {abnormalities[other].display} exclude each other"
    return ""
