"""Where else the numbers of a run go: TensorBoard, Weights & Biases, MLflow, each through its own package.

Where a tracker writes is its package's business: ``WANDB_MODE``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI`` are read
by it. It gets the run's settings, numbers and folder name; never code, host, user or command line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from ctglip.files import read_json, write_json
from ctglip.resources import require

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
PROJECT = "ctglip"
_KNOWN = "trackers.json"


class Tracker(Protocol):
    """Takes the numbers of a run."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""

    def close(self) -> None:
        """Flush them."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run.

    Args:
        folder: the run.
        step: later ones, which an interrupted run left behind its last checkpoint, are hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush them."""
        self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases; a resumed run goes on in the same one.

    Args:
        folder: the run.
        step: where it begins.

    Raises:
        MissingExtraError: ``wandb`` is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        wandb = require("wandb", "trackers")
        known = _known(folder).get("wandb") if step else None
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True)
        self._run = wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else PROJECT, name=folder.name, id=known,
            resume="allow", dir=str(folder), config=_settings_of(folder), settings=quiet,
        )  # fmt: skip
        _remember(folder, "wandb", self._run.id)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MlFlow:
    """A run of MLflow; a resumed run goes on in the same one.

    Args:
        folder: the run.
        step: where it begins.

    Raises:
        MissingExtraError: ``mlflow`` is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        client = require("mlflow.tracking", "trackers").MlflowClient()
        known = _known(folder).get("mlflow") if step else None
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            there = client.get_experiment_by_name(name)
            experiment = there.experiment_id if there else client.create_experiment(name)
            known = client.create_run(experiment, run_name=folder.name).info.run_id
            client.log_dict(known, _settings_of(folder), "config.yaml")
            _remember(folder, "mlflow", known)
        self._client, self._id, self._metric = client, known, require("mlflow.entities", "trackers").Metric

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        now_ms = int(time.time() * 1000)
        metrics = [self._metric(name, value, now_ms, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._id)


TRACKERS: dict[TrackerName, type[TensorBoard | WeightsAndBiases | MlFlow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Whether the packages are there, before a run prepares anything.

    Raises:
        MissingExtraError: one is not.
    """
    for name in names:
        if name != "tensorboard":
            require(name, "trackers")


def open_trackers(
    names: Iterable[TrackerName], folder: Path, step: int, message: Callable[[str], None]
) -> list[Tracker]:
    """The trackers of a run; one that cannot begin (no server, no account) is said and left out.

    Args:
        names: which.
        folder: the run.
        step: where it begins.
        message: told what fails.
    """
    found: list[Tracker] = []
    for name in names:
        try:
            found.append(TRACKERS[name](folder, step))
        except Exception as error:  # noqa: BLE001  # other people's packages and servers
            message(failed(TRACKERS[name].__name__, error))
    return found


def failed(tracker: str, error: Exception) -> str:
    """What a user reads of a tracker that is told no more."""
    return f"{tracker} fails and is told no more: {error}. The numbers are in metrics.jsonl."


def _known(folder: Path) -> dict[str, str]:
    """The ids of the run at each tracker that has it."""
    path = folder / _KNOWN
    return read_json(path) if path.is_file() else {}


def _remember(folder: Path, tracker: str, run_id: str) -> None:
    write_json(folder / _KNOWN, {**_known(folder), tracker: run_id})


def _settings_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.resolved.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
