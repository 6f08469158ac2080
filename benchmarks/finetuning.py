"""How far labels go: the same encoder from random weights, from report-level CLIP (clip_global) and from organ-grounded
pretraining, fine-tuned on 1, 10 and 100 % of the labelled patients of a simulated cohort.

    python benchmarks/finetuning.py [--quick] [--json FILE] [--size quick|small|full] [--out DIR] [--mode MODE]

Pretraining sees the reports of one simulated cohort and no label; the labels are the truth of another one, whose
reports are not read. Random weights are always trained in full. Every start has the same labels, subsets and seeds;
intervals are over test patients, of the mean over seeds; differences are paired. Figures say how well the machinery
learns from simulated patients, nothing about clinical use. What is already in DIR is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SIZES = {
    "quick": {"pretrain": 60, "labelled": 60, "steps": 60, "clip_steps": 30, "epochs": 20, "scratch": 4},
    "small": {"pretrain": 120, "labelled": 160, "steps": 400, "clip_steps": 200, "epochs": 60, "scratch": 12},
    "full": {"pretrain": 600, "labelled": 1000, "steps": 1500, "clip_steps": 1500, "epochs": 100, "scratch": 40},
}
SEEDS = [0, 1, 2]
FRACTIONS = [0.01, 0.1, 1.0]


def command(*arguments: object) -> None:
    """One ctglip command; what it says goes to stderr."""
    done = subprocess.run([sys.executable, "-m", "ctglip", *map(str, arguments)], stdout=sys.stderr, check=False)
    if done.returncode == 2 or done.returncode > 100:
        sys.exit(done.returncode)


def cohort(out: Path, name: str, studies: int, seed: int) -> Path:
    """A simulated cohort and its store."""
    if not (out / name / "cohort" / "cohort.csv").is_file():
        command("simulate", out / name / "cohort", "--studies", studies, "--seed", seed)
    if not (out / name / "store" / "splits.parquet").is_file():
        table = out / name / "cohort" / "cohort.csv"
        command("preprocess", table, out / name / "store", "--config", "preprocess/demo_3mm", "--workers", 1)
    return out / name / "store"


def pretrained(out: Path, store: Path, name: str, config: str, steps: int) -> Path:
    """A run on the pretraining cohort."""
    run = out / name
    if not (run / "model" / "config.json").is_file():
        resume = ["--resume"] if (run / "environment.json").is_file() else []
        command("pretrain", store, run, "--config", config, "--set", f"loop.steps={steps}", *resume)
    return run


def tuned(out: Path, runs: list[Path], store: Path, labels: Path, mode: str, size: dict) -> dict:
    """Fine-tuning of the first run beside the others and random weights."""
    folder = out / f"finetuned-{mode}"
    changes = {
        "mode": mode,
        "fractions": FRACTIONS,
        "seeds": SEEDS,
        "fit.epochs": size["epochs"],
        "scratch_fit.epochs": size["scratch"],
    }
    arguments = [argument for key, value in changes.items() for argument in ("--set", f"{key}={json.dumps(value)}")]
    starts = [argument for run in ("scratch", *runs[1:]) for argument in ("--baseline", run)]
    resume = ["--resume"] if (folder / "environment.json").is_file() else []
    command("finetune", runs[0], store, folder, "--labels", labels, "--config", f"finetune/{mode}", *arguments, *starts,
            *resume)  # fmt: skip
    return json.loads((folder / "results.json").read_text())


def shown(interval: dict) -> str:
    """``0.861 [0.820, 0.902]``."""
    if interval["low"] is None:
        return "unknown" if interval["value"] is None else f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def table(results: dict) -> str:
    """Macro AUROC of each start at each share, then the paired differences."""
    points = {(p["start"], p["fraction"]): p for p in results["points"]}
    fractions = sorted({fraction for _, fraction in points})
    patients = {
        fraction: next(p["patients"] for (_, f), p in points.items() if f == fraction) for fraction in fractions
    }
    lines = ["| start | " + " | ".join(f"{f:.0%} ({patients[f]} patients)" for f in fractions) + " |"]
    lines.append("|---|" + "---|" * len(fractions))
    for start in dict.fromkeys(name for name, _ in points):
        cells = [shown(points[start, f]["macro_auroc"]) for f in fractions]
        lines.append(f"| {start} ({points[start, fractions[0]]['mode']}) | " + " | ".join(cells) + " |")
    lines.append("")
    lines += [
        f"{d['start']} at {d['fraction']:.0%} minus {d['other']} at {d['other_fraction']:.0%}: {shown(d['difference'])}"
        for d in results["differences"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="full", choices=list(SIZES), help="small: half an hour on one core")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="does it run: --size quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--out", type=Path, default=Path("finetuning-output"), help="cohorts and runs")
    parser.add_argument(
        "--mode", default="head", choices=["probe", "head", "lora", "full"], help="of pretrained starts"
    )
    asked = parser.parse_args()
    size = SIZES[asked.size]
    start = time.perf_counter()
    seen = cohort(asked.out, "pretraining", size["pretrain"], 100)
    labelled = cohort(asked.out, "labelled", size["labelled"], 200)
    runs = [
        pretrained(asked.out, seen, "organ_grounded", "demo/pretrain", size["steps"]),
        pretrained(asked.out, seen, "clip_global", "demo/pretrain_clip_global", size["clip_steps"]),
    ]
    truth = asked.out / "labelled" / "cohort" / "truth.csv"
    results = tuned(asked.out, runs, labelled, truth, asked.mode, size)
    seconds = time.perf_counter() - start
    if asked.json:
        kept = {key: results[key] for key in ("points", "differences", "patients", "studies")}
        asked.json.write_text(json.dumps({"mode": asked.mode, "size": size, "seconds": seconds, **kept}))
    counts = f"{results['patients']} test patients, {len(results['pairs'])} columns"
    print(f"{table(results)}\n\n{counts}, {seconds:.0f} s.")


if __name__ == "__main__":
    main()
