"""Where cases are worked on: here, one after the other, or by Ray.

Only paths and small results travel through Ray's object store; a worker reads and writes voxels itself. Studies that
need TotalSegmentator go to a pool of actors, one a GPU, where there are GPUs; all others are tasks. A worker that has
started TotalSegmentator keeps it, its model loaded, for the studies that follow.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ctglip.errors import OutputError
from ctglip.parallel import connect_ray, prepare_ray
from ctglip.store.journal import JournalEntry
from ctglip_preprocessing.case import Case, close_segmenters, run_case, segmentation_of
from ctglip_preprocessing.interrupt import Stop, never

SETTLE_S = 15.0
"""How long studies at work may take to end, once the run is to stop, before they are cancelled, and after."""
QUEUED = 2
"""Cases handed to Ray beyond the number of its CPUs, so that no worker waits for the driver."""


CaseResults = Generator[JournalEntry, None, None]


def execute(cases: Sequence[Case], workers: int = 1, address: str | None = None, stop: Stop = never) -> CaseResults:
    """Work on cases, in any order, and yield what became of each as it comes.

    Args:
        workers: processes on this machine; 1 works in this process, without Ray.
        address: join this Ray cluster instead.
        stop: once it is true no more cases are begun, and the results end early.

    Raises:
        CTGLIPError: ``no_cluster`` when no Ray cluster answers at ``address``, ``no_ray`` when none starts here.
        OutputError: the store cannot be written; the study at hand is not entered.
    """
    if not cases or (address is None and workers == 1):
        return _in_process(cases, stop)
    return _on_ray(cases, workers, address, stop)


def _in_process(cases: Sequence[Case], stop: Stop) -> CaseResults:
    try:
        for case in cases:
            if stop():
                return
            yield run_case(case)
    finally:
        close_segmenters()


@dataclass
class _Job:
    """A case with Ray, or waiting to be given to it."""

    case: Case
    attempts: int = 0
    started: float = 0.0


class _Waiting:
    """Cases by their numbers that are yet to be handed out, and those that are to be tried again, which come first."""

    def __init__(self, cases: Sequence[Case], numbers: Iterable[int]) -> None:
        self._cases = cases
        self._numbers = array("q", reversed(list(numbers)))
        self._again: list[_Job] = []

    def __bool__(self) -> bool:
        return bool(self._numbers or self._again)

    def pop(self) -> _Job:
        return self._again.pop() if self._again else _Job(self._cases[self._numbers.pop()])

    def append(self, job: _Job) -> None:
        self._again.append(job)

    def clear(self) -> None:
        self._numbers, self._again = array("q"), []


class _Tasks:
    """Cases for any worker with enough free CPUs and memory."""

    def __init__(self, waiting: _Waiting, gigabytes: float, cpus: int = 1) -> None:
        import ray

        def work(case: Case) -> JournalEntry:
            return run_case(case, hard_limits=True)

        self.waiting = waiting
        self._cpus = _bounded("CPU", cpus)
        memory = _bounded("memory", int(gigabytes * 1e9))
        self._work: Any = ray.remote(num_cpus=self._cpus, memory=memory, max_retries=0)(work)
        self._running = 0

    def has_room(self) -> bool:
        return self._running < _resource("CPU") // self._cpus + QUEUED

    def submit(self, case: Case) -> Any:
        self._running += 1
        return self._work.remote(case)

    def release(self, reference: Any) -> None:  # noqa: ARG002
        self._running -= 1


class _Actors:
    """Cases for one process a GPU, each with its models loaded once; a process that dies is started anew."""

    def __init__(self, waiting: _Waiting) -> None:
        import ray

        class CaseActor:
            def work(self, case: Case) -> JournalEntry:
                """Take one case through all stages."""
                return run_case(case, hard_limits=True)

        self.waiting = waiting
        kind: Any = ray.remote(num_cpus=1, num_gpus=1, max_restarts=-1, max_task_retries=0)(CaseActor)
        self._idle = [kind.remote() for _ in range(int(_resource("GPU")))]
        self._busy: dict[Any, Any] = {}

    def has_room(self) -> bool:
        return bool(self._idle)

    def submit(self, case: Case) -> Any:
        actor = self._idle.pop()
        reference = actor.work.remote(case)
        self._busy[reference] = actor
        return reference

    def release(self, reference: Any) -> None:
        self._idle.append(self._busy.pop(reference))


def _on_ray(cases: Sequence[Case], workers: int, address: str | None, stop: Stop) -> CaseResults:
    prepare_ray()
    import ray

    ours = not ray.is_initialized()
    running: dict[Any, tuple[_Tasks | _Actors, _Job]] = {}
    give_up_at = math.inf
    try:
        if ours:
            connect_ray(workers, address)
        pools = _pools(cases)
        while running or any(pool.waiting for pool in pools):
            if stop():
                for pool in pools:
                    pool.waiting.clear()
                give_up_at = min(give_up_at, time.monotonic() + SETTLE_S)
                if not running or time.monotonic() > give_up_at:
                    break
            for pool in pools:
                while pool.waiting and pool.has_room():
                    job = pool.waiting.pop()
                    job.attempts, job.started = job.attempts + 1, time.monotonic()
                    running[pool.submit(job.case)] = pool, job
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for reference in ready:
                pool, job = running.pop(reference)
                pool.release(reference)
                result = _outcome(reference, job)
                if result is None:
                    pool.waiting.append(job)
                else:
                    yield result
    finally:
        for reference, (pool, _) in running.items():
            ray.cancel(reference, force=isinstance(pool, _Tasks))
        if running:  # Ray can abort the whole process when a task answers while it is being shut down
            ray.wait(list(running), num_returns=len(running), timeout=SETTLE_S)
        if ours:
            ray.shutdown()


def _pools(cases: Sequence[Case]) -> list[_Tasks | _Actors]:
    """The cases by the kind of worker that they need."""
    config = cases[0].plan.config
    pools: list[_Tasks | _Actors] = []
    slow, quick = array("q"), array("q")
    may_be_slow = cases[0].plan.modality.segmentation(config.recipe) is not None
    for number in range(len(cases)):
        (slow if may_be_slow and segmentation_of(cases[number]) else quick).append(number)
    if slow and (segmenter := segmentation_of(cases[slow[0]])):
        waiting = _Waiting(cases, slow)
        if segmenter.device != "cpu" and _resource("GPU") >= 1:
            pools.append(_Actors(waiting))
        else:
            pools.append(_Tasks(waiting, config.study_memory_gb + segmenter.memory_gb, segmenter.threads or 1))
    if quick:
        pools.append(_Tasks(_Waiting(cases, quick), config.study_memory_gb))
    return pools


def _bounded(name: str, most: int) -> int:
    """What Ray sets aside for a study, never more than the smallest node has: else it would wait for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    return int(min(most, *(node.get(name, 0) for node in nodes)))


def _resource(name: str) -> float:
    import ray

    return float(ray.cluster_resources().get(name, 0))


def _outcome(reference: Any, job: _Job) -> JournalEntry | None:
    """What became of a case, or None when its worker died under it and it is to be tried again.

    Raises:
        OutputError: the store cannot be written.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    config = job.case.plan.config
    elapsed = time.monotonic() - job.started
    try:
        return ray.get(reference)
    except OutOfMemoryError:
        code, message = "out_of_memory", "The machine ran out of memory while this study was worked on."
    except RayError as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, OutputError):
            raise error.cause from error
        code, message = "worker_died", f"Its worker died: {type(error).__name__}."
        if elapsed > config.study_timeout_s:
            code, message = "timeout", f"It took longer than {config.study_timeout_s:g} s (study_timeout_s)."
    if code != "timeout" and job.attempts <= config.worker_retries:
        return None
    job.case.seconds["worker"] = elapsed
    return job.case.failed("worker", code, message, attempts=job.attempts)
