"""What a run writes about itself: one line of numbers now and then, and the machine it ran on."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctglip.files import write_text
from ctglip.training.trackers import Tracker, failed

METRICS = "metrics.jsonl"
_PACKAGES = ("ctglip", "torch", "numpy", "monai", "transformers", "zarr", "polars", "ray")


class Metrics:
    """``metrics.jsonl``: one JSON object a line, each with its ``step``; and the same numbers for trackers.

    Args:
        folder: the run.
        step: lines of later steps, which an interrupted run left behind its last checkpoint, are dropped.
        trackers: told the numbers that are finite. One that fails is told no more; training goes on.
        track: called with (step, numbers).
        message: told which tracker failed.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        trackers: Sequence[Tracker] = (),
        track: Callable[[int, dict[str, Any]], None] | None = None,
        message: Callable[[str], object] = str,
    ) -> None:
        self.path = folder / METRICS
        self.track = track
        earlier = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in earlier))
        self._trackers, self._message = list(trackers), message

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **finite}) + "\n")
        numbers = {name: value for name, value in finite.items() if isinstance(value, float | int)}
        for tracker in list(self._trackers):
            self._guarded(tracker, lambda one: one.write(step, numbers))
        if self.track is not None:
            self.track(step, finite)

    def close(self) -> None:
        """Let every tracker write what it holds."""
        for tracker in list(self._trackers):
            self._guarded(tracker, lambda one: one.close())

    def _guarded(self, tracker: Tracker, act: Callable[[Tracker], None]) -> None:
        try:
            act(tracker)
        except Exception as error:  # noqa: BLE001  # other people's packages and servers
            self._trackers.remove(tracker)
            self._message(failed(type(tracker).__name__, error))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's ``metrics.jsonl``; a half-written last line is passed over."""
    path = folder / METRICS
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def environment(device: str, threads: int, ranks: int = 1) -> dict[str, Any]:
    """Versions and machine, without names or paths of its owner."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "device": device,
        "ranks": ranks,
        "torch_threads": threads,
        "packages": {name: version(name) for name in _PACKAGES},
    }
