"""Work side by side, in threads or processes, each of which counts on one thread.

numpy and torch start a thread a core for one product of matrices. Where every core has its own work already, these
threads wait for each other: two that cut organ crops on two cores took twice as long as with one thread each.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from threadpoolctl import threadpool_limits


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; while it lives, numpy's products are made on the thread that asks for them."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(count) as pool:
        yield pool


@contextmanager
def one_thread() -> Iterator[None]:
    """For work of many small steps, such as a fit of a few hundred rows.

    Threads that wait for each other after each step take up to ten times the processor time of one.
    """
    with threadpool_limits(1):
        yield


def count_on_one_thread() -> None:
    """For a worker process to begin with: libraries that are loaded already, and those that are yet to be."""
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)


def begin_worker() -> None:
    """For a process of a pool to begin with: it counts on one thread, and ends with its parent."""
    count_on_one_thread()
    end_with_parent()


def end_with_parent() -> None:
    """End this process within about a second once its parent is gone (killed, too)."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def private_ray_token() -> None:
    """Keep the file of a Ray cluster's token, where there is one, from other users of the machine."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    for path in filter(None, (named, Path.home() / ".ray" / "auth_token")):
        with suppress(OSError):
            Path(path).chmod(0o600)


def python_module(name: str) -> tuple[str, ...]:
    """The command that runs a module in a process of its own; files of the working folder are none of its modules."""
    return sys.executable, "-P", "-m", name


def python_environment() -> dict[str, str]:
    """This process's environment, and where a process of ``python_module`` finds this package."""
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))}
