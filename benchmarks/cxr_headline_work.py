"""What ``cxr_headline.py`` does: the films, the arms with their settings, and one job (train, judge, probe) at a time.

Everything lies in one folder and is made once; a run that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from cxr_headline_parts import judged, probed  # beside this file

from ctglip.files import read_json, write_json

Arm = tuple[str, dict[str, Any]]
"""A config, and changes to it."""
CNN = {"name": "cnn", "spatial_dims": 2, "widths": [16, 32, 64, 128], "blocks": [0, 1, 1, 1]}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"films": (48, 12, 40), "steps": 6, "pixels": 64, "stored": 128, "seeds": 1, "encoder": CNN},
    "core": {"films": (700, 100, 300), "steps": 300, "pixels": 96, "stored": 192, "seeds": 2, "encoder": CNN},
    "full": {"films": (2000, 150, 500), "steps": 1000, "pixels": 128, "stored": 256, "seeds": 3, "encoder": CNN},
}
"""Films of the splits, steps of 32 films, rows and columns of a model's input and of the store. A ResNet 18 takes 1.5 s
of a core for a step at 128 pixels, which 45 minutes of two cores do not allow for three arms and seeds."""


def say(text: str) -> None:
    """Progress, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    own, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


# --- films


def store_of(out: Path, size: dict[str, Any], workers: int) -> Path:
    """The films and their store, splits by patient: at least as many films to learn from and to judge as asked."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.films import FilmSettings
    from ctglip.simulation.study import SimulationSettings

    cohort, store, done = out / "cohort", out / "store", out / "films.json"
    if done.is_file():
        if read_json(done)["films"] != list(size["films"]) or read_json(done)["stored"] != size["stored"]:
            raise SystemExit(f"{out} holds films of another size; choose another --out.")
        return store
    count, start, cpu = sum(size["films"]), time.perf_counter(), cpu_seconds()
    say(f"Simulating {count} films")
    drawn = simulate_cohort(cohort, count, 1, SimulationSettings(), None, workers, films=FilmSettings())
    table = pl.read_csv(drawn, infer_schema=False)
    simulated = cpu_seconds() - cpu
    place = _splits(table["patient_id"].to_list(), size["films"])
    split = [place[name] for name in table["patient_id"]]
    table.with_columns(split=pl.Series(split)).write_csv(cohort / "split.csv")
    say("Preprocessing")
    config = load_settings(PreprocessConfig, "preprocess/films", [f"films.size={size['stored']}"])
    preprocess_cohort(read_cohort(cohort / "split.csv"), store, config)
    took = {"cpu_seconds": cpu_seconds() - cpu, "simulating": simulated, "seconds": time.perf_counter() - start}
    counts = {name: split.count(name) for name in ("train", "val", "test")}
    write_json(done, {"films": list(size["films"]), "stored": size["stored"], "split": counts, **took})
    say(f"{counts}: {took['cpu_seconds']:.0f} s of a core")
    return store


def _splits(patients: list[str], films: tuple[int, int, int]) -> dict[str, str]:
    """Whole patients, drawn: first those that are learned from, then those that are judged, the rest for choices."""
    order = sorted(set(patients))
    random.Random(0).shuffle(order)
    left, found = {"train": films[0], "test": films[2]}, {}
    for name in order:
        split = next((split for split, missing in left.items() if missing > 0), "val")
        found[name] = split
        if split in left:
            left[split] -= patients.count(name)
    return found
