"""Checkpoints: all that a run needs to go on as if it had never stopped, in one file that is there whole or not.

Batches, texts and augmentations are functions of (seed, step), so the position in the data is the step itself.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctglip.errors import ModelError
from ctglip.files import atomic_path, remove

KEEP = 2


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:07d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def save_checkpoint(folder: Path, step: int, objective: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Write the state after ``step`` steps; the last two checkpoints are kept."""
    state: dict[str, Any] = {
        "step": step,
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_path(_path(folder, step)) as temporary:
        torch.save(state, temporary)
    for old in checkpoints(folder)[:-KEEP]:
        remove(old)
    return _path(folder, step)


def load_checkpoint(folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint that can be read; returns its step, 0 where there is none.

    Raises:
        ModelError: code ``checkpoint``: it belongs to a model of another shape.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            continue
        try:
            objective.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(
                f"{path} does not fit the model of this config: {str(error).splitlines()[0]}",
                code="checkpoint",
                fix="Resume with the run's own config.",
            ) from error
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return int(state["step"])
    return 0
