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
    from ctglip.text.reports import get_parser
    from ctglip.text.view import readable

    text = sys.stdin.read() if source == "-" else _read(Path(source))
    findings = get_parser().parse(text)
    if as_json:
        result({"findings": [asdict(f) for f in findings]}, True, "")
    else:
        console.print(readable(findings), highlight=False)


def _read(path: Path) -> str:
    from ctglip.errors import ReportError

    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReportError(f"The report {path} cannot be read: {error.strerror}.", fix="Check the path.") from error


def _parse_cohort(path: Path, out: Path | None, as_json: bool) -> None:
    from ctglip.cohort import read_cohort
    from ctglip.errors import CTGLIPError
    from ctglip.text.cohorts import cohort_findings

    if out is None:
        raise CTGLIPError("A whole cohort needs --out FILE.", fix="For example --out findings.parquet.")
    cohort = read_cohort(path)
    with progress("Parsing reports") as report:
        table, failures = cohort_findings(cohort.rows, report)
    failures = (*cohort.bad, *failures)
    if out.suffix == ".csv":
        table.write_csv(out)
    else:
        table.write_parquet(out)
    lines = [f"{table.height} findings in {out}.", *(f"{f.study_id}: {f.message}" for f in failures)]
    result(
        {"out": str(out), "findings": table.height, "failed": [asdict(f) for f in failures]}, as_json, "\n".join(lines)
    )
    if failures:
        raise typer.Exit(1)
