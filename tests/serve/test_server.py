"""The server and its worker, run in this process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve import worker
from ctglip.serve.client import ServeClient
from ctglip.serve.folder import ServeFolder
from ctglip.serve.jobs import JobStore
from ctglip.serve.server import ServeOptions, serve
from ctglip.serve.uploads import UploadLimits
from ctglip.serve.worker import WorkerHold
from ctglip.store.tables import Store


@pytest.fixture(autouse=True)
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server and its worker change of their process stays as it is here."""
    monkeypatch.setattr(os, "umask", lambda _: 0)
    monkeypatch.setattr(os, "nice", lambda _: 0)


def test_a_server_answers_until_it_is_interrupted(
    trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(WorkerHold, "_start", lambda _: subprocess.Popen(sleeper, text=True))
    found: dict[str, Any] = {}

    def use(address: str) -> None:
        try:
            client = ServeClient(address)
            found["server"], found["scan"] = client.server(), client.upload(*files)
            found["scans"] = client.scans()
            client.cancel(found["scan"])
            client.start(found["scan"])
            with pytest.raises(CTGLIPError) as refused:
                client.choose(found["scan"], 1)
            found["refused"] = refused.value.code
            with pytest.raises(CTGLIPError, match="was not read in"):
                client.wait(found["scan"], 0.1)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    options = ServeOptions([trained[1]], trained[0].path, port=0, folder=tmp_path / "serve")
    serve(options, lambda address: threading.Thread(target=use, args=(address,)).start())
    assert found["server"]["models"]
    assert found["server"]["store"]
    assert [scan["id"] for scan in found["scans"]] == [found["scan"]]
    assert found["refused"] == "wrong_state"
    ServeFolder(tmp_path / "serve").lock()


def test_a_client_is_told_of_a_server_that_says_nothing() -> None:
    class Busy(BaseHTTPRequestHandler):
        """Answers as a server at its limit does."""

        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    with HTTPServer(("127.0.0.1", 0), Busy) as busy:
        threading.Thread(target=busy.handle_request).start()
        with pytest.raises(CTGLIPError, match="answers 503"):
            ServeClient(f"http://127.0.0.1:{busy.server_port}")


def test_a_port_that_is_taken_is_named(trained: tuple[Store, Path], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CTGLIPError, match=f"Port {port}"):
            serve(ServeOptions([trained[1]], port=port, folder=tmp_path))


def test_the_worker_reads_what_waits(
    trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ServeFolder(tmp_path)
    jobs = JobStore(folder.jobs)
    for scan_id in ("0123456789abcdef", "fedcba9876543210"):
        for role, path in zip(("scan", "masks"), files, strict=True):
            target = folder.uploaded(scan_id, role) / f"00001{''.join(path.suffixes)}"
            target.parent.mkdir(parents=True)
            target.write_bytes(path.read_bytes())
        jobs.add(scan_id)
        jobs.queue(scan_id)
    task = {"folder": str(tmp_path), "runs": [str(trained[1])], "store": str(trained[0].path),
            "limits": asdict(UploadLimits())}  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(task) + "\n"))
    monkeypatch.setattr(worker, "_end_with_server", lambda: None)

    def nothing_more(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.time, "sleep", nothing_more)
    with pytest.raises(KeyboardInterrupt):
        worker.main()
    assert {job.state for job in jobs.all()} == {"ready"}
