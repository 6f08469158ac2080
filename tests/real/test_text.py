"""The report parser on real reports: the figures that the benchmark prints must not sink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctglip.reports.parser import get_parser
from ctglip.table_files import read_table
from ctglip.types import Report

ROOT = Path(__file__).resolve().parents[2]


def measure(command: str, real_data: Path, tmp_path: Path) -> dict:
    """Figures of one subcommand of the benchmark."""
    out, answers = tmp_path / "figures.json", tmp_path / "answers.csv"
    script = [sys.executable, str(ROOT / "benchmarks/report_parsing.py"), command]
    environment = {**os.environ, "CTGLIP_REAL_DATA": str(real_data)}
    arguments = ["--json", str(out), "--predictions", str(answers)]
    subprocess.run([*script, *arguments], check=True, env=environment, capture_output=True, timeout=300)
    assert answers.stat().st_size > 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("labels", {"macro_f1": 0.95, "micro_f1": 0.95}),
        ("regions", {"micro_f1": 0.90}),
        ("radiographs", {"macro_f1": 0.70}),
        ("phrases", {"micro_f1": 0.90}),
        ("coverage", {"placed": 0.95}),
    ],
)
def test_the_figures_hold(command: str, least: dict[str, float], real_data: Path, tmp_path: Path) -> None:
    figures = measure(command, real_data, tmp_path)
    assert all(figures[name] >= value for name, value in least.items())


def test_every_sentence_of_real_reports_lands_somewhere(real_data: Path) -> None:
    table = read_table(real_data / "reports/chest_ct_reports/reports.csv").head(100)
    for findings, impression in table.select("Findings_EN", "Impressions_EN").iter_rows():
        report = Report(findings=findings, impression=impression)
        rows = get_parser().parse(report)
        kept = "".join({row.sentence_index: row.sentence for row in rows}.values())
        whole = f"{findings or ''}{impression or ''}"
        assert [c for c in kept if c.isalnum()] == [c for c in whole if c.isalnum()]
        assert all(row.organ or row.reason for row in rows)
