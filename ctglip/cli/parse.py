"""``ctglip parse``: what the parser reads in a report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import out as console
from ctglip.cli.console import progress, result


def parse(
    source: Annotated[str, typer.Argument(help="A report (text file), '-' for standard input, or a cohort table.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="For a cohort: the findings table to write (.parquet or .csv).")
    ] = None,
) -> None:
    """Read a report into findings: sentence, organ, abnormality, status."""
    if source != "-" and Path(source).suffix.lower() in (".csv", ".parquet"):
        _parse_cohort(Path(source), out, as_json)
        return
    from ctglip.errors import CTGLIPError
    from ctglip.text.cohorts import decoded
    from ctglip.text.reports import get_parser
    from ctglip.text.view import readable

    if out is not None:
        raise CTGLIPError(
            "--out is for a cohort table.", fix="For one report, use --json and redirect what is printed."
        )
    text = decoded(sys.stdin.buffer.read() if source == "-" else _read(Path(source)), source)
    findings = get_parser().parse(text)
    if as_json:
        result({"findings": [asdict(f) for f in findings]}, True, "")
    else:
        console.print(readable(findings) or "The report is empty: it holds no letter and no digit.", highlight=False)


def _read(path: Path) -> bytes:
    from ctglip.errors import ReportError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"The report {path} cannot be read: {error.strerror}.", fix="Check the path.") from error


def _parse_cohort(path: Path, out: Path | None, as_json: bool) -> None:
    from ctglip.cohort import read_cohort
    from ctglip.errors import CTGLIPError
    from ctglip.files import atomic_path
    from ctglip.text.cohorts import cohort_findings, with_reports

    if out is None or out.suffix not in (".csv", ".parquet"):
        raise CTGLIPError(
            "A whole cohort needs --out FILE, a .parquet or .csv file.", fix="For example --out findings.parquet."
        )
    cohort = with_reports(read_cohort(path), path)
    with progress("Parsing reports") as report:
        table, failures = cohort_findings(cohort.rows, report)
    failures = (*cohort.bad, *failures)
    with atomic_path(out) as temporary:
        (table.write_csv if out.suffix == ".csv" else table.write_parquet)(temporary)
    lines = [f"{table.height} findings in {out}.", *(f"{f.study_id}: {f.message}" for f in failures)]
    result(
        {"out": str(out), "findings": table.height, "failed": [asdict(f) for f in failures]}, as_json, "\n".join(lines)
    )
    if failures:
        raise typer.Exit(1)
