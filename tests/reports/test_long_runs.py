"""Reports of odd length take a time that grows with it, and no more."""

from __future__ import annotations

import time

import pytest

from ctglip.errors import ReportError
from ctglip.limits import MOST_REPORT
from ctglip.reports.parser import get_parser
from ctglip.reports.sections import short_runs, split_sections
from ctglip.types import Report

UNITS = (
    " ", "\t", "\xa0", "\n", "\r", "\u3000", "-", "=", "_", "*", "•", ".", "?", "!", ",", ";", ":", "(", "<", "<b>",
    "&nbsp;", "a", "A", "1", "1.", "- ", " .", "• ", "no ", "liver ", "1 x ", "left; ",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_forty_thousand_signs_take_seconds(unit: str) -> None:
    parser = get_parser()
    parser.parse("Liver normal.")
    start = time.process_time()
    parser.parse(f"Liver{unit * (40_000 // len(unit))}cyst.")
    parser.parse(Report(findings=f"No{unit * (40_000 // len(unit))}cyst."))
    assert time.process_time() - start < 10


def test_runs_are_cut_and_words_are_not() -> None:
    assert short_runs("a" * 90 + " " * 90 + "-" * 90 + "1" * 90) == "a" * 90 + " " * 40 + "-" * 40 + "1" * 90
    text = "Liver: a  cyst.\n\n\nIMPRESSION:  none -- at all ...."
    assert short_runs(text) == text


def test_blanks_change_no_finding() -> None:
    few, many = (get_parser().parse(f"Liver:{' ' * n}no cyst.{' ' * n}Spleen normal.") for n in (2, 5000))
    assert [(one.organ, one.abnormality, one.status) for one in few] == [
        (one.organ, one.abnormality, one.status) for one in many
    ]


def test_a_report_of_a_book_is_refused() -> None:
    with pytest.raises(ReportError) as caught:
        split_sections("Liver normal. " * (MOST_REPORT // 10))
    assert caught.value.code == "too_large"
