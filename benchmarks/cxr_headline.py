"""Pretraining on chest films: CLIP on the whole report beside IMITATE and ASG (and ECAMP, PLACE), on simulated films.

    python benchmarks/cxr_headline.py [ablation] [--size quick|core|full] [--quick] [--all] [--seeds N] [--json FILE]
                                      [--out DIR] [--arms A B ...]

Every arm sees the same films in the same order for the same number of steps with the same encoder, frozen text encoder
and optimiser; IMITATE sees two windows of each film, as published, and so takes about twice the time. Judged on films
of other patients, against the truth, not the reports: zero-shot AUROC, read from the whole film and (ASG, PLACE) from
the organ's box or query, and by ASG's tags; where the map of an answer peaks; retrieval of films and reports; a linear
probe of the frozen encoder at 1, 10 and 100 % of the labelled films, beside random weights. Intervals are over
patients, of the mean over seeds; differences are paired. "ablation" leaves out one term at a time. What is already in
DIR is not made again. Figures say how well the machinery learns from simulated films, nothing about clinical use.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from cxr_headline_parts import SHOWN, about, differences, judged, probed, rows  # beside this file

Arm = tuple[str, dict[str, Any]]
"""A config, and changes to it."""
CNN = {"name": "cnn", "spatial_dims": 2, "widths": [16, 32, 64, 128], "blocks": [0, 1, 1, 1]}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"films": (48, 12, 40), "steps": 6, "pixels": 64, "stored": 128, "seeds": 1, "encoder": CNN},
    "core": {"films": (700, 100, 300), "steps": 300, "pixels": 96, "stored": 192, "seeds": 2, "encoder": CNN},
    "full": {"films": (2000, 100, 500), "steps": 1000, "pixels": 128, "stored": 256, "seeds": 3, "encoder": CNN},
}
"""Films of the splits, steps of 32 films, rows and columns of a model's input and of the store. A ResNet 18 takes 1.5 s
of a core for a step at 128 pixels, which 45 minutes of two cores do not allow for three arms and seeds; this CNN takes
0.16 s."""
TAGS = {"layers": 2, "heads": 4, "hidden": 256, "dropout": 0.1}
ARMS: dict[str, Arm] = {
    "clip": ("demo/cxr_asg", {"objective": {"name": "global_pair"}, "model.tags": None}),
    "imitate": ("demo/cxr_imitate", {"films.copies": 2}),
    "asg": ("demo/cxr_asg", {"model.tags": TAGS}),
    "ecamp": ("demo/cxr_ecamp", {}),
    "place": ("demo/cxr_place", {}),
}
"""Config and changes; ``shared`` is laid over both. ECAMP has its own encoder (a ViT) and is probed alone."""
ABLATION: dict[str, Arm] = {
    **{name: ARMS[name] for name in ("clip", "imitate", "asg")},
    **{
        f"asg - {term}": (ARMS["asg"][0], {**ARMS["asg"][1], f"objective.{term}": 0.0})
        for term in ("image_report", "region_sentence", "recognition", "soft_labels")
    },
    "asg, same sentences negative": (ARMS["asg"][0], {**ARMS["asg"][1], "objective.same_sentences": "negative"}),
    "imitate - findings": ("demo/cxr_imitate", {"films.copies": 2, "objective.findings_weight": 0.0}),
    "imitate - views": ("demo/cxr_imitate", {"films.copies": 1, "objective.view_weight": 0.0}),
    "imitate - clinical prior": ("demo/cxr_imitate", {"films.copies": 2, "objective.strength": 0.0}),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def store_of(out: Path, size: dict[str, Any]) -> Path:
    """The films and their store, splits by patient."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.films import FilmSettings
    from ctglip.simulation.study import SimulationSettings

    cohort, store = out / "cohort", out / "store"
    if (store / "splits.parquet").is_file():
        return store
    count = sum(size["films"])
    say(f"Simulating {count} films")
    table = pl.read_csv(
        simulate_cohort(cohort, count, 1, SimulationSettings(), films=FilmSettings()), infer_schema=False
    )
    patients = sorted(table["patient_id"].unique().to_list())
    random.Random(0).shuffle(patients)
    shares = [sum(size["films"][:n]) / count for n in (1, 2)]
    place = {name: sum(number >= share * len(patients) for share in shares) for number, name in enumerate(patients)}
    split = [("train", "val", "test")[place[name]] for name in table["patient_id"]]
    table.with_columns(split=pl.Series(split)).write_csv(cohort / "split.csv")
    say("Preprocessing")
    config = load_settings(PreprocessConfig, "preprocess/films", [f"films.size={size['stored']}"])
    preprocess_cohort(read_cohort(cohort / "split.csv"), store, config)
    return store


