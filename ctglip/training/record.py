"""A run's own records: which config, which machine, which studies; and whether a resumed run still fits them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from ctglip.errors import ConfigError, StoreError
from ctglip.files import read_json, read_yaml, value_hash, write_json, write_text
from ctglip.store.tables import Store
from ctglip.training.checkpoint import checkpoints
from ctglip.training.optim import learning_rate
from ctglip.training.recipe import PretrainConfig
from ctglip.training.tracking import environment

CONFIG = "config.resolved.yaml"
ENVIRONMENT = "environment.json"
_SHOWN = 4


def fingerprint(store: Store) -> str:
    """Changes with the recipe, the dictionaries and the studies of a store, not with where it lies."""
    studies = store.table("studies").select("study_id", "source_checksum").rows()
    return value_hash([store.info.recipe_hash, store.info.dictionaries, sorted(studies)])


def check_run(run: Path, config: PretrainConfig, store: Store, resume: bool) -> None:
    """Whether a run can begin in a folder, or go on there; nothing is written.

    A run that is resumed may be given more steps; all its other settings are those that it was begun with.

    Raises:
        ConfigError: ``run_exists`` without ``resume``; ``run_differs`` when it was begun with another config;
            ``no_run``: there are checkpoints, but not the records of their run.
        StoreError: ``other_store`` when it was begun on other studies.
    """
    if not (run / ENVIRONMENT).exists():
        if checkpoints(run / "checkpoints"):
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
    changes = list(_differences(_begun(run).model_dump(mode="json"), config.model_dump(mode="json")))
    if steps_before(run, config) is None and changes:
        shown = [f"{name}: {old} before, {new} now" for name, old, new in changes]
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        shorter = [name for name, *_ in changes] == ["loop.steps"]
        raise ConfigError(
            f"{run} was begun with other settings ({'; '.join(shown[:_SHOWN])}{more}).",
            code="run_differs",
            fix="A run can be given more steps, not fewer."
            if shorter
            else f"Resume with --config {run / CONFIG} (loop.steps alone may grow), or name another folder.",
        )
    if read_json(run / ENVIRONMENT)["studies"] != fingerprint(store):
        raise StoreError(
            f"{run} was begun on other studies than those of {store.path}.",
            code="other_store",
            fix="Name another folder for the run.",
        )


def _begun(run: Path) -> PretrainConfig:
    """The config that a run was begun with, or lengthened to.

    Raises:
        ConfigError: code ``no_run``: it is not there, or of another version.
    """
    try:
        return PretrainConfig.model_validate(read_yaml(run / CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{run / CONFIG} is not a config of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            code="no_run",
            fix="Resume with the ctglip version that began the run.",
        ) from error


def steps_before(run: Path, config: PretrainConfig) -> int | None:
    """The steps that a run was to have before, where more steps are all that is asked for now; else None."""
    if not (run / CONFIG).is_file():
        return None
    before = _begun(run)
    longer = before.model_copy(update={"loop": before.loop.model_copy(update={"steps": config.loop.steps})})
    same = longer.model_dump(mode="json") == config.model_dump(mode="json")
    return before.loop.steps if same and config.loop.steps > before.loop.steps else None


def begin_run(run: Path, config: PretrainConfig, store: Store, device: str, ranks: int) -> None:
    """Write a new run's records; of a run that is there the steps alone change, where it was given more."""
    about = run / ENVIRONMENT
    if about.exists():
        if (steps := steps_before(run, config)) is not None:
            found = read_json(about)
            write_json(about, {**found, "lengthened": [*found.get("lengthened", []), [steps, config.loop.steps]]})
            _write_config(run, config)
        return
    run.mkdir(parents=True, exist_ok=True)
    _write_config(run, config)
    threads = config.loop.threads or torch.get_num_threads()
    write_json(about, {**environment(device, threads, ranks), "studies": fingerprint(store)})


def _write_config(run: Path, config: PretrainConfig) -> None:
    resolved = config.model_dump(mode="json")
    write_text(run / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def lengthening(done: int, before: int, config: PretrainConfig) -> str:
    """What it means for the learning rate that a run is given more steps."""
    loop, optim = config.loop, config.optim
    was, now = learning_rate(max(done - 1, 0), before, optim), learning_rate(done, loop.steps, optim)
    return (
        f"The run is lengthened from {before} to {loop.steps} steps: from step {done + 1} on the learning rate is that "
        f"of the longer schedule ({was:.3g} at step {done}, {now:.3g} now). It is not the run that {loop.steps} steps "
        "from the start would have given."
    )


def _differences(before: Any, now: Any, position: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(key), now.get(key), f"{position}.{key}" if position else key)
    elif before != now:
        yield position, before, now
