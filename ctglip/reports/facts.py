"""What reports state, as facts that can be compared: (organ, abnormality, status, side), counted over organs that are
read.

RadGraph F1 (Jain et al. 2021) compares reports by the entities that a parser finds in both; here the parser is ours
(``reports.parser``) and an entity is an abnormality of an organ of the dictionary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ctglip.types import Finding, Laterality, Status
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import organs_named
from ctglip.vocabulary.organs import OrganDictionary

_RANK: dict[Status, int] = {"affirmed": 0, "uncertain": 1, "negated": 2, "normal": 3}
"""Of a report that says several things of one abnormality of an organ the first counts; history is no finding."""
_HOLDS_FOR_PARTS = ("negated", "normal")


class ReportFact(NamedTuple):
    """One thing that a report states.

    Attributes:
        organ: one of those that are read.
        abnormality: name in the dictionary; "" where the organ is called normal.
        status: affirmed, uncertain, negated or normal.
        side: of the finding, or of the organ.
    """

    organ: str
    abnormality: str
    status: Status
    side: Laterality | None


class FactReader:
    """Findings as facts about some organs.

    Args:
        read: the organs that reports are written about.
        organs, abnormalities: the dictionaries.
    """

    def __init__(self, read: Collection[str], organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
        self.read, self.organs, self.abnormalities = frozenset(read), organs, abnormalities

    def organs_of(self, row: Finding) -> tuple[str, ...]:
        """The organs that are read of which a finding speaks: itself, or the smallest that holds it; what is denied of
        an organ that is not read itself is denied of its parts. None for what names no side of a pair."""
        found: dict[str, None] = {}
        for name in organs_named(row, self.organs):
            found |= dict.fromkeys(self._lifted(name, row))
        return tuple(found)

    def facts(self, findings: Iterable[Finding]) -> frozenset[ReportFact]:
        """What findings of one report state, one status for each abnormality of an organ."""
        best: dict[tuple[str, str], ReportFact] = {}
        for row in findings:
            if row.status not in _RANK or (row.abnormality is None and row.status != "normal"):
                continue
            for organ in self.organs_of(row):
                side = self.organs[organ].side or row.laterality
                fact, key = ReportFact(organ, row.abnormality or "", row.status, side), (organ, row.abnormality or "")
                if key not in best or _RANK[fact.status] < _RANK[best[key].status]:
                    best[key] = fact
        return frozenset(best.values())

    def _lifted(self, name: str, row: Finding) -> Sequence[str]:
        if name in self.read:
            return (name,)
        if above := self.organs.containing(name) & self.read:
            return (min(above, key=lambda one: (len(self.organs.parts_of(one)), one)),)
        if row.status not in _HOLDS_FOR_PARTS:
            return ()
        parts = sorted(self.organs.parts_of(name) & self.read)
        if row.abnormality is None or row.abnormality not in self.abnormalities:
            return parts
        return [part for part in parts if part in self.abnormalities[row.abnormality].organs]


@dataclass(frozen=True)
class FactCounts:
    """How the facts of one report agree with the truth.

    Attributes:
        stated, true, right: facts of the report, of the truth, of both.
        affirmed, true_affirmed, right_affirmed: those that affirm an abnormality; what the truth calls uncertain is
            left out.
    """

    stated: int
    true: int
    right: int
    affirmed: int
    true_affirmed: int
    right_affirmed: int


def compare_facts(stated: frozenset[ReportFact], truth: frozenset[ReportFact]) -> FactCounts:
    """Count the facts of a report against the truth's.

    Examples:
        >>> truth = frozenset({ReportFact("liver", "liver_cyst", "affirmed", None)})
        >>> compare_facts(truth | {ReportFact("spleen", "", "normal", None)}, truth).right
        1
    """
    doubtful = {(fact.organ, fact.abnormality) for fact in truth if fact.status == "uncertain"}
    affirmed = {fact for fact in stated if fact.status == "affirmed" and fact[:2] not in doubtful}
    there = {fact for fact in truth if fact.status == "affirmed"}
    return FactCounts(len(stated), len(truth), len(stated & truth), len(affirmed), len(there), len(affirmed & there))
