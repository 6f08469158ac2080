"""``ctglip dictionary``: words of one's own reports that the dictionary lacks, and whether a dictionary is sound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctglip.cli.console import AsJson, progress, result
from ctglip.cli.group import CommandGroup
from ctglip.places import writable_file

if TYPE_CHECKING:
    from ctglip.reports.parser import ReportParser

app = typer.Typer(
    cls=CommandGroup, help="Check the dictionaries, and find what they lack in your reports.", no_args_is_help=True
)
OrgansPath = Annotated[Path | None, typer.Option("--organs", help="An organs.yaml; the shipped one by default.")]
AbnormalitiesPath = Annotated[
    Path | None, typer.Option("--abnormalities", help="An abnormalities.yaml; the shipped one by default.")
]


@app.command()
def build(
    cohort: Annotated[Path, typer.Argument(help="A cohort table with reports.")],
    out: Annotated[Path, typer.Option(callback=writable_file, help="The YAML file of proposals to write.")],
    fewest: Annotated[int, typer.Option(min=1, help="Reports that must hold a phrase.")] = 3,
    organs: OrgansPath = None,
    abnormalities: AbnormalitiesPath = None,
    as_json: AsJson = False,
) -> None:
    """Mine reports for abnormalities that the dictionary lacks, and propose entries for a person to accept."""
    from ctglip.cohort import read_cohort
    from ctglip.errors import ReportError
    from ctglip.files import write_text
    from ctglip.reports.cohort_reports import report_of, with_reports
    from ctglip.reports.mining import mine, proposals_text
    from ctglip.types import Failure

    table = with_reports(read_cohort(cohort), cohort)
    failures = list(table.bad)
    reports = []
    for row in table.rows:
        try:
            report = report_of(row, required=True)
        except ReportError as error:
            failures.append(Failure(row.study_id, "report", error.code, str(error)))
        else:
            reports += [(row.study_id, report)] if report else []
    with progress("Reading reports") as advance:
        proposals = mine(reports, _parser(organs, abnormalities), fewest, lambda done: advance(done, len(reports)))
    write_text(out, proposals_text(proposals, len(reports)))
    top = [f"{p.studies:6d}  {p.phrase}  ({', '.join(p.organs) or 'no organ'})" for p in proposals[:20]]
    lines = [*top, f"{len(proposals)} phrases of {len(reports)} reports proposed in {out}."]
    lines += [f"{failure.study_id}: {failure.message}" for failure in failures]
    value = {"out": str(out), "proposals": len(proposals), "reports": len(reports)}
    result({**value, "failed": [asdict(f) for f in failures]}, as_json, "\n".join(lines))
    if failures:
        raise typer.Exit(1)


@app.command()
def check(organs: OrgansPath = None, abnormalities: AbnormalitiesPath = None, as_json: AsJson = False) -> None:
    """Find cycles, clashing words, and sentences that the report parser does not read back; exit code 1 on an error."""
    from ctglip.errors import CTGLIPError
    from ctglip.vocabulary.check import Fault, check_dictionaries

    problems = check_dictionaries(organs, abnormalities)
    if not any(problem.severity == "error" for problem in problems):
        try:
            problems = check_dictionaries(organs, abnormalities, _parser(organs, abnormalities).parse)
        except CTGLIPError as error:
            problems = (*problems, Fault("the report parser", str(error)))
    errors = sum(problem.severity == "error" for problem in problems)
    lines = [f"{p.severity}: {p.entry}: {p.what}" for p in problems]
    lines.append(f"{errors} errors, {len(problems) - errors} warnings." if problems else "The dictionaries are sound.")
    result({"problems": [asdict(p) for p in problems], "errors": errors}, as_json, "\n".join(lines))
    if errors:
        raise typer.Exit(1)


def _parser(organs: Path | None, abnormalities: Path | None) -> ReportParser:
    from ctglip.reports.parser import ReportParser
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    known = load_organs(organs)
    return ReportParser(known, load_abnormalities(abnormalities, known))