def config_of(arm: Arm, size: dict[str, Any], seed: int) -> Any:
    """An arm's config: its own, then what all share."""
    from ctglip.config import load_settings
    from ctglip.training.recipe import PretrainConfig

    name, changes = arm
    shared = {
        "seed": seed,
        "films.size": size["pixels"],
        "films.margin": 1.125,
        "films.batch": min(32, size["films"][0] // 2),
        "films.contrast": 0.1,
        "films.flip": 0.0,  # sides are asked for
        "films.lateral": False,
        "optim.lr": 0.001,
        "optim.warmup": max(1, size["steps"] // 10),
        "optim.weight_decay": 0.05,
        "optim.betas": [0.9, 0.98],
        "loop.steps": size["steps"],
        "loop.checkpoint_every": max(1, size["steps"] // 2),
        "loop.threads": 1,
        "loop.pairs": 0,
        "loop.tensorboard": False,
    }
    if "ecamp" not in name:
        shared |= {"model.encoder": size["encoder"], "model.embedding_dim": 128, "model.dim": 256}
    return load_settings(
        PretrainConfig, name, [f"{key}={json.dumps(value)}" for key, value in {**shared, **changes}.items()]
    )


def trained(out: Path, store: Path, name: str, arm: Arm, size: dict[str, Any], seed: int) -> Path:
    """A run; texts that another run has embedded are taken over."""
    from ctglip.training.launch import pretrain

    run = out / "runs" / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    bank = out / "text_bank"
    if (run / "model" / "config.json").is_file():
        return run
    if not (run / "environment.json").is_file() and bank.is_dir():
        shutil.copytree(bank, run / "text_bank", dirs_exist_ok=True)
    start, cpu = time.perf_counter(), time.process_time()
    pretrain(store, run, config_of(arm, size, seed), resume=(run / "environment.json").is_file())
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    (run / "took.json").write_text(json.dumps(took))
    shutil.rmtree(bank, ignore_errors=True)
    shutil.copytree(run / "text_bank", bank)
    say(f"{run.name}: {took['cpu_seconds']:.0f} s of a core")
    return run


def compared(asked: argparse.Namespace, arms: dict[str, Arm]) -> dict[str, Any]:
    """Train and judge every arm, seed by seed, so that an interrupted run has whole seeds."""
    size = SIZES[asked.size]
    seeds = asked.seeds or size["seeds"]
    start, cpu = time.perf_counter(), time.process_time()
    store = store_of(asked.out, size)
    truth = asked.out / "cohort" / "truth.csv"
    for seed in range(seeds):
        for name, arm in arms.items():
            run = trained(asked.out, store, name, arm, size, seed)
            judged(run, store, truth, asked.out / "cohort" / "lesions.csv")
            probed(run, store, truth, seed)
    found = rows(asked.out / "runs", list(arms), seeds)
    against = differences(asked.out / "runs", store, list(arms), seeds)
    figures = {
        "size": {key: value for key, value in size.items() if key != "encoder"},
        "seeds": seeds,
        "rows": found,
        "differences": against,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }
    print(about(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="headline", choices=["headline", "ablation"])
    parser.add_argument("--size", default="core", choices=list(SIZES), help="full: what is to be reported")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="does it run: --size quick")
    parser.add_argument("--all", action="store_true", help="ECAMP and PLACE too")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="these alone")
    parser.add_argument("--seeds", type=int, help="in place of the size's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--out", type=Path, default=Path("cxr-headline-output"), help="films, store, runs")
    asked = parser.parse_args()
    names = asked.arms or (list(ARMS) if asked.all else SHOWN)
    arms = ABLATION if asked.what == "ablation" else {name: ARMS[name] for name in names}
    figures = compared(asked, arms)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
