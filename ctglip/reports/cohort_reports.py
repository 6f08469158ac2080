"""The reports of a cohort table: each as its sections, and all of them as one table of findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from ctglip.cohort import Cohort, CohortRow
from ctglip.errors import CohortError, ReportError
from ctglip.reports.parser import get_parser
from ctglip.reports.sections import split_sections
from ctglip.types import Failure, Finding, Report


def decoded(raw: bytes, name: str) -> str:
    """Text of a report file: UTF-8, UTF-16 with its mark, else Windows' western letters.

    Raises:
        ReportError: it is no text.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw:
        raise ReportError(f"{name} is no text file.", code="unreadable", fix="Save the report as UTF-8 text.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def with_reports(cohort: Cohort, path: Path) -> Cohort:
    """The cohort, if its table has reports.

    Raises:
        CohortError: it has none.
    """
    if not cohort.has_reports:
        raise CohortError(
            f"{path} has no reports.",
            fix="Add a column report, findings, impression or report_path, or name it in a column map.",
        )
    return cohort


def report_of(row: CohortRow, required: bool) -> Report | None:
    """A study's report by section, verbatim.

    Args:
        row: the study's row of the cohort table.
        required: the cohort has reports, so having none is a failure; else a study without one is an image alone.

    Raises:
        ReportError: ``report_empty`` (none, or without a single letter) or ``unreadable``.
    """
    report = _sections(row)
    if report is None and not required:
        return None
    if report is None or not any(c.isalpha() for text in report.sections().values() for c in text):
        raise ReportError(
            f"Study {row.study_id} has an empty report.",
            code="report_empty",
            fix="Fill it in, or take the study out; a table without report columns is read as images alone.",
        )
    return report


def _sections(row: CohortRow) -> Report | None:
    sections = row.sections()
    if sections is not None:
        return sections
    if row.report is not None:
        return split_sections(row.report)
    if row.report_path is None:
        return None
    try:
        return split_sections(decoded(row.report_path.read_bytes(), str(row.report_path)))
    except OSError as error:
        raise ReportError(
            f"Study {row.study_id}: {row.report_path} cannot be read: {error}.", code="unreadable"
        ) from error


Reader = Callable[[Report, str], tuple[Sequence[Finding], Failure | None]]
"""A report and its study's id to findings, and what went wrong on the way."""


def by_rules(report: Report, study_id: str) -> tuple[Sequence[Finding], None]:  # noqa: ARG001  (a Reader)
    """The rule parser as a ``Reader``."""
    return get_parser().parse(report), None


def cohort_findings(
    rows: Sequence[CohortRow], progress: Callable[[int, int], None] | None = None, read: Reader = by_rules
) -> tuple[pl.DataFrame, tuple[Failure, ...]]:
    """The findings of all reports of a cohort, and the studies whose report could not be read.

    Args:
        rows: the studies.
        progress: called with (studies done, studies).
        read: who reads them; ``text.llm.LLMParser.read`` asks a language model.
    """
    names = ("study_id", *Finding.__dataclass_fields__)
    schema = {name: pl.Int32() if name == "sentence_index" else pl.String() for name in names}
    found: list[dict[str, object]] = []
    failures: list[Failure] = []
    for number, row in enumerate(rows, start=1):
        try:
            report = report_of(row, required=True)
            findings, failure = read(report, row.study_id) if report else ((), None)
            failures += [failure] if failure else []
            found += [{"study_id": row.study_id, **asdict(finding)} for finding in findings]
        except ReportError as error:
            failures.append(Failure(row.study_id, "report", error.code, str(error)))
        if progress:
            progress(number, len(rows))
    return pl.DataFrame(found, schema=schema, orient="row"), tuple(failures)
