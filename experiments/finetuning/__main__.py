"""How far labels go: the same encoder from random weights, from report-level CLIP (clip_global) and from organ-grounded
pretraining, fine-tuned on 1, 10 and 100 % of the labelled patients of a simulated cohort.

    python -m experiments.finetuning [--quick] [--json FILE] [--size quick|core|full] [--out DIR] [--mode MODE]
    python -m experiments.finetuning real [--json FILE]         # a smoke test on real labels, see real.py

Pretraining sees the reports of one simulated cohort and no label; the labels are the truth of another one, whose
reports are not read. Random weights are always trained in full. Every start has the same labels, subsets and seeds, and
one validation split for stopping and thresholds; intervals are over test patients, of the mean over seeds; differences
are paired. Figures say how well the machinery learns from simulated patients, nothing about clinical use. What is
already in DIR is not made again, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path

import polars as pl

from ctglip.cli.console import print_line
from experiments.command import keep, parser_of, run_ctglip

SIZES = {
    "quick": {"pretrain": 30, "splits": (18, 8, 16), "steps": 12, "clip_steps": 4, "epochs": 20, "scratch": 1,
              "seeds": 1},
    "core": {"pretrain": 200, "splits": (90, 20, 60), "steps": 700, "clip_steps": 420, "epochs": 100, "scratch": 16,
             "seeds": 3},
    "full": {"pretrain": 600, "splits": (700, 100, 200), "steps": 1500, "clip_steps": 1500, "epochs": 100,
             "scratch": 40, "seeds": 3},
}  # fmt: skip
"""Studies of the two cohorts, steps of the two pretrainings, passes of the pretrained starts and of random weights, and
seeds. "core" takes about 20 minutes of one core; clip_global gets about the time of the organ-grounded pretraining."""
SEEDS = [0, 1, 2]
FRACTIONS = [0.01, 0.1, 1.0]
COLUMNS = (
    "gallbladder:gallstone", "heart:cardiomegaly",
    "kidney_left:hydronephrosis", "kidney_left:renal_cyst", "kidney_left:renal_stone", "liver:hepatic_steatosis",
    "liver:liver_cyst", "liver:liver_metastasis", "lumbar_spine:compression_fracture", "lung_left:consolidation",
    "lung_left:lung_nodule", "pleura_left:pleural_effusion", "spleen:splenomegaly",
)  # fmt: skip
"""One side of each pair of organs: random weights are trained in full, and time goes with the organs."""


def made(path: Path) -> Path:
    """What a command had to write."""
    if not path.is_file():
        sys.exit(f"{path} was not written; see above.")
    return path


def cohort(out: Path, name: str, studies: int, seed: int) -> Path:
    """A simulated cohort and its store."""
    folder = out / name
    if not (folder / "cohort" / "cohort.csv").is_file():
        run_ctglip("simulate", folder / "cohort", "--level", "easy", "--studies", studies, "--seed", seed)
    table = made(folder / "cohort" / "cohort.csv")
    if not (folder / "store" / "splits.parquet").is_file():
        run_ctglip("preprocess", table, folder / "store", "--config", "preprocess/demo_3mm", "--workers", 1)
    made(folder / "store" / "splits.parquet")
    return folder / "store"


def label_table(out: Path, splits: tuple[int, int, int]) -> Path:
    """The truth of the labelled cohort with splits by patient, about as large as asked for."""
    folder = out / "labelled" / "cohort"
    patients = pl.read_csv(folder / "cohort.csv", infer_schema=False).select("study_id", "patient_id")
    truth = pl.read_csv(folder / "truth.csv", infer_schema=False).select("study_id", *COLUMNS)
    order = sorted(patients["patient_id"].unique().to_list())
    random.Random(0).shuffle(order)
    number_of = {name: number for number, name in enumerate(order)}
    edges = [sum(splits[:n]) / sum(splits) * len(order) for n in (1, 2)]
    names = [("train", "val", "test")[sum(number_of[patient] >= edge for edge in edges)] for patient in
             patients["patient_id"]]  # fmt: skip
    table = truth.join(patients.with_columns(split=pl.Series(names)), on="study_id", how="left")
    table.write_csv(out / "labels.csv")
    return out / "labels.csv"


def pretrained(out: Path, store: Path, name: str, config: str, steps: int) -> Path:
    """A run on the pretraining cohort."""
    run = out / name
    if not (run / "model" / "config.json").is_file():
        resume = ["--resume"] if (run / "environment.json").is_file() else []
        run_ctglip("pretrain", store, run, "--config", config, "--set", f"loop.steps={steps}", *resume)
    made(run / "model" / "config.json")
    return run


def tuned(out: Path, runs: list[Path], store: Path, labels: Path, mode: str, size: dict) -> dict:
    """Fine-tuning of the first run beside the others and random weights."""
    folder = out / f"finetuned-{mode}"
    changes = {
        "mode": mode,
        "fractions": FRACTIONS,
        "seeds": SEEDS[: size["seeds"]],
        "fit.epochs": size["epochs"],
        "scratch_fit.epochs": size["scratch"],
    }
    arguments = [argument for key, value in changes.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    starts = [argument for run in ("scratch", *runs[1:]) for argument in ("--baseline", run)]
    resume = ["--resume"] if (folder / "environment.json").is_file() else []
    run_ctglip("finetune", runs[0], store, folder, "--labels", labels, "--config", f"finetune/{mode}", *arguments,
               *starts, *resume)  # fmt: skip
    return json.loads(made(folder / "results.json").read_text())


def still_better(out: Path, mode: str) -> dict[str, str]:
    """For each start, in how many of its fits on all labels the last pass was the best: more passes may help."""
    found: dict[str, list[bool]] = {}
    for file in sorted((out / f"finetuned-{mode}" / "runs").glob("*/run.json")):
        about = json.loads(file.read_text())
        if about["fraction"] == max(FRACTIONS):
            found.setdefault(about["initialization"], []).append(about["best"] == about["epochs"])
    return {start: f"{sum(last)} of {len(last)}" for start, last in found.items()}


def shown(interval: dict) -> str:
    """``0.861 [0.820, 0.902]``."""
    if interval["low"] is None:
        return "unknown" if interval["value"] is None else f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def table(results: dict) -> str:
    """Macro AUROC of each start at each share, then the paired differences."""
    points = {(p["initialization"], p["fraction"]): p for p in results["points"]}
    fractions = sorted({fraction for _, fraction in points})
    patients = {
        fraction: next(p["patients"] for (_, f), p in points.items() if f == fraction) for fraction in fractions
    }
    lines = ["| start | " + " | ".join(f"{f:.0%} ({patients[f]} patients)" for f in fractions) + " |"]
    lines.append("|---|" + "---|" * len(fractions))
    for start in dict.fromkeys(name for name, _ in points):
        cells = [shown(points[start, f]["score"]) for f in fractions]
        lines.append(f"| {start} ({points[start, fractions[0]]['mode']}) | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [
        f"{d['initialization']} at {d['fraction']:.0%} minus {d['other']} at {d['other_fraction']:.0%}: "
        f"{shown(d['difference'])}"
        for d in results["differences"]
    ]
    return "\n".join(lines)


def simulated(asked: argparse.Namespace) -> dict:
    """The whole comparison."""
    size = SIZES[asked.size]
    start = time.perf_counter()
    seen = cohort(asked.out, "pretraining", size["pretrain"], 100)
    labelled = cohort(asked.out, "labelled", sum(size["splits"]), 200)
    runs = [
        pretrained(asked.out, seen, "organ_grounded", "small/ctglip_cnn", size["steps"]),
        pretrained(asked.out, seen, "clip_global", "small/clip_global", size["clip_steps"]),
    ]
    results = tuned(asked.out, runs, labelled, label_table(asked.out, size["splits"]), asked.mode, size)
    seconds = time.perf_counter() - start
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    best = still_better(asked.out, asked.mode)
    counts = f"{results['patients']} test patients, {len(results['pairs'])} columns"
    took = f"{seconds:.0f} s, {cpu.ru_utime + cpu.ru_stime:.0f} s of a core"
    print_line(f"{table(results)}\n\n{counts}; the last pass was the best in {best}; {took} this time.")
    kept = {key: results[key] for key in ("points", "differences", "patients", "studies", "calibration")}
    about = {"mode": asked.mode, "size": size, "last_pass_best": best, "seconds": seconds}
    return {**about, "cpu_seconds": cpu.ru_utime + cpu.ru_stime, **kept}


def main() -> None:
    """Measure, show, and write."""
    parser = parser_of("finetuning", __doc__, "does it run: --size quick")
    parser.add_argument("what", nargs="?", default="simulated", choices=["simulated", "real"])
    parser.add_argument("--size", default="core", choices=list(SIZES), help="core: about 20 minutes of one core")
    parser.add_argument("--out", type=Path, default=Path("finetuning-output"), help="cohorts and runs")
    parser.add_argument(
        "--mode", default="head", choices=["probe", "head", "lora", "full"], help="of pretrained starts"
    )
    asked = parser.parse_args()
    asked.size = "quick" if asked.quick else asked.size
    if asked.what == "real":
        from experiments.finetuning.real import real

        figures = real(asked.out, quick=asked.size == "quick")
    else:
        figures = simulated(asked)
    keep(figures, asked.json)


if __name__ == "__main__":
    main()
