"""``ctglip parse``: what the parser reads in a report."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctglip.cli.console import out as console
from ctglip.cli.console import print_note, progress, result

if TYPE_CHECKING:
    from ctglip.reports.llm import LLMParser

TABLES = (".csv", ".tsv", ".xlsx", ".parquet")
_EMPTY = "The report is empty: it holds no letter and no digit."


def parse(
    source: Annotated[str, typer.Argument(help="A report (text file), '-' for standard input, or a table of reports.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="For a cohort: the findings table to write (.parquet or .csv).")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="Ask this model of an OpenAI-compatible server; the rules check it.")
    ] = None,
    llm_url: Annotated[
        str, typer.Option(help="The server; its key, if it wants one, from CTGLIP_LLM_KEY.")
    ] = "http://127.0.0.1:8000/v1",
) -> None:
    """Read a report into findings: sentence, organ, abnormality, status."""
    if source != "-" and Path(source).suffix.lower() in TABLES:
        _parse_cohort(Path(source), out, as_json, llm, llm_url)
        return
    from ctglip.errors import CTGLIPError
    from ctglip.reports.cohort_reports import decoded
    from ctglip.reports.parser import get_parser
    from ctglip.reports.view import readable

    if out is not None:
        raise CTGLIPError(
            "--out is for a cohort table.", fix="For one report, use --json and redirect what is printed."
        )
    text = decoded(sys.stdin.buffer.read() if source == "-" else _read(Path(source)), source)
    if llm:
        _ask_model(text, llm, llm_url, as_json)
        return
    findings = get_parser().parse(text)
    if as_json:
        result({"findings": [asdict(f) for f in findings]}, True, "")
    else:
        console.print(readable(findings) or _EMPTY, highlight=False)


def _model(llm: str, url: str, cache: Path | None) -> LLMParser:
    from ctglip.config import validate
    from ctglip.reports.llm import LLMParser, LLMSettings
    from ctglip.reports.parser import get_parser

    settings = {"model": llm, "url": url, "cache": cache}
    return LLMParser(validate(LLMSettings, settings, "--llm, --llm-url"), get_parser())


def _ask_model(text: str, llm: str, url: str, as_json: bool) -> None:
    """What a language model reads, and where the rules read otherwise."""
    from ctglip.reports.view import readable

    reading = _model(llm, url, None).parse(text)
    lines = [
        f"{who} alone: {organ}, {name}, {status}"
        for who, claims in (("the model", reading.only_model), ("the rules", reading.only_rules))
        for organ, name, status in sorted(claims)
    ]
    if as_json:
        result(asdict(reading) | {"only_model": sorted(reading.only_model), "only_rules": sorted(reading.only_rules)},
               True, "")  # fmt: skip
    else:
        console.print(readable(reading.findings) or _EMPTY, highlight=False)
        console.print("\n".join(lines), highlight=False, markup=False)
    if reading.failure:
        print_note(f"The rules read this report: {reading.failure.message}")
        raise typer.Exit(1)


def _read(path: Path) -> bytes:
    from ctglip.errors import ReportError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"The report {path} cannot be read: {error.strerror}.", fix="Check the path.") from error


def _parse_cohort(path: Path, out: Path | None, as_json: bool, llm: str | None, url: str) -> None:
    from ctglip.cohort import read_cohort
    from ctglip.errors import CTGLIPError
    from ctglip.files import atomic_path
    from ctglip.places import writable_file
    from ctglip.reports.cohort_reports import by_rules, cohort_findings, with_reports
    from ctglip.table_files import no_formulas

    if out is None or out.suffix not in (".csv", ".parquet"):
        raise CTGLIPError(
            "A whole cohort needs --out FILE, a .parquet or .csv file.", fix="For example --out findings.parquet."
        )
    writable_file(out)
    cohort = with_reports(read_cohort(path, reports_alone=True), path)
    with progress("Parsing reports") as report:
        read = _model(llm, url, out.with_suffix(".llm.sqlite")).read if llm else by_rules
        table, failures = cohort_findings(cohort.rows, report, read)
    failures = (*cohort.bad, *failures)
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            no_formulas(table).write_csv(temporary)
        else:
            table.write_parquet(temporary)
    lines = [f"{table.height} findings in {out}.", *(f"{f.study_id}: {f.message}" for f in failures)]
    result(
        {"out": str(out), "findings": table.height, "failed": [asdict(f) for f in failures]}, as_json, "\n".join(lines)
    )
    if failures:
        raise typer.Exit(1)
