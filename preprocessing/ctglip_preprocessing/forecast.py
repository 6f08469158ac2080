"""What ``ctglip preprocess --dry-run`` says: how much there is to do, how long it takes and how large it gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from ctglip.cohort import Cohort
from ctglip.store.format import study_path
from ctglip.types import ModalityName


@dataclass(frozen=True)
class StudyCost:
    """What one study takes: of what kind it is, seconds of one core, megabytes of the store."""

    study: str
    seconds: float
    megabytes: float


COSTS: Mapping[ModalityName, StudyCost] = {
    "ct": StudyCost("a CT of 300 slices with masks", 1.35, 8.7),
    "cxr": StudyCost("a radiograph of about 2544 x 3056 pixels", 0.28, 0.54),
}
"""As measured: ``docs/scale.md``, ``docs/cohorts/mimic_cxr.md``."""


def forecast(cohort: Cohort, store: Path, cost: StudyCost) -> dict[str, int | float]:
    """What a run would do, from the table and the names of files alone.

    Args:
        cohort: as read.
        store: the store's folder, there or not.
        cost: of one study.
    """
    there = sum(study_path(store, row.study_id).exists() for row in cohort.rows)
    missing = sum(row.image is None or not row.image.exists() for row in cohort.rows)
    new = len(cohort.rows) - there
    return {
        "studies": len(cohort.rows) + len(cohort.bad),
        "bad_rows": len(cohort.bad),
        "images_missing": missing,
        "without_masks": sum(row.masks is None for row in cohort.rows),
        "in_store": there,
        "new": new,
        "core_hours": round(new * cost.seconds / 3600, 3),
        "gigabytes": round(new * cost.megabytes / 1000, 3),
    }


def _described(plan: dict[str, int | float], cost: StudyCost) -> str:
    """A forecast in words."""
    return (
        f"{plan['studies']} studies: {plan['new']} new, {plan['in_store']} in the store, {plan['bad_rows']} bad rows, "
        f"{plan['images_missing']} images missing, {plan['without_masks']} without masks.\n"
        f"About {plan['core_hours']:g} core-hours and {plan['gigabytes']:g} GB, where each is {cost.study}. "
        "Nothing was done."
    )


def show_forecast(cohort: Cohort, store: Path, modality: ModalityName, as_json: bool) -> None:
    """Print a forecast."""
    plan = forecast(cohort, store, COSTS[modality])
    typer.echo(json.dumps(plan, indent=2) if as_json else _described(plan, COSTS[modality]))
