"""The models that a fine-tuning begins from: its own, and the baselines beside it."""

from __future__ import annotations

from pathlib import Path

from ctglip.files import file_checksum
from ctglip.models.release import load_release
from ctglip.tasks.base import Initialization
from ctglip.tasks.settings import SCRATCH, FinetuneConfig


def open_initializations(run: Path, config: FinetuneConfig, device: str) -> list[Initialization]:
    """The model's own, then the baselines; each has a name of its own."""
    trained = load_release(run)
    trained.model.to(device)
    found = [Initialization(_name(run), trained, False, config.mode)]
    for baseline in config.baselines:
        if baseline == SCRATCH:
            found.append(Initialization(SCRATCH, trained, True, "full"))
            continue
        release = load_release(Path(baseline))
        release.model.to(device)
        name, taken = _name(Path(baseline)), {one.name for one in found}
        name = next(n for n in (name, *(f"{name}_{k}" for k in range(2, 99))) if n not in taken | {SCRATCH})
        found.append(Initialization(name, release, False, config.mode))
    return found


def _name(run: Path) -> str:
    run = run.resolve()
    return run.parent.name if run.name == "model" else run.name


def weights_checksum(initialization: Initialization) -> str:
    """Of the weights that it has, or whose shape it takes."""
    folder = initialization.release.folder
    assert folder is not None
    return file_checksum(folder / "model.safetensors")
