"""What the experiment does: the radiographs, the arms with their settings, and one job (train, judge, probe) at a time.

Everything lies in one folder and is made once; a run that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.files import read_json, write_json
from experiments.command import say
from experiments.cxr_headline.parts import judged, probed, run_of

Arm = tuple[str, dict[str, Any]]
"""A config, and changes to it."""
CNN = {"name": "cnn", "spatial_dims": 2, "widths": [16, 32, 64, 128], "blocks": [0, 1, 1, 1], "norm": "batch"}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"radiographs": (48, 12, 40), "steps": 6, "pixels": 64, "stored": 128, "seeds": 1, "encoder": CNN},
    "core": {"radiographs": (700, 100, 300), "steps": 300, "pixels": 96, "stored": 192, "seeds": 2, "encoder": CNN},
    "full": {"radiographs": (2000, 150, 500), "steps": 600, "pixels": 128, "stored": 256, "seeds": 3, "encoder": CNN},
}
"""Radiographs of the splits (at least, but for those for choices), steps of 32 radiographs, rows and columns of a
model's input and of the store. A step at 128 pixels takes 0.18 s of a core (CLIP), 0.47 (IMITATE, two views) or 0.31
(ASG); with a ResNet 18, 1.5 s, which 45 minutes of two cores do not allow for three arms and seeds."""


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    own, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


# --- radiographs


def store_of(out: Path, size: dict[str, Any], workers: int) -> Path:
    """The radiographs and their store, splits by patient: at least as many radiographs to learn from and to judge as
    asked."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.cxr import CxrSettings
    from ctglip.simulation.study import SimulationSettings

    cohort, store, done = out / "cohort", out / "store", out / "radiographs.json"
    if done.is_file():
        if read_json(done)["radiographs"] != list(size["radiographs"]) or read_json(done)["stored"] != size["stored"]:
            raise SystemExit(f"{out} holds radiographs of another size; choose another --out.")
        return store
    count, start, cpu = sum(size["radiographs"]), time.perf_counter(), cpu_seconds()
    say(f"Simulating {count} radiographs")
    drawn = simulate_cohort(cohort, count, 1, SimulationSettings(), None, workers, radiographs=CxrSettings())
    table = pl.read_csv(drawn, infer_schema=False)
    simulated = cpu_seconds() - cpu
    split_of = _splits(table["patient_id"].to_list(), size["radiographs"])
    split = [split_of[name] for name in table["patient_id"]]
    table.with_columns(split=pl.Series(split)).write_csv(cohort / "split.csv")
    say("Preprocessing")
    config = load_settings(PreprocessConfig, "preprocess/cxr", [f"cxr.size={size['stored']}"])
    preprocess_cohort(read_cohort(cohort / "split.csv"), store, config)
    took = {"cpu_seconds": cpu_seconds() - cpu, "simulating": simulated, "seconds": time.perf_counter() - start}
    counts = {name: split.count(name) for name in ("train", "val", "test")}
    write_json(done, {"radiographs": list(size["radiographs"]), "stored": size["stored"], "split": counts, **took})
    say(f"{counts}: {took['cpu_seconds']:.0f} s of a core")
    return store


def _splits(patients: list[str], radiographs: tuple[int, int, int]) -> dict[str, str]:
    """Whole patients, drawn: first those that are learned from, then those that are judged, the rest for choices."""
    order = sorted(set(patients))
    random.Random(0).shuffle(order)
    left, found = {"train": radiographs[0], "test": radiographs[2]}, {}
    for name in order:
        split = next((split for split, missing in left.items() if missing > 0), "val")
        found[name] = split
        if split in left:
            left[split] -= patients.count(name)
    return found


# --- arms


