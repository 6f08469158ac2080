"""A server as it is started by a user: killed, interrupted, used by several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve.client import ServeClient
from ctglip.store.tables import Store

Starter = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(trained: tuple[Store, Path], tmp_path: Path) -> Iterator[Starter]:
    """Starts servers on one folder; gives the process and its address."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "ctglip", "serve", str(trained[1]), "--store", str(trained[0].path)]
        command += ["--port", "0", "--folder", str(tmp_path / "serve"), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.communicate(timeout=30)
        return process, line.split()[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text().split()]


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_server_goes_on_and_an_interrupted_one_ends_cleanly(start: Starter, files: tuple[Path, Path]) -> None:
    process, address = start()
    client = ServeClient(address)
    scans = [client.upload(*files) for _ in range(3)]
    until(lambda: any(client.scan(scan)["state"] == "running" for scan in scans))
    (worker,) = children(process.pid)
    process.kill()
    process.wait()
    until(lambda: not alive(worker), 20)
    process, address = start()
    client = ServeClient(address)
    assert {client.wait(scan, 120)["state"] for scan in scans} == {"ready"}
    assert client.ask(scans[0], ["liver"])["answers"][0]["probability"] is not None
    (worker,) = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not alive(worker)


@pytest.mark.slow
@pytest.mark.ci
def test_a_worker_that_dies_is_replaced_and_others_are_served(start: Starter, files: tuple[Path, Path]) -> None:
    process, address = start()
    client = ServeClient(address)
    first, second = client.upload(*files), client.upload(*files)
    until(lambda: client.scan(first)["state"] == "running")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert client.wait(first, 120)["state"] == "ready", "it is tried again"
    assert client.wait(second, 120)["state"] == "ready"


@pytest.mark.slow
def test_many_ask_at_once(start: Starter, files: tuple[Path, Path]) -> None:
    _, address = start()
    client = ServeClient(address)
    scan = client.upload(*files)
    assert client.wait(scan, 120)["state"] == "ready"
    found: list[float] = []

    def ask() -> None:
        mine = ServeClient(address)
        for question in ("liver: fatty liver", "spleen", "any abnormality?"):
            answers = mine.ask(scan, [question])["answers"]
            found.append(answers[0]["probability"])

    people = [threading.Thread(target=ask) for _ in range(10)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert len(found) == 30
    assert len(set(found)) <= 3
    client.cancel(client._call("POST", "/api/scans")["id"])
    opened = client.open_study("s001")
    assert client.wait(opened, 120)["state"] == "ready"
    assert client.heat_map(opened, "liver", "hepatic_steatosis")[:2] == b"\x1f\x8b"
    assert client.organs(opened)["organs"]
    assert client.cohort(size=1)["total"] == 30
    client.delete(opened)
    with pytest.raises(CTGLIPError, match="no such scan"):
        client.scan(opened)


@pytest.mark.slow
def test_the_command_says_what_is_wrong(trained: tuple[Store, Path], tmp_path: Path) -> None:
    def said(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "ctglip", "serve", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stderr

    assert "needed" in said(str(trained[1]), "--host", "0.0.0.0")[1]
    code, line = said(str(tmp_path / "nothing"), "--folder", str(tmp_path / "serve"))
    assert code == 2
    assert "Traceback" not in line
    with pytest.raises(CTGLIPError, match="Nobody answers"):
        ServeClient("http://127.0.0.1:9")
