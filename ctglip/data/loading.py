"""Batches for one step after another: made in turn with them, ahead of them in a thread, or in worker processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ctglip.errors import CTGLIPError
from ctglip.parallel import count_on_one_thread

Batches = Callable[[int], Any]
"""The batch of a step, on the CPU: a function of the step alone, whatever was asked for before."""
AHEAD = 2
"""Batches that a worker process makes ahead of the one that is waited for."""
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def prefetched(
    batches: Batches, start: int, stop: int, workers: int = 0, ahead: bool = True
) -> Generator[tuple[Any, float], None, None]:
    """The batches of the steps ``start .. stop - 1`` in order, each with the seconds that it was waited for.

    They are the same for any number of workers. Workers are forks of this process: what ``batches`` holds in memory
    is shared with them, what they change of it is not seen here, and libraries with threads of their own (polars) must
    not be called in it. They end when the iterator is closed, and when this
    process ends in whatever way; signals that are sent to the whole group of processes are this process's business.

    Args:
        batches: makes the batch of a step.
        start, stop: which steps.
        workers: processes that make batches, each at most ``AHEAD`` ahead; 0 makes them in this one.
        ahead: without workers, a thread makes a batch while the one before it is computed; else it is made when it is
            asked for: where both would share the same processor, taking turns is faster.

    Raises:
        CTGLIPError: code ``worker_died`` when the system killed a worker; or what ``batches`` raised, as it was.
        Exception: any other error of ``batches``; a worker's comes with its traceback in the message.
    """
    if workers:
        return _from_processes(batches, start, stop, workers)
    return _from_thread(batches, start, stop) if ahead else _in_turn(batches, start, stop)


def _in_turn(batches: Batches, start: int, stop: int) -> Generator[tuple[Any, float], None, None]:
    for step in range(start, stop):
        clock = time.perf_counter()
        batch = batches(step)
        yield batch, time.perf_counter() - clock


def _from_thread(batches: Batches, start: int, stop: int) -> Generator[tuple[Any, float], None, None]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, start) if start < stop else None
        for step in range(start, stop):
            assert coming is not None
            clock = time.perf_counter()
            batch = coming.result()
            waited = time.perf_counter() - clock
            coming = pool.submit(batches, step + 1) if step + 1 < stop else None
            yield batch, waited


def _from_processes(batches: Batches, start: int, stop: int, workers: int) -> Generator[tuple[Any, float], None, None]:
    loader: DataLoader[Any] = DataLoader(
        _Steps(batches),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # its own, so that torch's global one is where it would be without workers
    )
    coming = iter(loader)
    try:
        for _ in range(start, stop):
            clock = time.perf_counter()
            batch = _next(coming)
            yield batch, time.perf_counter() - clock
    finally:
        # now, not when the garbage is collected: a traceback may keep this frame, and later forks would inherit it
        coming._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]


def _next(coming: Iterator[Any]) -> Any:
    try:
        batch = next(coming)
    except (RuntimeError, ConnectionError, EOFError) as error:
        gone = isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error)
        if not gone or "Caught" in str(error):
            raise
        raise CTGLIPError(
            f"A process that makes batches died: {str(error).strip().rstrip('.')}.",
            code="worker_died",
            fix="Most often memory, or shared memory (/dev/shm), ran out: set fewer loop.workers.",
        ) from error
    if isinstance(batch, _Raised):
        raise batch.error
    return batch


@dataclass(frozen=True)
class _Raised:
    """A user's fault on its way to the parent, whole: a DataLoader would pass on its message alone."""

    error: CTGLIPError


class _Steps(Dataset[Any]):
    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches(step)
        except CTGLIPError as error:
            return _Raised(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(_: int) -> None:
    """A worker ends when the parent does, in whatever state; signals to the group (Ctrl-C) are the parent's to answer.

    It counts on one thread (torch sees to its own), or all workers together would take more than there are.
    """
    os.setpgrp()
    count_on_one_thread()
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; elsewhere a worker looks now and then
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
