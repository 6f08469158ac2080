"""Batches come in order and the same for any number of workers; errors come through; workers end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from ctglip.data.loading import AHEAD, prefetched
from ctglip.errors import CTGLIPError, StoreError

HOWEVER = pytest.mark.parametrize(("workers", "ahead"), [(0, False), (0, True), (2, True)])


def noise(step: int) -> dict[str, Any]:
    rng = np.random.default_rng([3, step])
    return {"step": step, "image": torch.from_numpy(rng.standard_normal((4, 8, 8), dtype=np.float32))}


@pytest.mark.parametrize(("workers", "ahead"), [(0, False), (0, True), (1, True), (2, True)])
def test_any_number_of_workers_gives_the_same_batches_in_order(workers: int, ahead: bool) -> None:
    state = torch.get_rng_state()
    found = list(prefetched(noise, 2, 11, workers, ahead))
    assert [batch["step"] for batch, _ in found] == list(range(2, 11))
    assert all(torch.equal(batch["image"], noise(batch["step"])["image"]) for batch, _ in found)
    assert all(waited >= 0 for _, waited in found)
    assert torch.equal(torch.get_rng_state(), state)


@HOWEVER
def test_no_steps_no_batches(workers: int, ahead: bool) -> None:
    assert list(prefetched(noise, 5, 5, workers, ahead)) == []


@HOWEVER
def test_an_error_comes_through_where_its_step_would(workers: int, ahead: bool) -> None:
    def damaged(step: int) -> Any:
        if step == 3:
            raise StoreError("study s003 is gone.", code="damaged_store", fix="Look for it.")
        return noise(step)

    batches = prefetched(damaged, 0, 9, workers, ahead)
    assert [next(batches)[0]["step"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StoreError, match=r"s003 is gone") as error:
        next(batches)
    assert (error.value.code, error.value.fix) == ("damaged_store", "Look for it.")


@HOWEVER
def test_our_own_faults_come_through_as_they_are(workers: int, ahead: bool) -> None:
    def wrong(step: int) -> Any:
        return {}["nothing"]

    with pytest.raises(KeyError, match="nothing"):
        list(prefetched(wrong, 0, 2, workers, ahead))


def test_in_turn_nothing_is_made_before_it_is_asked_for_and_in_a_thread_one_batch() -> None:
    for ahead in (False, True):
        made: list[int] = []
        coming = prefetched(lambda step, made=made: made.append(step) or step, 0, 9, 0, ahead)
        assert next(coming)[0] == 0
        coming.close()
        assert made == ([0, 1] if ahead else [0])


def test_a_killed_worker_is_an_error_not_a_wait() -> None:
    def killed(step: int) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return noise(step)

    with pytest.raises((CTGLIPError, RuntimeError), match="DataLoader worker"):
        list(prefetched(killed, 0, 4, 1))


def test_workers_make_no_more_than_a_few_batches_ahead(tmp_path) -> None:
    def counted(step: int) -> int:
        (tmp_path / str(step)).touch()
        return step

    batches = prefetched(counted, 0, 100, 2)
    for step in range(4):
        assert next(batches)[0] == step
        assert len(list(tmp_path.iterdir())) <= step + 1 + 2 * AHEAD
    batches.close()


def test_a_worker_counts_on_one_thread() -> None:
    def threads(step: int) -> set[int]:
        assert (np.ones((4, 4)) @ np.ones((4, 4)) == 4).all()
        return {one["num_threads"] for one in threadpool_info()} | {torch.get_num_threads()}

    assert [found for found, _ in prefetched(threads, 0, 2, 2)] == [{1}, {1}]


def test_closing_ends_the_workers() -> None:
    batches = prefetched(lambda step: os.getpid(), 0, 1000, 2)
    pids = {next(batches)[0] for _ in range(4)}
    assert len(pids) == 2
    batches.close()
    assert not any(alive(pid) for pid in pids)


PARENT = """
import os
from ctglip.data.loading import prefetched
batches = prefetched(lambda step: os.getpid(), 0, 10**6, 2)
print(*{next(batches)[0] for _ in range(4)}, flush=True)
input()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(how: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.send_signal(how)
    parent.wait()
    patience = time.monotonic() + 120
    while any(alive(pid) for pid in pids) and time.monotonic() < patience:
        time.sleep(0.2)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:  # noqa: PTH123
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
