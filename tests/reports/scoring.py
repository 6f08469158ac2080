"""Which findings of a text are read as a set of answers asks: organ, abnormality, status and side agree.

A case is ``{text, expected: [finding], must_not: [finding]}``, a finding ``{organ, abnormality, status, laterality}``
with "|" between alternatives, "*" for anything, a null abnormality for a plain mention. An organ counts with its parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctglip.reports.parser import ReportParser, get_parser
from ctglip.types import Finding
from ctglip.vocabulary.organs import OrganDictionary

Case = dict[str, Any]
Answer = dict[str, str | None]


@dataclass
class Score:
    """Counts over the cases of a set."""

    cases: int = 0
    whole: int = 0
    findings: int = 0
    right: int = 0
    forbidden: int = 0
    wrong: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Findings read right of all that are asked for."""
        return self.right / max(self.findings, 1)

    def figures(self) -> dict[str, float]:
        """The counts and the share by name."""
        counts = {name: getattr(self, name) for name in ("cases", "whole", "findings", "right", "forbidden")}
        return {**counts, "share": round(self.share, 4)}


def read_cases(path: Path) -> list[Case]:
    """The cases of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def hit(answer: Answer, findings: Sequence[Finding], organs: OrganDictionary) -> bool:
    """Whether one of the findings is the one asked for."""
    locations = {location for organ in (answer["organ"] or "").split("|") if organ != "*" and organ in organs
              for location in (organ, *organs.parts_of(organ))}  # fmt: skip
    anywhere, side = "*" in (answer["organ"] or "").split("|"), answer.get("laterality")
    names, statuses = (answer["abnormality"] or "").split("|"), (answer["status"] or "").split("|")

    def fits(row: Finding) -> bool:
        named = (row.abnormality or "") in names or ("*" in names and row.abnormality is not None)
        own = row.laterality or (organs[row.organ].side if row.organ else None)
        placed = anywhere or row.organ in locations
        return placed and named and row.status in statuses and (not side or own in (side, "bilateral"))

    return any(fits(row) for row in findings)


def score(cases: Iterable[Case], parser: ReportParser | None = None) -> Score:
    """Read every case and count."""
    parser = parser or get_parser()
    organs, result = parser.lexicon.organs, Score()
    for case in cases:
        findings = parser.parse(case["text"])
        missed = [a for a in case["expected"] if not hit(a, findings, organs)]
        false = [a for a in case.get("must_not", ()) if hit(a, findings, organs)]
        result.cases += 1
        result.whole += not missed and not false
        result.findings += len(case["expected"])
        result.right += len(case["expected"]) - len(missed)
        result.forbidden += len(false)
        if missed or false:
            result.wrong.append((case["text"], [*map(_line, missed), *(f"NOT {_line(a)}" for a in false)]))
    return result


def _line(answer: Answer) -> str:
    return " ".join(answer.get(key) or "-" for key in ("organ", "abnormality", "status", "laterality"))


def answer_of(line: str) -> Answer:
    """ "organ abnormality status side" as a finding; "-" is none."""
    organ, abnormality, status, side = (None if part == "-" else part for part in line.split())
    return {"organ": organ, "abnormality": abnormality, "status": status, "laterality": side}
