from __future__ import annotations

import pytest

from ctglip.reports.parser import ReportParser, get_parser
from ctglip.types import Report

REPORT = """INDICATION: Cough, rule out pneumonia.
FINDINGS:
Lungs: There is a 5 mm nodule in the right upper lobe. No consolidation.
Liver: Unremarkable. Both kidneys contain cysts.
The weather was fine.
IMPRESSION:
1. Pulmonary nodule.
2. Renal cysts.
"""


def test_every_sentence_gives_a_row_and_stands_there_verbatim() -> None:
    findings = get_parser().parse(REPORT)
    by_index = {row.sentence_index: row.sentence for row in findings}
    assert sorted(by_index) == list(range(len(by_index)))
    flat = " ".join(REPORT.split())
    assert all(sentence in flat for sentence in by_index.values())
    assert {row.section for row in findings} == {"indication", "findings", "impression"}


def test_an_unplaced_sentence_says_why() -> None:
    (row,) = [row for row in get_parser().parse(REPORT) if row.sentence == "The weather was fine."]
    assert row.organ is None
    assert row.reason


def test_nothing_is_affirmed_by_what_comes_before_the_findings() -> None:
    report = Report(indication="Pneumonia.", technique="Chest CT for lung nodule.", comparison="Prior emphysema.")
    assert {row.status for row in get_parser().parse(report)} <= {"historical", "uncertain", "negated"}


def test_a_report_by_section_and_as_text_read_alike() -> None:
    text = get_parser().parse("FINDINGS: Liver cyst.\nIMPRESSION: Gallstones.")
    apart = get_parser().parse(Report(findings="Liver cyst.", impression="Gallstones."))
    assert text == apart


def test_the_same_report_reads_the_same() -> None:
    fresh = ReportParser(remember=0)
    assert fresh.parse(REPORT) == get_parser().parse(REPORT) == get_parser().parse(REPORT)


def test_the_topic_ends_with_its_section() -> None:
    rows = get_parser().parse(Report(findings="The left kidney is small.", impression="It is stable."))
    assert rows[-1].organ is None


def test_both_sides_are_two_rows() -> None:
    rows = [row for row in get_parser().parse("Both kidneys contain stones.") if row.abnormality]
    assert [(row.organ, row.laterality) for row in rows] == [
        ("kidney_left", "bilateral"),
        ("kidney_right", "bilateral"),
    ]


def test_levels_are_kept() -> None:
    rows = get_parser().parse(
        "Cyst in segment 4 of the liver. Stone in the lower pole of the left kidney. Fracture of L1."
    )
    assert [row.level for row in rows if row.abnormality] == ["segment 4", "lower pole", "L1"]


def test_one_row_for_each_organ_and_abnormality_of_a_sentence() -> None:
    rows = get_parser().parse("A nodule in the left lung and another nodule in the left lung, nodules.")
    keys = [(row.sentence_index, row.organ, row.abnormality) for row in rows]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("size", ["mild", "moderate", "severe", "small", "large", "trace", "minimal", "massive"])
def test_a_size_alone_answers_for_the_other_side(size: str) -> None:
    rows = get_parser().parse(f"There is a right pleural effusion. Left: {size}.")
    assert (rows[-1].organ, rows[-1].abnormality, rows[-1].status) == ("pleura_left", "pleural_effusion", "affirmed")
