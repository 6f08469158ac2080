"""Checkpoints: all that a run needs to go on as if it had never stopped, in a folder that is there whole or not.

Tensors are safetensors, the rest is JSON: nothing is a pickle, so a checkpoint from elsewhere cannot run code. Every
rank holds the same state, so rank 0 writes it, and any number of ranks can read it. Batches, texts, augmentations and
torch's random numbers are functions of (seed, step): the position in the data and in the generators is the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctglip.errors import CTGLIPError, ModelError
from ctglip.files import atomic_path, file_checksum, read_json, remove, write_json
from ctglip.models.weights.matching import load_unique_state, unique_state
from ctglip.training.callbacks import BestWeights
from ctglip.training.ema import EMA
from ctglip.training.precision import PLAIN, Precision

CHECKPOINTS = "checkpoints"
"""The folder of a run that holds them."""
FORMAT_VERSION = 2
_STATE, _TENSORS = "state.json", "state.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """What training changes.

    Attributes:
        objective: on its device.
        optimizer: over its parameters.
        ema: the average of its weights, where one is kept.
        best: the weights that validate best, and the validations, where they are kept.
        precision: with the scale of the loss.
    """

    objective: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA | None = None
    best: BestWeights | None = None
    precision: Precision = PLAIN

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For a while the objective holds the average of its weights, where one is kept."""
        with self.ema.swapped(self.objective) if self.ema is not None else nullcontext():
            yield


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def save_checkpoint(folder: Path, step: int, state: TrainingState, keep: int = 2) -> Path:
    """Write the state after ``step`` steps; called on rank 0. The last ``keep`` checkpoints of the folder stay."""
    target, best = folder / f"step-{step:07d}", state.best
    with atomic_path(target) as temporary:
        temporary.mkdir()
        save_file(_tensors(state), temporary / _TENSORS)
        validated = {"validations": best.validations, "best": best.index} if best is not None else {}
        about = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "checksum": file_checksum(temporary / _TENSORS),
            **validated,
            "loss_scale": state.precision.scaler.state_dict(),
        }
        write_json(temporary / _STATE, about)
    for old in checkpoints(folder)[:-keep]:
        remove(old)
    return target


def load_checkpoint(folder: Path, state: TrainingState, message: Callable[[str], None] | None = None) -> int:
    """Restore the newest checkpoint that is whole; returns its step, 0 where there is no checkpoint at all.

    Args:
        folder: of the run's checkpoints.
        state: what is restored.
        message: called with one sentence that names the newer checkpoints that are skipped.

    Raises:
        ModelError: code ``checkpoint``: it belongs to a model of another shape; ``no_whole_checkpoint``: there are
            checkpoints, and none is whole.
    """
    faults = []
    for path in reversed(checkpoints(folder)):
        about = _complete(path)
        if isinstance(about, str):
            faults.append(f"{path.name}: {about}")
            continue
        restore(path, about, state)
        if message and faults:
            message(f"Skipped, because they are not whole: {'; '.join(faults)}. Going on from {path.name}.")
        return int(about["step"])
    if faults:
        raise ModelError(
            f"None of the checkpoints in {folder} is whole: {'; '.join(faults)}.",
            code="no_whole_checkpoint",
            fix="Copy them again from where they are whole, or remove them to begin at step 0.",
        )
    return 0


def restore(path: Path, about: dict[str, Any], state: TrainingState) -> None:
    """Read one checkpoint into the objects that train.

    Raises:
        ModelError: code ``checkpoint``: it belongs to a model of another shape.
    """
    try:
        found = load_file(path / _TENSORS)
        load_unique_state(state.objective, _part(found, "objective"))
        state.optimizer.load_state_dict(_optimizer_state(state, _part(found, "optimizer")))
        if state.ema is not None:
            average = _part(found, "ema")
            for name, value in state.ema.state.items():
                value.copy_(average[name])
        if scale := about.get("loss_scale"):
            state.precision.scaler.load_state_dict(scale)
        if state.best is not None:
            state.best.weights = _part(found, "best")
            state.best.validations, state.best.index = about["validations"], about["best"]
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{path} does not fit the model of this config: {str(error).splitlines()[0]}",
            code="checkpoint",
            fix="Resume with the run's own config.",
        ) from error


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """All state under flat names: ``objective/...``, ``optimizer/...#exp_avg``, ``ema/...``, ``best/...``."""
    found = {f"objective/{name}": value for name, value in unique_state(state.objective).items()}
    for name, parameter in _learned(state):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            found[f"optimizer/{name}#{key}"] = torch.as_tensor(value)
    if state.ema is not None:
        found |= {f"ema/{name}": value for name, value in state.ema.state.items()}
    if state.best is not None:
        found |= {f"best/{name}": value for name, value in state.best.weights.items()}
    return {name: value.detach().contiguous() for name, value in found.items()}


def _learned(state: TrainingState) -> Iterator[tuple[str, nn.Parameter]]:
    names = {parameter: name for name, parameter in state.objective.named_parameters()}
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter


def _optimizer_state(state: TrainingState, found: dict[str, Tensor]) -> dict[str, Any]:
    """The optimiser's own form: state by number; rates and decay are the config's."""
    plain = state.optimizer.state_dict()
    numbers = {name: number for number, (name, _) in enumerate(_learned(state))}
    by_number: dict[int, dict[str, Tensor]] = {}
    for full, value in found.items():
        name, key = full.rsplit("#", 1)
        by_number.setdefault(numbers[name], {})[key] = value
    return {**plain, "state": by_number}


def _part(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): v for name, v in found.items() if name.startswith(f"{prefix}/")}


def _complete(path: Path) -> dict[str, Any] | str:
    """``state.json`` of a checkpoint whose tensors are as they were written; else what is wrong with it."""
    if not (path / _STATE).is_file():
        return f"{_STATE} is missing"
    try:
        about = read_json(path / _STATE)
        if about["format_version"] != FORMAT_VERSION:
            return f"format version {about['format_version']!r}, this ctglip reads {FORMAT_VERSION}"
        if not (path / _TENSORS).is_file():
            return f"{_TENSORS} is missing"
        if file_checksum(path / _TENSORS) != about["checksum"]:
            return f"{_TENSORS} is not as it was written ({(path / _TENSORS).stat().st_size} bytes)"
        int(about["step"])
    except (CTGLIPError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{_STATE} cannot be read ({type(error).__name__})"
    return about
