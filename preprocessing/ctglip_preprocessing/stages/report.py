"""The report of a study, verbatim and as findings."""

from __future__ import annotations

from ctglip.cohort import CohortRow
from ctglip.reports.cohorts import report_of
from ctglip.reports.parser import get_parser
from ctglip.types import Finding, Report


def read_report(row: CohortRow, required: bool) -> tuple[Report | None, tuple[Finding, ...]]:
    """The study's report and what it says of each organ; nothing of either where none is there and none is wanted.

    Raises:
        ReportError: ``report_empty`` or ``unreadable``, see ``ctglip.reports.cohorts.report_of``.
    """
    report = report_of(row, required)
    return report, () if report is None else get_parser().parse(report)
