"""The sets of sentences and reports in many styles, and sentences by the kind of mistake that they provoke."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.config import parse_yaml
from ctglip.reports.parser import get_parser
from tests.reports.scoring import answer_of, read_cases, score

HERE = Path(__file__).parent
KINDS: dict[str, list[dict]] = parse_yaml((HERE / "kinds.yaml").read_text(encoding="utf-8"))
CASES = [(kind, case) for kind, cases in KINDS.items() for case in cases]


def test_every_kind_has_enough() -> None:
    assert min(map(len, KINDS.values())) >= 15
    assert len({case["text"] for _, case in CASES}) == len(CASES)


@pytest.mark.parametrize(("kind", "case"), CASES, ids=lambda part: part if isinstance(part, str) else part["text"])
def test_read_as_meant(kind: str, case: dict) -> None:
    expected, never = ([answer_of(line) for line in case.get(key, ())] for key in ("is", "never"))
    found = score([{"text": case["text"], "expected": expected, "must_not": never}])
    assert not found.wrong, f"{kind}: {found.wrong}"


@pytest.mark.parametrize(
    ("name", "least", "forbidden"),
    [
        ("a", 0.97, 0),
        ("a_reports", 0.97, 0),
        ("b", 0.95, 2),
        ("b_reports", 0.97, 0),
        ("c", 0.84, 7),
        ("c_reports", 0.92, 2),
        ("d", 0.97, 1),
        ("d_reports", 0.98, 0),
        ("e", 0.90, 3),
    ],
)
def test_set(name: str, least: float, forbidden: int) -> None:
    found = score(read_cases(HERE / "sets" / f"{name}.jsonl"))
    assert found.share >= least, found.wrong
    assert found.forbidden <= forbidden, found.wrong


def test_the_score_tells_right_from_wrong() -> None:
    ask = {"organ": "kidneys", "abnormality": "renal_cyst", "status": "affirmed", "laterality": "left"}
    case = {"text": "Cyst in the left kidney.", "expected": [ask], "must_not": []}
    other = {**ask, "laterality": "right"}
    denied = {**ask, "status": "negated"}
    organs = get_parser().lexicon.organs
    assert "kidney_left" in organs.parts_of("kidneys")
    assert score([case]).share == 1
    assert score([{**case, "expected": [other]}]).share == 0
    assert score([{**case, "expected": [denied]}]).share == 0
    assert score([{**case, "must_not": [{**ask, "organ": "*", "abnormality": "*"}]}]).forbidden == 1
