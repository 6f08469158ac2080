from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from tests.cli.commands import good_here, here

REPORT = "FINDINGS: The liver is enlarged. No gallstones.\nIMPRESSION: Hepatomegaly."


def test_a_report_from_standard_input_as_json() -> None:
    outcome = here("parse", "-", "--json", stdin=REPORT)
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)["findings"]
    assert ("liver", "hepatomegaly", "affirmed") in {(r["organ"], r["abnormality"], r["status"]) for r in rows}
    assert ("gallbladder", "gallstone", "negated") in {(r["organ"], r["abnormality"], r["status"]) for r in rows}


def test_a_report_for_people_shows_every_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text(REPORT)
    shown = good_here("parse", tmp_path / "report.txt").out
    assert "The liver is enlarged." in shown
    assert "negated" in shown


def test_a_cohort_becomes_a_table_and_an_empty_report_a_failed_row(tmp_path: Path) -> None:
    pl.DataFrame(
        {"study_id": ["1", "2"], "patient_id": ["a", "b"], "image": ["x", "y"], "report": [REPORT, "--"]}
    ).write_csv(tmp_path / "cohort.csv")
    outcome = here("parse", tmp_path / "cohort.csv", "--out", tmp_path / "findings.parquet", "--json")
    assert outcome.code == 1
    assert [row["code"] for row in json.loads(outcome.out)["failed"]] == ["report_empty"]
    table = pl.read_parquet(tmp_path / "findings.parquet")
    assert set(table["study_id"]) == {"1"}
    assert table.schema["sentence_index"] == pl.Int32


def test_an_empty_report_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text(" \n")
    assert "empty" in good_here("parse", tmp_path / "report.txt").out


def test_a_place_for_findings_is_made_and_other_files_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"study_id": ["1"], "patient_id": ["a"], "image": ["x"], "report": [REPORT]}).write_csv(
        tmp_path / "cohort.csv"
    )
    good_here("parse", tmp_path / "cohort.csv", "--out", tmp_path / "new" / "findings.csv")
    assert pl.read_csv(tmp_path / "new" / "findings.csv").height > 1
    refused = here("parse", tmp_path / "cohort.csv", "--out", tmp_path / "findings.json")
    assert refused.code == 2
    assert ".parquet" in refused.err


def test_a_table_of_reports_alone_is_read(tmp_path: Path) -> None:
    pl.DataFrame({"study_id": ["1", "2"], "report": [REPORT, "No ascites."]}).write_csv(tmp_path / "reports.csv")
    good_here("parse", tmp_path / "reports.csv", "--out", tmp_path / "findings.parquet")
    table = pl.read_parquet(tmp_path / "findings.parquet")
    assert set(table["study_id"]) == {"1", "2"}
    assert ("2", "ascites", "negated") in set(table.select("study_id", "abnormality", "status").iter_rows())


def test_a_table_without_ids_or_reports_says_which_column_is_missing(tmp_path: Path) -> None:
    pl.DataFrame({"report": [REPORT]}).write_csv(tmp_path / "anonymous.csv")
    refused = here("parse", tmp_path / "anonymous.csv", "--out", tmp_path / "findings.parquet")
    assert refused.code == 2
    assert "study_id" in refused.err
    pl.DataFrame({"study_id": ["1"], "text": [REPORT]}).write_csv(tmp_path / "other.csv")
    refused = here("parse", tmp_path / "other.csv", "--out", tmp_path / "findings.parquet")
    assert refused.code == 2
    assert "report" in refused.err
