"""The queue: first come, first served, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve.jobs import JobStore


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


def names(jobs: JobStore, *wanted: str) -> None:
    for name in wanted:
        jobs.add(name)
        jobs.queue(name)


def test_first_come_first_served(jobs: JobStore) -> None:
    names(jobs, "b", "a", "c")
    assert [job.id for _ in range(3) if (job := jobs.claim())] == ["b", "a", "c"]
    assert jobs.claim() is None


def test_what_was_running_waits_again_in_its_old_place(jobs: JobStore) -> None:
    names(jobs, "a", "b")
    assert jobs.claim() is not None
    jobs.begin("a", "read")
    again = JobStore(jobs.path)
    assert again.resume() == 1
    found = again.claim()
    assert found is not None
    assert found.id == "a"
    assert found.steps == ()


def test_a_scan_that_ends_the_worker_is_tried_twice(jobs: JobStore) -> None:
    names(jobs, "a")
    for state in ("queued", "failed"):
        assert jobs.claim() is not None
        jobs.give_up("a")
        assert jobs.get("a").state == state
    assert jobs.get("a").error is not None
    assert "memory" in (jobs.get("a").error or {})["message"]


def test_what_is_cancelled_stays_so(jobs: JobStore) -> None:
    names(jobs, "a")
    jobs.claim()
    assert jobs.cancel("a")
    assert not jobs.end("a", "ready")
    assert jobs.get("a").state == "cancelled"
    jobs.give_up("a")
    assert jobs.get("a").state == "cancelled"
    assert jobs.queue("a")


def test_what_is_known_adds_up(jobs: JobStore) -> None:
    names(jobs, "a")
    jobs.tell("a", series=[{"number": 3}], organs=2)
    jobs.tell("a", organs=3)
    assert jobs.get("a").about == {"series": [{"number": 3}], "organs": 3}
    before = jobs.get("a").version
    jobs.begin("a", "read")
    jobs.note("a", "read", "well")
    jobs.begin("a", "check")
    assert [(step.name, step.state, step.note) for step in jobs.get("a").steps] == [
        ("read", "done", "well"), ("check", "running", ""),
    ]  # fmt: skip
    assert jobs.get("a").version > before
    assert jobs.delete("a")
    assert not jobs.delete("a")
    with pytest.raises(CTGLIPError, match="no such scan"):
        jobs.get("a")
