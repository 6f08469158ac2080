"""Work side by side, in threads, processes or on Ray, each of which counts on one thread.

numpy and torch start a thread a core for one product of matrices. Where every core has its own work already, these
threads wait for each other: two that cut organ crops on two cores took twice as long as with one thread each.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from ctglip.errors import CTGLIPError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
QUEUED = 2
"""Pieces of work that are handed out for each worker, so that none waits for the next."""
OBJECT_STORE_BYTES = 100 * 2**20
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
}


def spread(
    work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int = 1, address: str | None = None
) -> Iterator[_Result]:
    """The results of a function for some items, in their order; a few are at work at a time, however many there are.

    Args:
        work: a function of a module; items and results travel, so they should be small.
        workers: processes on this machine; 1 works in this process.
        address: a Ray cluster that does it instead.

    Raises:
        CTGLIPError: ``no_cluster`` when no Ray cluster answers at ``address``; ``worker_died`` when a process here did;
            what ``work`` raises.
    """
    if address is not None:
        return _on_ray(work, items, workers, address)
    return map(work, items) if workers == 1 else _in_processes(work, items, workers)


def _in_processes(work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    with ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) as pool:
        running: deque[Future[_Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > QUEUED * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            raise CTGLIPError(
                "A worker process died before its work was done; most often the memory was used up.",
                code="worker_died",
                fix="Use fewer workers.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _on_ray(work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, address: str) -> Iterator[_Result]:
    prepare_ray()
    import ray
    from ray.exceptions import RayTaskError

    ours = not ray.is_initialized()
    if ours:
        connect_ray(workers, None if address == "local" else address)
    remote: Any = ray.remote(num_cpus=1)(work)
    most = QUEUED * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: deque[Any] = deque()
    try:
        for item in items:
            running.append(remote.remote(item))
            if len(running) > most:
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())
    except RayTaskError as error:
        if isinstance(error.cause, CTGLIPError):
            raise error.cause from error
        raise
    finally:
        for reference in running:
            ray.cancel(reference)
        if ours:
            ray.shutdown()


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


def _private_ray_token() -> None:
    """Keep the file of a Ray cluster's token, where there is one, from other users of the machine."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    for path in filter(None, (named, Path.home() / ".ray" / "auth_token")):
        with suppress(OSError):
            Path(path).chmod(0o600)


def prepare_ray() -> None:
    """For a process that is about to import Ray: it reports to nobody."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect_ray(workers: int, address: str | None) -> None:
    """Start a Ray of our own on this machine, or join a cluster; its token is kept from other users.

    Raises:
        CTGLIPError: ``no_cluster`` when no Ray cluster answers at ``address``, ``no_ray`` when none starts here.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        _start(workers, quiet)
        _private_ray_token()
        return
    try:
        _probe(address)
        ray.init(address=address, **quiet)
        _private_ray_token()
    except (OSError, RuntimeError, ValueError) as error:
        raise CTGLIPError(
            f"No Ray cluster answers at {address!r}: {error}.",
            code="no_cluster",
            fix="Start one with: ray start --head, or use --workers N here. RAY_AUTH_MODE=token if it asks for one.",
        ) from error


def _start(workers: int, options: dict[str, Any]) -> None:
    """A Ray of our own on this machine; a busy machine gets a second chance."""
    import ray

    for attempt in (1, 2):
        try:
            ray.init(address="local", num_cpus=workers, **options)
            return
        except Exception as error:  # Ray raises bare exceptions here
            ray.shutdown()
            if attempt == 2:
                raise CTGLIPError(
                    f"Ray did not start: {error}",
                    code="no_ray",
                    fix="Try again, or use --workers 1, which needs no Ray.",
                ) from error


def _probe(address: str) -> None:
    """Raise an OSError when nobody listens at ``host:port``; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def python_module(name: str) -> tuple[str, ...]:
    """The command that runs a module in a process of its own; files of the working folder are none of its modules."""
    return sys.executable, "-P", "-m", name


def python_environment() -> dict[str, str]:
    """This process's environment, and where a process of ``python_module`` finds this package."""
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))}