TAGS = {"layers": 2, "heads": 4, "hidden": 256, "dropout": 0.1}
TOKENS = {"model.image": {"name": "tokens", "levels": [-2], "pooling": "peak"}}
"""How whole radiographs are read by all arms that do."""
ARMS: dict[str, Arm] = {
    "clip": ("small/cxr_asg", {"objective": {"name": "global_pair"}, "model.tags": None, "model.regions": None}),
    "imitate": ("small/cxr_imitate", {"data.copies": 2}),
    "asg": ("small/cxr_asg", {"model.tags": TAGS}),
    "ecamp": ("small/cxr_ecamp", {}),
    "place": ("small/cxr_place", {}),
}
"""Config and changes; ``shared`` is laid over both. ECAMP has its own encoder (a ViT) and is probed alone."""
UNTRAINED = {"region_sentence": {"model.regions": None}, "recognition": {"model.tags": None}}
"""Parts of ASG's model that nothing trains without a term."""
ABLATION: dict[str, Arm] = {
    **{name: ARMS[name] for name in ("clip", "imitate", "asg")},
    **{
        f"asg - {term}": (ARMS["asg"][0], {**ARMS["asg"][1], **UNTRAINED.get(term, {}), f"objective.{term}": 0.0})
        for term in ("image_report", "region_sentence", "recognition", "soft_labels")
    },
    "asg, same sentences negative": (ARMS["asg"][0], {**ARMS["asg"][1], "objective.same_sentences": "negative"}),
    "imitate - findings": ("small/cxr_imitate", {"data.copies": 2, "objective.findings_weight": 0.0}),
    "imitate - views": ("small/cxr_imitate", {"data.copies": 1, "objective.view_weight": 0.0}),
    "imitate - clinical prior": ("small/cxr_imitate", {"data.copies": 2, "objective.strength": 0.0}),
}


def config_of(arm: Arm, size: dict[str, Any], seed: int) -> Any:
    """An arm's config: its own, then what all share."""
    from ctglip.config import load_settings
    from ctglip.training.pretrain_config import PretrainConfig

    name, changes = arm
    shared = {
        "seed": seed,
        "data.size": size["pixels"],
        "data.margin": 1.125,
        "data.batch": min(32, size["radiographs"][0] // 2),
        "data.contrast": 0.1,
        "data.flip": 0.0,  # sides are asked for
        "data.lateral": False,
        "data.threads": 1,
        "optim.lr": 0.001,
        "optim.warmup": max(1, size["steps"] // 10),
        "optim.weight_decay": 0.05,
        "optim.betas": [0.9, 0.98],
        "loop.steps": size["steps"],
        "loop.checkpoint_every": max(1, size["steps"] // 5),
        "loop.threads": 1,
        "loop.pairs": 0,
        "loop.trackers": [],
        "loop.device": "cpu",
    }
    if "ecamp" not in name:
        shared |= {"model.encoder": size["encoder"], "model.embedding_dim": 128, "model.dim": 256, **TOKENS}
    return load_settings(
        PretrainConfig, name, [f"{key}={json.dumps(value)}" for key, value in {**shared, **changes}.items()]
    )


# --- jobs, each in a process of a pool


@dataclass(frozen=True)
class Job:
    """One arm with one seed."""

    out: Path
    size: str
    name: str
    ablation: bool
    seed: int

    @property
    def arm(self) -> Arm:
        """Config and changes."""
        return (ABLATION if self.ablation else ARMS)[self.name]

    @property
    def run(self) -> Path:
        """Where it is trained and judged."""
        return run_of(self.out / "runs", self.name, self.seed)


def embedded(out: Path, size: str) -> dict[str, float]:
    """Embed all texts once, before runs side by side would each do so."""
    from ctglip.store.tables import Store
    from ctglip.training.assembly import assemble

    mark, cpu = out / "texts.json", cpu_seconds()
    if not mark.is_file():
        assemble(Store.open(out / "store"), out / "texts", config_of(ARMS["asg"], SIZES[size], 0), "cpu")
        write_json(mark, {"cpu_seconds": cpu_seconds() - cpu})
    return read_json(mark)


def do(job: Job) -> dict[str, float]:
    """Train, judge and probe, or what of it is missing; CPU seconds of each."""
    from ctglip.training.launch import pretrain

    run, took = job.run, job.run / "took.json"
    known: dict[str, float] = read_json(took) if took.is_file() else {}
    store, truth, lesions = job.out / "store", job.out / "cohort" / "truth.csv", job.out / "cohort" / "lesions.csv"

    def timed(part: str, start: float) -> None:
        known[part] = known.get(part, 0.0) + cpu_seconds() - start
        write_json(took, known)

    start = cpu_seconds()
    if not (run / "model" / "config.json").is_file():
        begun = (run / "environment.json").is_file()
        pretrain(store, run, config_of(job.arm, SIZES[job.size], job.seed), resume=begun)
        timed("cpu_seconds", start)
    start = cpu_seconds()
    if judged(run, store, truth, lesions):
        timed("judging", start)
    start = cpu_seconds()
    if probed(run, store, truth, job.seed):
        timed("probing", start)
    return known
