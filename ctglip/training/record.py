"""A run's own records: which config, which machine, which studies; and whether a resumed run still fits them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from ctglip.errors import ConfigError, StoreError
from ctglip.files import read_json, read_yaml, value_hash, write_json, write_text
from ctglip.store.tables import Store
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

    Raises:
        ConfigError: ``run_exists`` without ``resume``, ``run_differs`` when it was begun with another config.
        StoreError: ``other_store`` when it was begun on other studies.
    """
    if not (run / ENVIRONMENT).exists():
        return
    if not resume:
        raise ConfigError(
            f"{run} already holds a run.", code="run_exists", fix="Add --resume to go on, or name another folder."
        )
    resolved = config.model_dump(mode="json")
    before = PretrainConfig.model_validate(read_yaml(run / CONFIG)).model_dump(mode="json")
    if before != resolved:
        changes = [f"{name}: {old} before, {new} now" for name, old, new in _differences(before, resolved)]
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ConfigError(
            f"{run} was begun with other settings ({'; '.join(changes[:_SHOWN])}{more}).",
            code="run_differs",
            fix=f"Resume with --config {run / CONFIG}, or name another folder.",
        )
    if read_json(run / ENVIRONMENT)["studies"] != fingerprint(store):
        raise StoreError(
            f"{run} was begun on other studies than those of {store.path}.",
            code="other_store",
            fix="Name another folder for the run.",
        )


def begin_run(run: Path, config: PretrainConfig, store: Store, device: str, ranks: int) -> None:
    """Write a new run's records; those of a run that is there stay."""
    if (run / ENVIRONMENT).exists():
        return
    run.mkdir(parents=True, exist_ok=True)
    resolved = config.model_dump(mode="json")
    write_text(run / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    threads = config.loop.threads or torch.get_num_threads()
    write_json(run / ENVIRONMENT, {**environment(device, threads, ranks), "studies": fingerprint(store)})


def _differences(before: Any, now: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif before != now:
        yield place, before, now
