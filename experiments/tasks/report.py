"""Reports of simulated scans, written organ by organ, beside templates, neighbours, zero-shot answers and a writer that
sees the organs of other patients."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctglip.cli.console import print_line
from ctglip.config import load_settings
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.inputs import CachedFeatures
from ctglip.tasks.report_generation import ReportGeneration
from ctglip.tasks.results import LabelShare, TaskRun
from ctglip.tasks.runs import train_run
from ctglip.tasks.settings import FinetuneConfig, ReportConfig
from ctglip.training.callbacks import Callbacks
from experiments.command import run_ctglip
from experiments.tasks.segmentation import flags, shown

SIZES: dict[bool, dict[str, Any]] = {
    True: {"studies": 40, "spacing": 6, "steps": 40, "seeds": [0], "fit": {"epochs": 4, "batch": 4, "patience": 0}},
    False: {"studies": 240, "spacing": 3, "steps": 500, "seeds": [0, 1, 2],
            "fit": {"epochs": 16, "batch": 8, "patience": 5}},
}  # fmt: skip
"""Studies, millimetres of their voxels, steps of the pretraining, seeds and fit of the writer; by ``--quick``."""
CONFIG = "finetune/ct_report"


def cohort(out: Path, size: dict[str, Any]) -> Path:
    """A simulated cohort and its store; patients of its splits are apart."""
    spacing = size["spacing"]
    if not (out / "cohort" / "cohort.csv").is_file():
        run_ctglip("simulate", out / "cohort", "--level", "easy", "--studies", size["studies"], "--seed", 300,
                   *(["--set", f"spacing_mm={spacing}"] if spacing != 3 else []))  # fmt: skip
    if not (out / "store" / "splits.parquet").is_file():
        own = {"ct.spacing_mm": [float(spacing)] * 3}
        run_ctglip("preprocess", out / "cohort" / "cohort.csv", out / "store", "--config", "preprocess/demo_3mm",
                   "--workers", 1, *flags(own))  # fmt: skip
    return out / "store"


def pretrained(out: Path, store: Path, steps: int) -> Path:
    """Organ-grounded pretraining on the training patients."""
    run = out / "run"
    if not (run / "model" / "config.json").is_file():
        resume = ["--resume"] if (run / "environment.json").is_file() else []
        run_ctglip("pretrain", store, run, "--config", "small/ctglip_cnn", *flags({"loop.steps": steps}), *resume)
    return run


def _own(size: dict[str, Any]) -> dict[str, Any]:
    return {"fit": size["fit"], "seeds": size["seeds"]}


def tuned(out: Path, run: Path, store: Path, size: dict[str, Any]) -> dict[str, Any]:
    """The writer, and the baselines that the same command measures."""
    folder = out / "written"
    if not (folder / "results.json").is_file():
        resume = ["--resume"] if (folder / "environment.json").is_file() else []
        run_ctglip("finetune", run, store, folder, "--config", CONFIG, *flags(_own(size)), *resume)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def of_others(out: Path, run: Path, store: Path, size: dict[str, Any]) -> LabelShare:
    """The same writer, of the first seed, where each organ's features are those of another patient."""
    changes = [f"{name}={json.dumps(value)}" for name, value in _own(size).items()]
    config = load_settings(FinetuneConfig, CONFIG, [*changes, "report.baselines=[]"])
    assert isinstance(config, ReportConfig)
    start = Initialization("others", load_release(run), False, "probe")
    task = ReportGeneration.open(Store.open(store), [start], config, None, Callbacks())
    inputs = task.inputs["others"]
    assert isinstance(inputs, CachedFeatures)
    rng, order = np.random.default_rng(0), np.arange(len(inputs.bags.organ))
    for organ in range(len(inputs.bags.organs)):
        rows = np.flatnonzero(inputs.bags.organ == organ)
        order[rows] = rng.permutation(rows)
    task.inputs = {"others": replace(inputs, features=inputs.features[torch.from_numpy(order)])}
    done = [
        train_run(task, TaskRun("others", 1.0, seed), start, out / "of_others", Callbacks())
        for seed in size["seeds"][:1]
    ]
    return task.results(done).points[0]


def report(out: Path, quick: bool) -> dict[str, Any]:
    """The whole comparison: F1 of facts, of affirmed ones, hallucinations and omissions; and the aim that is measured:
    F1 of affirmed facts as a share of what zero-shot answers reach."""
    size, start = SIZES[quick], time.perf_counter()
    store = cohort(out, size)
    run = pretrained(out, store, size["steps"])
    results = tuned(out, run, store, size)
    points = [*results["points"], asdict(of_others(out, run, store, size))]
    names = ("affirmed_f1", "hallucination_rate", "omission_rate", "bleu4", "rouge_l")
    lines = [f"| written by | clinical F1 | {' | '.join(names)} | seeds |", "|---" * (len(names) + 3) + "|"]
    for point in points:
        cells = [shown(point["more"][name]) for name in names]
        seeds = ", ".join(f"{value:.3f}" for value in point["seeds"])
        lines.append(f"| {point['initialization']} | {shown(point['score'])} | {' | '.join(cells)} | {seeds} |")
    lines += [f"minus {one['other']}: {shown(one['difference'])}" for one in results["differences"]]
    affirmed = {point["initialization"]: point["more"]["affirmed_f1"]["value"] or 0.0 for point in points}
    share = affirmed["run"] / affirmed["zero_shot"] if affirmed["zero_shot"] else None
    seconds = time.perf_counter() - start
    if share is not None:
        lines.append(f"affirmed F1 is {share:.2f} of that of zero-shot answers.")
    print_line("\n".join([*lines, f"{results['patients']} test patients; {seconds:.0f} s."]))
    rest = {key: results[key] for key in ("differences", "patients", "studies", "notes")}
    return {"size": size, "seconds": seconds, "share_of_zero_shot": share, "points": points, **rest}
