"""Shortcuts: what is left of an answer when the phase, kernel or scanner of the patients was never trained on, or went
with a finding in training and goes against it in the test?

    python -m experiments.shortcuts [--quick] [--minutes N] [--steps N] [--json FILE] [--folder KEEP]
                                    [--patients FOLDER] [--arms ARM ...]

Patients are those of `experiments.headline` (`--patients`: its folder, whose patients are then not simulated again).
Never trained on: AUROC on patients of the group left out, beside the same answers about other patients of the groups
that were trained on. Confounded: in training 90 % of those with a finding are of a group and 10 % of those without it;
judged on test patients for whom that holds (aligned), and for whom the opposite does (reversed), beside a model that
was trained on as many patients of whom half are of the group either way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.cli.console import print_line
from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws
from experiments.command import keep, parser_of, say
from experiments.headline import work
from experiments.headline.__main__ import Runner, begin, deadline
from experiments.headline.arms import LABELS
from experiments.headline.figures import shown
from experiments.headline.splits import parsed
from experiments.headline.work import ANATOMIES, Bench, Plan, jobs_of

LEFT_OUT = (
    "phase=native", "phase=arterial", "phase=portal", "kernel=sharp", "kernel=soft",
    "scanner=Simulated A", "scanner=Simulated B", "scanner=Simulated C",
)  # fmt: skip
CONFOUNDED = (
    ("phase=portal", "liver:hepatic_steatosis"), ("phase=portal", "spleen:splenomegaly"),
    ("kernel=sharp", "lungs:emphysema"), ("kernel=sharp", "lung_right:consolidation"),
)  # fmt: skip
PAIRED = tuple(f"{share}:{group}:{finding}" for group, finding in CONFOUNDED for share in (90, 50))
FULL = Plan(work.FULL.studies, ANATOMIES, ("hand_features", "recipe"), (0,), 1500, 1000, folds=(*LEFT_OUT, *PAIRED))
QUICK = replace(
    work.QUICK, arms=("hand_features", "recipe"), folds=("phase=portal", "90:phase=portal:liver:hepatic_steatosis",
                                                       "50:phase=portal:liver:hepatic_steatosis")
)  # fmt: skip
SHARED = ("cohort", "store", "crops", "hand_features")
"""What a folder of patients has already."""


def judge(bench: Bench) -> dict[str, Any]:
    """The results so far."""
    done = [job for job in jobs_of(bench.plan) if bench.result(job).is_file()]
    found: dict[str, Any] = {
        "plan": asdict(bench.plan),
        "jobs": {"done": len(done), "of": sum(1 for _ in jobs_of(bench.plan))},
        "left_out": {},
        "confounded": {},
    }
    for job in done:
        share, (column, value), finding = parsed(job.fold)
        table = pl.read_parquet(bench.scores(job)).join(bench.cohort, on="study_id")
        inside = pl.col(column) == value
        if share is None:
            parts = {"never_trained_on": table.filter(inside), "trained_on": table.filter(~inside)}
            found["left_out"].setdefault(job.fold, {})[job.arm] = _macros(bench, parts)
            continue
        organ, name = finding.split(":")
        asked = table.filter((pl.col("organ") == organ) & (pl.col("abnormality") == name))
        with_group = inside == (pl.col("label") == 1)
        parts = {"aligned": asked.filter(with_group), "reversed": asked.filter(~with_group), "all": asked}
        key = f"{column}={value}, {finding}"
        by_arm = found["confounded"].setdefault(key, {}).setdefault(job.arm, {})
        by_arm["confounded" if share > 0.5 else "balanced"] = _macros(bench, parts)
    return found


def _macros(bench: Bench, parts: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Macro AUROC of each part over the pairs that it has both answers of, with an interval over patients."""
    names = bench.cohort["patient_id"].unique().sort().to_list()
    index = {name: number for number, name in enumerate(names)}
    weights = draw_patients(len(names), bench.plan.draws, np.random.default_rng(0))
    found: dict[str, Any] = {}
    for part, table in parts.items():
        questions = [
            Question(
                rows["label"].to_numpy(), rows["difference"].to_numpy(),
                np.array([index[name] for name in rows["patient_id"]]),
            )
            for _, rows in sorted(table.group_by("organ", "abnormality"))
            if rows["label"].n_unique() > 1
        ]  # fmt: skip
        if questions:
            interval = asdict(interval_of(macro_draws(questions, weights)[1]))
            found[part] = {**interval, "pairs": len(questions), "studies": table["study_id"].n_unique()}
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Two tables, in Markdown."""
    yield f"{found['jobs']['done']} of {found['jobs']['of']} runs."
    yield ""
    yield "| never trained on | model | on it | on other patients of what was trained on |"
    yield "|---|---|---|---|"
    for fold, arms in found["left_out"].items():
        for arm, one in arms.items():
            cells = (shown(one.get(part)) for part in ("never_trained_on", "trained_on"))
            yield f"| {fold} | {LABELS[arm]} | {' | '.join(cells)} |"
    yield ""
    yield "| with the finding in training | model | 90:10: aligned | reversed | all | 50:50: aligned | reversed | all |"
    yield "|---|---|---|---|---|---|---|---|"
    for pair, arms in found["confounded"].items():
        for arm, kinds in arms.items():
            cells = [
                shown(kinds.get(kind, {}).get(part))
                for kind in ("confounded", "balanced")
                for part in ("aligned", "reversed", "all")
            ]
            yield f"| {pair} | {LABELS[arm]} | {' | '.join(cells)} |"


def share_patients(folder: Path, patients: Path) -> None:
    """Take the patients of another folder."""
    if not (patients / "store").is_dir():
        raise SystemExit(f"{patients} holds no patients: name the folder of a run of experiments.headline.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (patients / name).mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to((patients / name).resolve())


def main() -> int:
    """Run, show, and write."""
    parser = parser_of("shortcuts", __doc__, "the mechanics on few patients: under three minutes")
    parser.add_argument("--minutes", type=float, metavar="N", help="end this call after so long; call again to go on")
    parser.add_argument("--steps", type=int, metavar="N", help="of every run, fixed for the folder (1500; quick: 12)")
    parser.add_argument("--folder", type=Path, default=None, help="where everything is kept (shortcuts-output)")
    parser.add_argument("--patients", type=Path, help="a folder of experiments.headline, for its patients")
    parser.add_argument("--arms", nargs="+", choices=sorted(LABELS), help="which models (hand_features recipe)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else FULL
    plan = replace(plan, steps=asked.steps or plan.steps, arms=tuple(asked.arms or plan.arms))
    folder = asked.folder or Path("shortcuts-output-quick" if asked.quick else "shortcuts-output")
    if asked.patients:
        share_patients(folder, asked.patients)
    runner = Runner(begin(plan, folder), asked.workers, deadline(asked.minutes, asked.quick))
    if runner.prepare():
        runner.do(jobs_of(plan))
        found = {**judge(runner.bench), "failed": runner.failed}
        for path in (folder / "shortcuts.json", asked.json):
            keep(found, path)
        print_line("\n".join(lines(found)))
    left = [job for job in jobs_of(plan) if not runner.bench.result(job).is_file()]
    say(f"{len(left)} runs are left; the same command goes on." if left else "All runs are done.")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
