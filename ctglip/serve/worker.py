"""The process that reads scans, one at a time in the order in which they came, and the server's hold on it.

The server starts it with one line of JSON on its standard input and keeps that open: when the server ends, however it
ends, the worker ends too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ctglip.errors import CTGLIPError
from ctglip.serve.folder import ServeFolder
from ctglip.serve.jobs import JobStore
from ctglip.serve.uploads import UploadLimits

POLL_S = 0.1
GRACE_S = 2.0
"""How long work that nobody wants any more may go on before its process is ended."""


class WorkerHold:
    """Starts the worker, starts it again when it ends, and ends it.

    Args:
        folder, jobs: of the server.
        runs: of the models.
        store: of which studies are opened, or None.
        limits: of uploads.
    """

    def __init__(
        self, folder: ServeFolder, jobs: JobStore, runs: Sequence[Path], store: Path | None, limits: UploadLimits
    ) -> None:
        self.jobs = jobs
        self._task = json.dumps(
            {
                "folder": str(folder.root),
                "runs": [str(run.resolve()) for run in runs],
                "store": None if store is None else str(store.resolve()),
                "limits": asdict(limits),
            }
        )
        self._process: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Start the worker; what a server before left half done is done first."""
        self.jobs.resume()
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        """Of the worker, while it runs."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the worker; what it was reading waits for the next start."""
        self._ended.set()
        self._thread.join(timeout=10)
        self._kill()
        self.jobs.resume()

    def _start(self) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "ctglip.serve.worker")
        process = subprocess.Popen(  # noqa: S603  our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert process.stdin is not None
        process.stdin.write(self._task + "\n")
        process.stdin.flush()
        return process

    def _watch(self) -> None:
        unwanted: float | None = None
        held: str | None = None
        self._process = self._start()
        while not self._ended.wait(POLL_S):
            if self._process.poll() is not None:
                self._replace()
                held, unwanted = None, None
            running = self.jobs.running()
            if running is not None:
                held, unwanted = running.id, None
            elif held is not None:  # done, or cancelled or deleted in the middle
                unwanted = unwanted or time.monotonic()
                if not self._is_stopped(held):
                    held, unwanted = None, None
                elif time.monotonic() - unwanted > GRACE_S:
                    self._kill()
                    self._replace()
                    held, unwanted = None, None

    def _replace(self) -> None:
        """A new worker for one that has ended. What it had, however short, the list knows: that is tried again."""
        lost = self.jobs.running()
        if lost is not None:
            self.jobs.give_up(lost.id)
        self._process = self._start()

    def _is_stopped(self, scan_id: str) -> bool:
        """Whether somebody stopped the work on an upload, which then may still go on."""
        try:
            job = self.jobs.get(scan_id)
        except CTGLIPError:
            return True
        return job.state == "cancelled" and any(step.state == "running" for step in job.steps)

    def _kill(self) -> None:
        if self._process is not None:
            end_tree(self._process.pid)
            self._process.wait()


def end_tree(process: int) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                end_tree(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def main() -> None:
    """Read the task, then work until the server is gone."""
    os.umask(0o077)
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()
    os.nice(5)  # questions come first
    from ctglip.serve.models import load_models
    from ctglip.serve.work import Workplace, work_on
    from ctglip.store.tables import Store

    folder = ServeFolder(Path(task["folder"]))
    place = Workplace(
        folder,
        JobStore(folder.jobs),
        load_models([Path(run) for run in task["runs"]]),
        UploadLimits(**task["limits"]),
        None if task["store"] is None else Store.open(Path(task["store"])),
    )
    while True:
        job = place.jobs.claim()
        if job is None:
            time.sleep(POLL_S)
        else:
            work_on(job, place)


def _end_with_server() -> None:
    sys.stdin.read()
    end_tree(os.getpid())


if __name__ == "__main__":
    main()
