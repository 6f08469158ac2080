"""What a run writes about itself: one line of numbers now and then, and the machine it ran on."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctglip.files import write_text

METRICS = "metrics.jsonl"
_PACKAGES = ("ctglip", "torch", "numpy", "monai", "transformers", "zarr", "polars", "ray")


class Metrics:
    """``metrics.jsonl``: one JSON object a line, each with its ``step``; and the same numbers for TensorBoard.

    Args:
        folder: the run.
        step: lines of later steps, which an interrupted run left behind its last checkpoint, are dropped.
        tensorboard: write event files into ``tensorboard/`` of the run.
        track: another tracker, called with (step, numbers).
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        tensorboard: bool = False,
        track: Callable[[int, dict[str, Any]], None] | None = None,
    ) -> None:
        self.path = folder / METRICS
        self.track = track
        earlier = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in earlier))
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **finite}) + "\n")
        if self._board is not None:
            for name, value in finite.items():
                if isinstance(value, float | int):
                    self._board.add_scalar(name, value, step)
        if self.track is not None:
            self.track(step, finite)

    def close(self) -> None:
        """Flush what TensorBoard shall see."""
        if self._board is not None:
            self._board.close()


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
