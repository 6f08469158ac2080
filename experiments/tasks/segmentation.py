"""Organs of simulated scans: a U-Net on the same encoder from organ-grounded pretraining and from random weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ctglip.cli.console import print_line
from experiments.command import run_ctglip

SIZES: dict[bool, dict[str, Any]] = {
    True: {"pretrain": 10, "labelled": 14, "steps": 4, "epochs": 2, "seeds": [0], "fractions": [1.0]},
    False: {"pretrain": 60, "labelled": 48, "steps": 150, "epochs": 12, "seeds": [0, 1, 2], "fractions": [0.5]},
}
"""Studies of the two cohorts, steps of the pretraining, epochs of every fit, seeds, and shares of the labels; by
``--quick``."""
TARGETS = ["liver", "spleen", "kidneys"]
SPACING = [6, 6, 6]
GRID, PATCH = [48, 48, 48], [32, 32, 32]
ORGANS = ["liver", "spleen", "kidney_left", "kidney_right", "gallbladder", "urinary_bladder"]
FIT = {"patience": 0, "batch": 2}
OPTIM = {"lr": 0.01, "warmup": 5, "weight_decay": 0.01}


def flags(changes: dict[str, Any]) -> list[str]:
    """``--set`` for each change."""
    return [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def cohort(out: Path, name: str, studies: int, seed: int) -> Path:
    """A simulated cohort at 6 mm and its store, with splits by patient."""
    folder = out / name
    if not (folder / "cohort" / "cohort.csv").is_file():
        run_ctglip("simulate", folder / "cohort", "--level", "easy", "--studies", studies, "--seed", seed,
                   "--set", "spacing_mm=6")  # fmt: skip
    if not (folder / "store" / "splits.parquet").is_file():
        own = {"ct.spacing_mm": SPACING, "splits.fractions": [0.5, 0.15, 0.35]}
        run_ctglip("preprocess", folder / "cohort" / "cohort.csv", folder / "store", "--config", "preprocess/demo_3mm",
                   "--workers", 1, *flags(own))  # fmt: skip
    return folder / "store"


def pretrained(out: Path, store: Path, steps: int) -> Path:
    """Organ-grounded pretraining on whole scans: organs pooled by their masks, with the sentences about them."""
    run = out / "organ_grounded"
    if not (run / "model" / "config.json").is_file():
        own = {"loop.steps": steps, "loop.threads": 1, "loop.pairs": 0, "data.input.grid": GRID,
               "data.input.spacing_mm": SPACING, "data.organs": ORGANS}  # fmt: skip
        resume = ["--resume"] if (run / "environment.json").is_file() else []
        run_ctglip("pretrain", store, run, "--config", "small/ctglip_pool", *flags(own), *resume)
    return run


def tuned(out: Path, run: Path, store: Path, size: dict[str, Any]) -> dict[str, Any]:
    """Both starts with the same patches, steps, rates and patients: the encoder's first weights alone differ."""
    folder, fit = out / "segmented", {**FIT, "epochs": size["epochs"]}
    if not (folder / "results.json").is_file():
        own = {
            "segmentation.targets": TARGETS, "segmentation.width": 8, "segmentation.overlap": 0.0,
            "segmentation.val_scans": 1, "segmentation.patch": PATCH, "fractions": size["fractions"],
            "seeds": size["seeds"], "fit": fit, "scratch_fit": fit, "optim": OPTIM, "scratch_optim": OPTIM,
        }  # fmt: skip
        resume = ["--resume"] if (folder / "environment.json").is_file() else []
        run_ctglip("finetune", run, store, folder, "--config", "finetune/ct_segmentation", "--baseline", "scratch",
                   *flags(own), *resume)  # fmt: skip
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def format_score(interval: dict[str, Any]) -> str:
    """``0.861 [0.820, 0.902]``."""
    if interval["value"] is None:
        return "unknown"
    ends = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['value']:.3f}{ends}"


def segmentation(out: Path, quick: bool) -> dict[str, Any]:
    """The comparison: Dice of each start at each share of the labels, and their paired differences."""
    size, start = SIZES[quick], time.perf_counter()
    run = pretrained(out, cohort(out, "pretraining", size["pretrain"], 100), size["steps"])
    results = tuned(out, run, cohort(out, "labelled", size["labelled"], 200), size)
    lines = ["| start | patients | Dice | seeds |", "|---|---|---|---|"]
    for point in results["points"]:
        seeds = ", ".join(f"{value:.3f}" for value in point["seeds"])
        lines.append(f"| {point['initialization']} | {point['patients']} | {format_score(point['score'])} | {seeds} |")
    lines += [
        f"{one['initialization']} at {one['fraction']:.0%} minus {one['other']} at {one['other_fraction']:.0%}: "
        f"{format_score(one['difference'])}"
        for one in results["differences"]
        if one["fraction"] == one["other_fraction"]
    ]
    seconds = time.perf_counter() - start
    print_line("\n".join([*lines, f"{results['patients']} test patients; {seconds:.0f} s."]))
    summary = {key: results[key] for key in ("points", "differences", "patients", "studies", "notes")}
    return {"size": size, "targets": TARGETS, "seconds": seconds, **summary}
