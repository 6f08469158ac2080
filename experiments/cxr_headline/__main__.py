"""Pretraining on chest radiographs: CLIP on the whole report beside IMITATE and ASG (and ECAMP, PLACE), on simulated
radiographs.

    python -m experiments.cxr_headline [ablation] [--size quick|core|full] [--quick] [--all] [--seeds N]
                                       [--arms A B ...] [--workers 2] [--cxr] [--json FILE] [--out DIR]

Every arm sees the same radiographs in the same order for the same number of steps with the same encoder, frozen text
encoder and optimiser; IMITATE sees two windows of each radiograph, as published, and so takes about twice the time.
Judged on radiographs
of other patients, against the truth, not the reports: zero-shot AUROC, read from the whole radiograph and (ASG, PLACE)
from the organ's box or query, and by ASG's tags; where the map of an answer peaks; retrieval of radiographs and
reports; a linear probe of the frozen encoder at 1, 10 and 100 % of the labelled radiographs, beside random weights.
Intervals are over patients, of the mean over seeds; differences are paired. "ablation" leaves out one term at a time.
Runs go side by side, each with one thread. Kill it and run it again: it goes on, and what is in DIR is not made again.
Figures say how well the machinery learns from simulated radiographs, nothing about clinical use.

Minutes of a core, all in all: "full" 44 (radiographs 7, texts 2), with --all 77; "ablation" at "core", one seed, 20.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ctglip.cli.console import print_line
from experiments.command import keep, parser_of, say
from experiments.cxr_headline.parts import SHOWN, about, differences, pointed, rows
from experiments.cxr_headline.work import ABLATION, ARMS, SIZES, Job, do, embedded, store_of
from experiments.side_by_side import tied_to_the_parent


def compared(asked: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Train and judge every arm with every seed, those of a seed first, and what was found."""
    size = SIZES[asked.size]
    seeds = asked.seeds or (1 if asked.what == "ablation" else size["seeds"])
    start = time.perf_counter()
    store = store_of(asked.out, size, asked.workers)
    jobs = [Job(asked.out, asked.size, name, asked.what == "ablation", n) for n in range(seeds) for name in names]
    took: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(asked.workers, get_context("spawn"), tied_to_the_parent) as pool:
        texts = pool.submit(embedded, asked.out, asked.size).result()
        waiting = {pool.submit(do, job): job for job in jobs}
        for number, future in enumerate(as_completed(waiting), start=1):
            name = waiting[future].run.name
            took[name] = future.result()
            said = ", ".join(f"{part.replace('cpu_seconds', 'training')} {s:.0f}" for part, s in took[name].items())
            say(f"{number}/{len(jobs)} {name}: {said} s of a core")
    radiographs = json.loads((asked.out / "radiographs.json").read_text())
    return {
        "size": {key: value for key, value in size.items() if key != "encoder"},
        "seeds": seeds,
        "rows": rows(asked.out / "runs", names, seeds),
        "pointing": pointed(asked.out / "runs", names, seeds),
        "differences": differences(asked.out / "runs", store, names, seeds),
        "split": radiographs["split"],
        "took": took,
        "cpu_seconds": radiographs["cpu_seconds"]
        + texts["cpu_seconds"]
        + sum(sum(one.values()) for one in took.values()),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Measure, show, and write."""
    parser = parser_of("cxr_headline", __doc__, "does it run: --size quick")
    parser.add_argument("what", nargs="?", default="headline", choices=["headline", "ablation"])
    parser.add_argument("--size", default="core", choices=list(SIZES), help="full: what is to be reported")
    parser.add_argument("--all", action="store_true", help="ECAMP and PLACE too")
    parser.add_argument("--arms", nargs="+", choices=list(dict.fromkeys([*ARMS, *ABLATION])), help="these alone")
    parser.add_argument("--seeds", type=int, help="in place of the size's own number")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--cxr", action="store_true", help="make the radiographs and their store, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("cxr-headline-output"), help="radiographs, store, runs")
    asked = parser.parse_args()
    asked.size = "quick" if asked.quick else asked.size
    if asked.cxr:
        store_of(asked.out, SIZES[asked.size], asked.workers)
        return
    known = ABLATION if asked.what == "ablation" else ARMS
    names = asked.arms or (list(known) if asked.all or asked.what == "ablation" else SHOWN)
    figures = compared(asked, names)
    print_line(about(figures))
    keep(figures, asked.json)


if __name__ == "__main__":
    main()
