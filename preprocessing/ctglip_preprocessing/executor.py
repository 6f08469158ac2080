"""Where cases are worked on: here, one after the other, or by Ray. The only file that knows Ray.

Only paths and small results travel through Ray's object store; a worker reads and writes voxels itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ctglip.errors import CTGLIPError
from ctglip.types import Failure
from ctglip_preprocessing.case import Case, CaseResult, Plan, run_case

OBJECT_STORE_BYTES = 100 * 2**20
QUEUED = 2
"""Cases handed to Ray beyond the number of its CPUs, so that no worker waits for the driver."""


def execute(cases: Sequence[Case], plan: Plan, workers: int = 1, address: str | None = None) -> Iterator[CaseResult]:
    """Work on cases, in any order, and yield each result as it comes.

    Args:
        workers: processes on this machine; 1 works in this process, without Ray.
        address: join this Ray cluster instead.

    Raises:
        CTGLIPError: ``no_cluster`` when no Ray cluster answers at ``address``.
    """
    if not cases or (address is None and workers == 1):
        return (run_case(case, plan) for case in cases)
    return _on_ray(cases, plan, workers, address)


@dataclass(frozen=True)
class _Running:
    case: Case
    attempt: int
    started: float


def _on_ray(cases: Sequence[Case], plan: Plan, workers: int, address: str | None) -> Iterator[CaseResult]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect(workers, address)
    running: dict[Any, _Running] = {}
    try:
        task = _task(plan)
        shared = ray.put(plan)
        waiting = [_Running(case, 0, 0.0) for case in reversed(cases)]
        while waiting or running:
            while waiting and len(running) < _cpus() + QUEUED:
                next_one = waiting.pop()
                reference = task.remote(next_one.case, shared)
                running[reference] = _Running(next_one.case, next_one.attempt + 1, time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1, timeout=5.0)
            for reference in ready:
                done = running.pop(reference)
                result = _outcome(reference, done, plan)
                if result is None:
                    waiting.append(done)
                else:
                    yield result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _connect(workers: int, address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    if address is None:
        ray.init(num_cpus=workers, object_store_memory=OBJECT_STORE_BYTES, **common)
        return
    common.pop("include_dashboard")
    try:
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise CTGLIPError(
            f"No Ray cluster answers at {address!r}: {error}.",
            code="no_cluster",
            fix="Start one with: ray start --head, or use --workers N on this machine.",
        ) from error


def _task(plan: Plan) -> Any:
    """The remote function: one CPU and the study's memory, never more than the smallest node has."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    least = min((node.get("memory", 0) for node in nodes), default=0)
    memory = int(min(plan.config.study_memory_gb * 1e9, least))

    def work(case: Case, plan: Plan) -> CaseResult:
        return run_case(case, plan, hard_limits=True)

    return ray.remote(num_cpus=1, memory=memory, max_retries=0)(work)


def _cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def _outcome(reference: Any, done: _Running, plan: Plan) -> CaseResult | None:
    """A result, or None when the study's worker died under it and the study is to be tried again."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayError

    config = plan.config
    elapsed = time.monotonic() - done.started
    try:
        return ray.get(reference)
    except OutOfMemoryError:
        code, message = "out_of_memory", "The machine ran out of memory while this study was worked on."
    except RayError as error:
        code, message = "worker_died", f"Its worker died: {type(error).__name__}."
        if elapsed > config.study_timeout_s:
            code, message = "timeout", f"It took longer than {config.study_timeout_s:g} s (study_timeout_s)."
    if code != "timeout" and done.attempt <= config.worker_retries:
        return None
    study_id = done.case.row.study_id
    failure = Failure(study_id, "worker", code, message, {"attempts": done.attempt})
    return CaseResult(study_id, done.case.fingerprint, "failed", "", failure, {"worker": elapsed})
