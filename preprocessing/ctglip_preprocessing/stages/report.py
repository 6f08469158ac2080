"""The report of a study, verbatim and as findings."""

from __future__ import annotations

from ctglip.cohort import CohortRow
from ctglip.errors import ReportError
from ctglip.text.reports import get_parser
from ctglip.text.sections import split_sections
from ctglip.types import Finding, Report


def read_report(row: CohortRow, wanted: bool) -> tuple[Report | None, tuple[Finding, ...]]:
    """The study's report and what it says of each organ.

    Args:
        wanted: the cohort has reports, so having none is a failure; else a study without one is an image alone.

    Raises:
        ReportError: ``report_empty`` (none, or without a single letter) or ``unreadable``.
    """
    report = _report(row)
    if report is None and not wanted:
        return None, ()
    if report is None or not any(c.isalpha() for text in report.sections().values() for c in text):
        raise ReportError(
            f"Study {row.study_id} has an empty report.",
            code="report_empty",
            fix="Fill it in, or take the study out; a table without report columns is read as images alone.",
        )
    return report, tuple(get_parser().parse(report))


def _report(row: CohortRow) -> Report | None:
    sections = row.sections()
    if sections is not None:
        return sections
    if row.report is not None:
        return split_sections(row.report)
    if row.report_path is None:
        return None
    try:
        return split_sections(row.report_path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(
            f"Study {row.study_id}: {row.report_path} cannot be read as UTF-8 text: {error}.", code="unreadable"
        ) from error
