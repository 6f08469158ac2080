"""Work side by side counts on one thread each."""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from ctglip.errors import CTGLIPError, StoreError
from ctglip.parallel import QUEUED, count_on_one_thread, spread, worker_threads


def _threads() -> set[int]:
    """As many as numpy's products are made on."""
    assert (np.ones((4, 4)) @ np.ones((4, 4)) == 4).all()
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_products_in_worker_threads_take_one_thread_and_afterwards_as_many_as_before() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = _threads()
        with worker_threads(2) as pool:
            within = [pool.submit(_threads).result() for _ in range(2)]
        assert (before, within, _threads()) == ({2}, [{1}, {1}], {2})


def test_a_worker_process_counts_on_one_thread_whatever_it_loads_later(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with ProcessPoolExecutor(1, get_context("spawn")) as free:
        assert free.submit(_threads).result() == {min(2, os.cpu_count() or 1)}
    with ProcessPoolExecutor(1, get_context("spawn"), count_on_one_thread) as bound:
        assert bound.submit(_threads).result() == {1}  # numpy is loaded for this, after the beginning


def _square(number: int) -> int:
    if number < 0:
        raise StoreError(f"{number} is no side.", code="no_study")
    return number * number


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 2}, {"address": "local"}])
def test_results_come_in_order_wherever_they_are_made(options: dict) -> None:
    assert list(spread(_square, range(40), **options)) == [number * number for number in range(40)]
    with pytest.raises(StoreError, match="-3 is no side") as caught:
        list(spread(_square, [1, -3, 2], **options))
    assert caught.value.code == "no_study"


def test_work_is_handed_out_a_little_at_a_time() -> None:
    taken: list[int] = []
    results = spread(_square, (taken.append(number) or number for number in range(1000)), 2)
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) <= 2 * QUEUED + 3
    results.close()  # type: ignore[attr-defined]


CHILD = """
import time
from ctglip.parallel import end_with_parent
end_with_parent()
print(1, flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_worker_that_dies_is_an_error_that_says_so() -> None:
    with pytest.raises(CTGLIPError, match="fewer workers") as caught:
        list(spread(os._exit, [1, 1], workers=2))
    assert caught.value.code == "worker_died"
