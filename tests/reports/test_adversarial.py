"""Sentences written to mislead: each is read as a person would read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.config import parse_yaml
from ctglip.reports.parser import get_parser
from ctglip.types import Finding

CASES = parse_yaml(Path(__file__).with_name("adversarial.yaml").read_text(encoding="utf-8"))
Row = tuple[str | None, str | None, str, str | None]


def _row(finding: Finding) -> Row:
    return finding.organ, finding.abnormality, finding.status, finding.laterality


def _expected(line: str) -> Row:
    organ, abnormality, status, side = (None if part == "-" else part for part in line.split())
    assert status is not None
    return organ, abnormality, status, side


def test_there_are_enough() -> None:
    assert len(CASES) >= 150
    assert len({(case.get("with"), case["text"]) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"])
def test_read_as_meant(case: dict) -> None:
    before = case.get("with", "")
    findings = get_parser().parse(f"{before}\n{case['text']}".strip())
    last = max(row.sentence_index for row in findings)
    found = {_row(row) for row in findings if row.sentence_index == last or not before}
    expected = {_expected(line) for line in case["is"]}
    assert expected <= found
    claims = {row for row in found if row[1] and row[2] in ("affirmed", "uncertain")}
    assert claims <= expected
