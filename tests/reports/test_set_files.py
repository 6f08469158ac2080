"""The evaluation sets are well formed: what they say is measured elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
SETS = HERE / "sets"
ORGANS = set(yaml.safe_load((HERE.parents[1] / "organ_dictionary/organs.yaml").read_text(encoding="utf-8"))["organs"])
STYLES = {"us", "uk", "turkish_english", "templated", "dictated", "structured", "oncology", "trauma"}
STATUSES = {"affirmed", "negated", "uncertain", "historical", "normal"}
SENTENCES = sorted(path for path in SETS.glob("*.jsonl") if not path.stem.endswith("_reports"))
REPORTS = sorted(SETS.glob("*_reports.jsonl"))


def cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def faults(finding: dict[str, str]) -> list[str]:
    """What is wrong with the form of one finding."""
    if set(finding) != {"organ", "abnormality", "status", "laterality"}:
        return [f"fields {sorted(finding)}"]
    wrong = [f"organ {name!r}" for name in finding["organ"].split("|") if name not in ORGANS | {"*"}]
    wrong += [f"status {name!r}" for name in finding["status"].split("|") if name not in STATUSES]
    if finding["laterality"] not in {"", "left", "right", "bilateral"}:
        wrong.append(f"laterality {finding['laterality']!r}")
    if "normal" in finding["status"].split("|") and "" not in finding["abnormality"].split("|"):
        wrong.append("normal, with an abnormality alone")
    return wrong


def test_a_fault_of_form_is_found() -> None:
    good = {"organ": "liver", "abnormality": "", "status": "normal", "laterality": ""}
    assert faults(good) == []
    for change in ({"organ": "liver|livr"}, {"status": "denied"}, {"laterality": "both"}, {"abnormality": "cirrhosis"}):
        assert len(faults(good | change)) == 1


@pytest.mark.parametrize("path", SENTENCES + REPORTS, ids=lambda path: path.stem)
def test_every_case_is_well_formed(path: Path) -> None:
    for case in cases(path):
        assert set(case) == {"kind", "style", "text", "expected", "must_not"}
        assert case["kind"]
        assert case["style"] in STYLES
        assert case["text"].strip()
        assert case["expected"] or case["must_not"], case["text"]
        for finding in case["expected"] + case["must_not"]:
            assert faults(finding) == [], case["text"]


@pytest.mark.parametrize("path", SENTENCES + REPORTS, ids=lambda path: path.stem)
def test_no_text_stands_twice(path: Path) -> None:
    texts = Counter(" ".join(case["text"].lower().split()) for case in cases(path))
    assert [text for text, count in texts.items() if count > 1] == []


SIZES = {"a": (300, 30, 6), "b": (300, 30, 6), "c": (300, 30, 6), "d": (200, 25, 4), "e": (60, 7, 0)}
"""Sentences at least, sentences of each style, whole reports (none: no file)."""


def test_sizes() -> None:
    assert {path.stem for path in SENTENCES} == set(SIZES)
    for path in SENTENCES:
        sentences, of_a_style, whole = SIZES[path.stem]
        counts = Counter(case["style"] for case in cases(path))
        assert sum(counts.values()) >= sentences
        assert set(counts) == STYLES
        assert min(counts.values()) >= of_a_style
        reports = cases(path.with_name(f"{path.stem}_reports.jsonl")) if whole else []
        assert len(reports) >= whole
        assert all(len(report["expected"]) >= 15 for report in reports)
