"""The server's hold on its worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctglip.serve.folder import ServeFolder
from ctglip.serve.jobs import JobStore
from ctglip.serve.uploads import UploadLimits
from ctglip.serve.worker import WorkerHold, end_tree


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerHold:
    """A hold on a worker that only sleeps."""
    folder = ServeFolder(tmp_path)

    def start(_: WorkerHold) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)

    monkeypatch.setattr(WorkerHold, "_start", start)
    monkeypatch.setattr("ctglip.serve.worker.GRACE_S", 0.1)
    return WorkerHold(folder, JobStore(folder.jobs), [tmp_path], None, UploadLimits())


def test_work_that_nobody_wants_is_ended(hold: WorkerHold) -> None:
    jobs = hold.jobs
    jobs.add("a")
    jobs.queue("a")
    hold.start()
    until(lambda: hold.process_id)
    first = hold.process_id
    jobs.claim()
    jobs.begin("a", "segment")
    time.sleep(0.3)
    jobs.cancel("a")
    until(lambda: hold.process_id != first)
    second = hold.process_id
    jobs.add("b")
    jobs.queue("b")
    jobs.claim()
    time.sleep(0.3)
    jobs.delete("b")
    until(lambda: hold.process_id != second)
    hold.close()


def test_a_worker_that_ends_is_started_again_and_its_scan_waits(hold: WorkerHold) -> None:
    jobs = hold.jobs
    jobs.add("a")
    jobs.queue("a")
    hold.start()
    until(lambda: hold.process_id)
    first = hold.process_id
    jobs.claim()
    time.sleep(0.3)
    assert first is not None
    end_tree(first)
    until(lambda: hold.process_id != first)
    assert jobs.get("a").state == "queued"
    jobs.claim()
    time.sleep(0.3)
    hold.close()
    assert jobs.get("a").state == "queued", "what was being read waits for the next start"


def test_a_scan_waits_again_whose_worker_ended_as_soon_as_it_had_it(
    hold: WorkerHold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sooner than the server looks: between two looks a worker takes a scan and ends."""
    jobs, started = hold.jobs, []
    jobs.add("a")
    jobs.queue("a")

    def start(_: WorkerHold) -> subprocess.Popen[str]:
        started.append(jobs.claim())
        code = "pass" if len(started) == 1 else "import time; time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", code], text=True)
        if len(started) == 1:
            process.wait()
        return process

    monkeypatch.setattr(WorkerHold, "_start", start)
    hold.start()
    until(lambda: len(started) == 2)
    hold.close()
    assert [job.id for job in started] == ["a", "a"], "the second worker is given it"


def test_a_tree_of_processes_ends_as_a_whole() -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    end_tree(parent.pid)
    parent.wait()
    until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
