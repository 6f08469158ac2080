"""Reports as files come: any encoding, no text at all, tables without reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.cohort import read_cohort
from ctglip.errors import CohortError, ReportError
from ctglip.reports.cohort_reports import cohort_findings, decoded, with_reports

TEXT = "Ödem of the left lung."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_letters_survive_in_any_usual_encoding(encoding: str) -> None:
    assert decoded(TEXT.encode(encoding), "report.txt") == TEXT


def test_what_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(ReportError, match=r"scan\.bin"):
        decoded(bytes(range(256)), "scan.bin")


def test_a_table_without_reports_is_refused_and_a_binary_report_is_a_failed_row(tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("study_id,patient_id,image\n001,1,a.nii.gz\n")
    with pytest.raises(CohortError, match="no reports"):
        with_reports(read_cohort(bare), bare)
    (tmp_path / "a.txt").write_bytes(TEXT.encode("cp1252"))
    (tmp_path / "b.txt").write_bytes(b"\0\1\2")
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("study_id,patient_id,image,report_path\n001,1,a.nii.gz,a.txt\n002,2,b.nii.gz,b.txt\n")
    table, failures = cohort_findings(with_reports(read_cohort(cohort), cohort).rows)
    assert set(table["study_id"]) == {"001"}
    assert table["sentence"][0] == TEXT
    assert [(failure.study_id, failure.code) for failure in failures] == [("002", "unreadable")]
