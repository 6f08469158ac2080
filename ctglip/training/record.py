"""A run's own records: which config, which machine, which inputs; and whether a run that is resumed still fits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from ctglip.config import Settings
from ctglip.errors import ConfigError
from ctglip.files import read_json, read_yaml, value_hash, write_json, write_text
from ctglip.store.tables import Store
from ctglip.training.checkpoint import CHECKPOINTS, checkpoints
from ctglip.training.tracking import environment

CONFIG = "config.resolved.yaml"
ENVIRONMENT = "environment.json"
_GROWS = "loop.steps"
_LISTED = 4


def fingerprint(store: Store) -> str:
    """Changes with the recipe, the dictionaries and the studies of a store, not with where it lies."""
    studies = store.table("studies").select("study_id", "source_checksum").rows()
    return value_hash([store.info.recipe_hash, store.info.dictionaries, sorted(studies)])


def check_run(run: Path, config: Settings, inputs: Mapping[str, str], resume: bool) -> None:
    """Whether a run can begin in a folder, or go on there; nothing is written.

    A run that is resumed may be given more steps (``loop.steps``); all its other settings are those that it was begun
    with.

    Args:
        run: the folder.
        config: of the run.
        inputs: checksum of each thing that it learns from, by what it is called: studies, labels, weights.
        resume: it may have been begun.

    Raises:
        ConfigError: ``run_exists`` without ``resume``; ``run_differs`` when it was begun with another config or other
            inputs; ``no_run``: there are checkpoints, but not the records of their run.
    """
    if not (run / ENVIRONMENT).exists():
        if checkpoints(run / CHECKPOINTS):
            raise ConfigError(
                f"{run} holds checkpoints, but no {ENVIRONMENT} that says what they were trained with.",
                code="no_run",
                fix="Copy the whole run, or name another folder.",
            )
        return
    if not resume:
        raise ConfigError(
            f"{run} already holds a run.", code="run_exists", fix="Add --resume to go on, or name another folder."
        )
    changes = _changes(run, config)
    if changes and steps_before(run, config) is None:
        listed = [f"{name}: {old} before, {new} now" for name, (old, new) in changes.items()]
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise ConfigError(
            f"{run} was begun with other settings ({'; '.join(listed[:_LISTED])}{more}).",
            code="run_differs",
            fix="A run can be given more steps, not fewer."
            if list(changes) == [_GROWS]
            else f"Resume with --config {run / CONFIG} (steps of a pretraining may grow), or name another folder.",
        )
    before = read_json(run / ENVIRONMENT).get("inputs", {})
    if different := [name for name in {**before, **inputs} if before.get(name) != inputs.get(name)]:
        raise ConfigError(
            f"{run} was begun with other {', '.join(different)}.", code="run_differs", fix="Name another folder."
        )


def steps_before(run: Path, config: Settings) -> int | None:
    """The steps that a run was to have before, where more steps are all that is asked for now; else None."""
    changes = _changes(run, config) if (run / CONFIG).is_file() else {}
    if list(changes) != [_GROWS]:
        return None
    before, now = changes[_GROWS]
    return before if before < now else None


def begin_run(
    run: Path, config: Settings, inputs: Mapping[str, str], device: str, threads: int = 0, ranks: int = 1
) -> None:
    """Write a new run's records; of a run that is there the steps alone change, where it was given more.

    Args:
        run, config, inputs: as ``check_run`` found them good.
        device: of the training.
        threads: of torch; 0: as many as torch takes.
        ranks: processes that train together.
    """
    if not (run / ENVIRONMENT).exists():
        run.mkdir(parents=True, exist_ok=True)
        _write_config(run, config)
        about = environment(device, threads or torch.get_num_threads(), ranks)
        write_json(run / ENVIRONMENT, {**about, "inputs": dict(inputs)})
    elif (before := steps_before(run, config)) is not None:
        about = read_json(run / ENVIRONMENT)
        steps = config.model_dump(mode="json")["loop"]["steps"]
        write_json(run / ENVIRONMENT, {**about, "lengthened": [*about.get("lengthened", []), [before, steps]]})
        _write_config(run, config)


def _write_config(run: Path, config: Settings) -> None:
    resolved = config.model_dump(mode="json")
    write_text(run / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def _changes(run: Path, config: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from those that a run was begun with (or lengthened to), by their dotted names.

    Raises:
        ConfigError: code ``no_run``: its config is not there, or of another version.
    """
    try:
        before = type(config).model_validate(read_yaml(run / CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{run / CONFIG} is not a config of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            code="no_run",
            fix="Resume with the ctglip version that began the run.",
        ) from error
    return dict(_differences(before.model_dump(mode="json"), config.model_dump(mode="json")))


def _differences(before: Any, now: Any, position: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(key), now.get(key), f"{position}.{key}" if position else key)
    elif before != now:
        yield position, (before, now)
