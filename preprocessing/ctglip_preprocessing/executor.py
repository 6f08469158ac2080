"""Where cases are worked on: here, one after the other, or by Ray. The only file that knows Ray.

Only paths and small results travel through Ray's object store; a worker reads and writes voxels itself. Studies that
need TotalSegmentator go to a pool of actors, one a GPU, where there are GPUs; all others are tasks. A worker that has
started TotalSegmentator keeps it, its model loaded, for the studies that follow.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctglip.errors import CTGLIPError
from ctglip.modality import modality_of
from ctglip.types import Failure
from ctglip_preprocessing.case import Case, CaseResult, Plan, run_case
from ctglip_preprocessing.interrupt import Stop, never
from ctglip_preprocessing.stages.segment import close_segmenter, segmentation_of

OBJECT_STORE_BYTES = 100 * 2**20
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
}
SETTLE_S = 15.0
"""How long studies at work may take to end, once the run is to stop, before they are cancelled, and after."""
QUEUED = 2
"""Cases handed to Ray beyond the number of its CPUs, so that no worker waits for the driver."""


def execute(
    cases: Sequence[Case], plan: Plan, workers: int = 1, address: str | None = None, stop: Stop = never
) -> Generator[CaseResult, None, None]:
    """Work on cases, in any order, and yield each result as it comes.

    Args:
        workers: processes on this machine; 1 works in this process, without Ray.
        address: join this Ray cluster instead.
        stop: once it is true no more cases are begun, and the results end early.

    Raises:
        CTGLIPError: ``no_cluster`` when no Ray cluster answers at ``address``, ``no_ray`` when none starts here.
    """
    if not cases or (address is None and workers == 1):
        return _in_process(cases, plan, stop)
    return _on_ray(cases, plan, workers, address, stop)


def _in_process(cases: Sequence[Case], plan: Plan, stop: Stop) -> Generator[CaseResult, None, None]:
    try:
        for case in cases:
            if stop():
                return
            yield run_case(case, plan)
    finally:
        close_segmenter()


@dataclass
class _Job:
    """A case with Ray, or waiting to be given to it."""

    case: Case
    attempts: int = 0
    started: float = 0.0
    pool: _WorkerPool | None = field(default=None, repr=False)


class _WorkerPool(Protocol):
    """A kind of worker."""

    def has_room(self) -> bool: ...

    def submit(self, case: Case) -> Any: ...

    def release(self, reference: Any) -> None: ...


class _Tasks:
    """Any worker with enough free CPUs and memory."""

    def __init__(self, plan: Plan, gigabytes: float, cpus: int = 1) -> None:
        import ray

        def work(case: Case, plan: Plan) -> CaseResult:
            return run_case(case, plan, hard_limits=True)

        self._cpus = _bounded("CPU", cpus)
        memory = _bounded("memory", int(gigabytes * 1e9))
        self._work: Any = ray.remote(num_cpus=self._cpus, memory=memory, max_retries=0)(work)
        self._plan = ray.put(plan)
        self._running = 0

    def has_room(self) -> bool:
        return self._running < _resource("CPU") // self._cpus + QUEUED

    def submit(self, case: Case) -> Any:
        self._running += 1
        return self._work.remote(case, self._plan)

    def release(self, reference: Any) -> None:  # noqa: ARG002
        self._running -= 1


class _Actors:
    """One process a GPU, each with its models loaded once; a process that dies is started anew."""

    def __init__(self, plan: Plan) -> None:
        import ray

        class CaseActor:
            def work(self, case: Case, plan: Plan) -> CaseResult:
                return run_case(case, plan, hard_limits=True)

        kind: Any = ray.remote(num_cpus=1, num_gpus=1, max_restarts=-1, max_task_retries=0)(CaseActor)
        self._plan = ray.put(plan)
        self._idle = [kind.remote() for _ in range(int(_resource("GPU")))]
        self._busy: dict[Any, Any] = {}

    def has_room(self) -> bool:
        return bool(self._idle)

    def submit(self, case: Case) -> Any:
        actor = self._idle.pop()
        reference = actor.work.remote(case, self._plan)
        self._busy[reference] = actor
        return reference

    def release(self, reference: Any) -> None:
        self._idle.append(self._busy.pop(reference))


def _on_ray(
    cases: Sequence[Case], plan: Plan, workers: int, address: str | None, stop: Stop
) -> Generator[CaseResult, None, None]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    ours = not ray.is_initialized()
    running: dict[Any, _Job] = {}
    patience = math.inf
    try:
        if ours:
            _connect(workers, address)
        waiting = _queues(cases, plan)
        while running or any(waiting.values()):
            if stop():
                waiting = {pool: [] for pool in waiting}
                patience = min(patience, time.monotonic() + SETTLE_S)
                if not running or time.monotonic() > patience:
                    break
            for pool, jobs in waiting.items():
                while jobs and pool.has_room():
                    job = jobs.pop()
                    job.pool, job.attempts, job.started = pool, job.attempts + 1, time.monotonic()
                    running[pool.submit(job.case)] = job
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for reference in ready:
                job = running.pop(reference)
                assert job.pool is not None
                job.pool.release(reference)
                result = _outcome(reference, job, plan)
                if result is None:
                    waiting[job.pool].append(job)
                else:
                    yield result
    finally:
        for reference, job in running.items():
            ray.cancel(reference, force=isinstance(job.pool, _Tasks))
        if running:  # Ray can abort the whole process when a task answers while it is being shut down
            ray.wait(list(running), num_returns=len(running), timeout=SETTLE_S)
        if ours:
            ray.shutdown()


def _queues(cases: Sequence[Case], plan: Plan) -> dict[_WorkerPool, list[_Job]]:
    """The cases of each lane, the first one last."""
    config, recipe = plan.config, plan.config.recipe
    pools: dict[_WorkerPool, list[_Job]] = {}
    slow = [case for case in cases if segmentation_of(case.row, recipe)]
    if slow and (segmenter := modality_of(recipe).segmentation(recipe)):
        if segmenter.device != "cpu" and _resource("GPU") >= 1:
            pool = _Actors(plan)
        else:
            pool = _Tasks(plan, config.study_memory_gb + segmenter.memory_gb, segmenter.threads or 1)
        pools[pool] = [_Job(case) for case in reversed(slow)]
    chosen = {case.row.study_id for case in slow}
    quick = [case for case in cases if case.row.study_id not in chosen]
    if quick:
        pools[_Tasks(plan, config.study_memory_gb)] = [_Job(case) for case in reversed(quick)]
    return pools


def _connect(workers: int, address: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        _start(workers, quiet)
        return
    try:
        _probe(address)
        ray.init(address=address, **quiet)
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


def _bounded(name: str, most: int) -> int:
    """What Ray sets aside for a study, never more than the smallest node has: else it would wait for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    return int(min(most, *(node.get(name, 0) for node in nodes)))


def _resource(name: str) -> float:
    import ray

    return float(ray.cluster_resources().get(name, 0))


def _outcome(reference: Any, job: _Job, plan: Plan) -> CaseResult | None:
    """A result, or None when the study's worker died under it and the study is to be tried again."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayError

    config = plan.config
    elapsed = time.monotonic() - job.started
    try:
        return ray.get(reference)
    except OutOfMemoryError:
        code, message = "out_of_memory", "The machine ran out of memory while this study was worked on."
    except RayError as error:
        code, message = "worker_died", f"Its worker died: {type(error).__name__}."
        if elapsed > config.study_timeout_s:
            code, message = "timeout", f"It took longer than {config.study_timeout_s:g} s (study_timeout_s)."
    if code != "timeout" and job.attempts <= config.worker_retries:
        return None
    study_id = job.case.row.study_id
    failure = Failure(study_id, "worker", code, message, {"attempts": job.attempts})
    return CaseResult(study_id, job.case.fingerprint, "failed", "", failure, {"worker": elapsed})
