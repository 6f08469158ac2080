"""A run's own records: which config, which machine, which studies; and whether a resumed run still fits them."""

from __future__ import annotations

from pathlib import Path

import yaml

from ctglip.errors import ConfigError, StoreError
from ctglip.files import read_json, read_yaml, value_hash, write_json, write_text
from ctglip.store.tables import Store
from ctglip.training.recipe import PretrainConfig
from ctglip.training.tracking import environment

CONFIG = "config.resolved.yaml"
ENVIRONMENT = "environment.json"


def fingerprint(store: Store) -> str:
    """Changes with the recipe, the dictionaries and the studies of a store, not with where it lies."""
    studies = store.table("studies").select("study_id", "source_checksum").rows()
    return value_hash([store.info.recipe_hash, store.info.dictionaries, sorted(studies)])


def open_run(run: Path, config: PretrainConfig, store: Store, resume: bool, device: str, threads: int) -> None:
    """Start a run's records, or check that a run that is resumed fits them.

    Raises:
        ConfigError: ``run_exists`` without ``resume``, ``run_differs`` when it was begun with another config.
        StoreError: ``other_store`` when it was begun on other studies.
    """
    resolved = config.model_dump(mode="json")
    if not (run / ENVIRONMENT).exists():
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        write_json(run / ENVIRONMENT, {**environment(device, threads), "studies": fingerprint(store)})
        return
    if not resume:
        raise ConfigError(f"{run} already holds a run.", code="run_exists", fix="Resume it, or name another folder.")
    before = PretrainConfig.model_validate(read_yaml(run / CONFIG)).model_dump(mode="json")
    if before != resolved:
        different = [key for key in resolved if resolved[key] != before[key]]
        raise ConfigError(
            f"{run} was begun with other settings of: {', '.join(different)}.",
            code="run_differs",
            fix="Resume with the same config, or name another folder.",
        )
    if read_json(run / ENVIRONMENT)["studies"] != fingerprint(store):
        raise StoreError(
            f"{run} was begun on other studies than those of {store.path}.",
            code="other_store",
            fix="Name another folder for the run.",
        )
