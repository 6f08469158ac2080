"""How every fine-tuning begins: its starts, and the records that say what it was begun with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from ctglip.errors import ConfigError
from ctglip.files import file_checksum, read_json, read_yaml, write_json, write_text
from ctglip.models.release import load_release
from ctglip.tasks.network import Start
from ctglip.tasks.settings import SCRATCH, FinetuneConfig, Mode
from ctglip.training.tracking import environment

CONFIG = "config.resolved.yaml"
ENVIRONMENT = "environment.json"


def starts_of(run: Path, config: FinetuneConfig, mode: Mode, device: str) -> list[Start]:
    """The start, then the baselines; each has a name of its own."""
    main = load_release(run)
    main.model.to(device)
    starts = [Start(_name(run), main, False, mode)]
    for baseline in config.baselines:
        if baseline == SCRATCH:
            starts.append(Start(SCRATCH, main, True, "full"))
            continue
        release = load_release(Path(baseline))
        release.model.to(device)
        name, taken = _name(Path(baseline)), {start.name for start in starts}
        name = next(n for n in (name, *(f"{name}_{k}" for k in range(2, 99))) if n not in taken | {SCRATCH})
        starts.append(Start(name, release, False, mode))
    return starts


def _name(run: Path) -> str:
    run = run.resolve()
    return run.parent.name if run.name == "model" else run.name


def weights_of(start: Start) -> str:
    """Name and checksum of a start's weights."""
    folder = start.release.folder
    assert folder is not None
    return f"{start.name}:{file_checksum(folder / 'model.safetensors')}"


def open_records(out: Path, config: FinetuneConfig, device: str, inputs: Sequence[str], resume: bool) -> None:
    """Start the records, or check that what is resumed was begun with the same config and inputs."""
    resolved = config.model_dump(mode="json")
    if not (out / ENVIRONMENT).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        write_json(out / ENVIRONMENT, {**environment(device, torch.get_num_threads()), "inputs": list(inputs)})
        return
    if not resume:
        raise ConfigError(
            f"{out} already holds a fine-tuning.", code="run_exists", fix="Resume it, or name another folder."
        )
    before = FinetuneConfig.model_validate(read_yaml(out / CONFIG)).model_dump(mode="json")
    different = [key for key in resolved if resolved[key] != before[key]]
    if read_json(out / ENVIRONMENT)["inputs"] != list(inputs):
        different.append("labels, store or model")
    if different:
        raise ConfigError(
            f"{out} was begun with other {', '.join(different)}.", code="run_differs", fix="Name another folder."
        )
