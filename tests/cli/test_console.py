"""Commands of many stages say what they do, and never more than a line in a while."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from ctglip.cli import console
from ctglip.cli.console import Stages


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed where there is no terminal."""
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, width=200))
    return written


def test_a_stage_that_lasts_is_named_once_and_a_short_one_never(lines: io.StringIO) -> None:
    with Stages(every=0.05) as stages:
        stages.begin("Short")
        stages.begin("Intervals")
        time.sleep(0.3)
    assert lines.getvalue().startswith("Intervals, ")
    assert lines.getvalue().count("\n") == 1


def test_what_is_counted_is_told_by_tenths(lines: io.StringIO) -> None:
    with Stages(every=0.02) as stages:
        stages.begin("Encoding the split test")
        for done in range(1, 101):
            stages.report(done, 100)
            time.sleep(0.004)
    found = lines.getvalue().splitlines()
    assert 2 <= len(found) <= 11
    assert all(line.startswith("Encoding the split test: ") and line.endswith("/100") for line in found)


def test_a_failure_ends_the_lines(lines: io.StringIO) -> None:
    stages = Stages(every=0.02)

    def fail() -> None:
        with stages:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    stages.begin("Afterwards")
    time.sleep(0.1)
    assert "Afterwards" not in lines.getvalue()


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, width=120, force_terminal=True))
    with Stages() as stages:
        stages.begin("Retrieval")
        stages.report(3, 4)
        stages.begin("Linear probe")
        stages.report(1, 2)
    assert "Linear probe" in written.getvalue()
    assert "1/2" in written.getvalue()
