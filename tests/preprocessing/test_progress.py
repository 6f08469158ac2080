"""How a run goes, as a person at a terminal sees it and as a log keeps it."""

from __future__ import annotations

import io

import pytest
from ctglip_preprocessing.progress import watching
from rich.console import Console

from ctglip.store.journal import JournalEntry
from ctglip.types import Failure


def _entries():
    for number in range(20):
        failure = Failure(f"s{number}", "ingest", "no_file", "") if number in (3, 7) else None
        yield JournalEntry(f"s{number}", "recipe", failure=failure)


@pytest.mark.parametrize("terminal", [True, False])
def test_results_pass_and_are_counted(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    passed = list(watching(console)(_entries(), 20))
    assert [entry.study_id for entry in passed] == [f"s{number}" for number in range(20)]
    text = console.file.getvalue()
    assert "20/20" in text
    assert "studies/min" in text
    assert "2 no_file" in text
    if not terminal:
        assert 10 <= len(text.splitlines()) <= 11


def test_no_result_is_no_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    assert list(watching(console)(iter(()), 0)) == []
    assert console.file.getvalue() == ""
