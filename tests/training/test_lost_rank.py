"""A rank that stands still or is killed ends the others soon, each with one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
import torch
import torch.distributed as dist
from ctglip.cli.failures import failure
from ctglip.training import heartbeat
from ctglip.training.distributed import joined

heartbeat.BEAT_S, heartbeat.LOST_S = 0.3, 8.0
try:
    with joined("cpu") as context:
        print("joined", flush=True)
        for step in range(int(sys.argv[1])):
            dist.all_reduce(torch.ones(2))
            time.sleep(float(sys.argv[2]) if context.rank == 1 else 0)
except Exception as error:
    sys.exit("ctglip: " + failure(error)[0])
print("done", flush=True)
"""


@contextmanager
def ranks(folder: Path, steps: int, pause: float = 0.05) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that have joined."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(program), str(steps), str(pause)]
    started = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(k), "LOCAL_RANK": str(k)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for k in (0, 1)
    ]  # fmt: skip
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_rank_ends_with_one_line(lost: int, number: signal.Signals, tmp_path: Path) -> None:
    with ranks(tmp_path, 100_000) as processes:
        time.sleep(1)
        processes[lost].send_signal(number)
        start = time.monotonic()
        other = processes[1 - lost]
        _, said = other.communicate(timeout=60)
        assert time.monotonic() - start < 40
        assert other.returncode not in (0, None)
        line = [one for one in said.splitlines() if one.startswith("ctglip: ")]
        assert len(line) == 1, said
        assert "--resume" in line[0]
        assert "Traceback" not in said


def test_a_rank_that_is_slow_is_not_lost(tmp_path: Path) -> None:
    """Rank 1 works for longer than a lost rank is silent, and beats meanwhile."""
    with ranks(tmp_path, 2, pause=12.0) as processes:
        for process in processes:
            out, said = process.communicate(timeout=90)
            assert process.returncode == 0, said
            assert out.endswith("done\n")
