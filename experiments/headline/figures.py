"""Answers of many runs judged together: intervals over the same drawn patients, paired differences, aims, a plot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws
from ctglip.files import read_json
from ctglip.types import Interval
from experiments.headline.arms import ARMS, FEATURES, HELD_OUT, LABELS
from experiments.headline.work import KEYS, Bench, Job, jobs_of

Cell = tuple[str, int]
"""Anatomy left out, seed."""


def pairs_by_fold(anatomies: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The pairs that can be judged on each anatomy after training on the others."""
    from ctglip.simulation import comparable_pairs
    from ctglip.simulation.torso import built_in_anatomy

    bodies = {kind: built_in_anatomy(0, False, kind) for kind in anatomies}
    return {
        kind: comparable_pairs(body, [other for name, other in bodies.items() if name != kind])
        for kind, body in bodies.items()
    }


@dataclass(frozen=True)
class Answers:
    """All answers that there are so far.

    Attributes:
        bench: where they are.
        comparable: the pairs that are judged on each anatomy left out.
        known: draws of runs that were judged before.
    """

    bench: Bench
    comparable: Mapping[str, Collection[str]]
    known: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)

    @cached_property
    def cells(self) -> dict[str, list[Cell]]:
        """The folds and seeds that each arm has been judged in."""
        found: dict[str, list[Cell]] = {}
        for job in jobs_of(self.bench.plan):
            if self.bench.result(job).is_file():
                seeds = self.bench.plan.seeds if job.arm in FEATURES else (job.seed,)  # these have no seed
                found.setdefault(job.arm, []).extend((job.fold, seed) for seed in seeds)
        return found

    @cached_property
    def weights(self) -> np.ndarray:
        """Draws of patients, the same for every arm, fold and seed."""
        return draw_patients(len(self.patients), self.bench.plan.draws, np.random.default_rng(0))

    @cached_property
    def patients(self) -> dict[str, int]:
        """Number of each patient."""
        return {name: number for number, name in enumerate(self.bench.cohort["patient_id"].unique().sort())}

    @cached_property
    def shared(self) -> dict[str, pl.DataFrame]:
        """The questions of each fold that every arm has answered."""
        found: dict[str, pl.DataFrame] = {}
        for arm, cells in self.cells.items():
            for fold, seed in cells:
                keys = self._table(arm, fold, seed).select(KEYS)
                found[fold] = keys if fold not in found else found[fold].join(keys, on=KEYS, how="semi")
        return found

    def _table(self, arm: str, fold: str, seed: int) -> pl.DataFrame:
        seed = self.bench.plan.seeds[0] if arm in FEATURES else seed
        return pl.read_parquet(self.bench.scores(Job(arm, fold, seed)))

    def macro(self, arm: str, cell: Cell, abroad: bool, names: Collection[str] = ()) -> np.ndarray:
        """Macro AUROC of each draw for one run.

        Args:
            arm: which.
            cell: its fold and seed.
            abroad: judged on the anatomy left out, or on other patients of the anatomies of training.
            names: abnormalities; all where there are none.
        """
        key = (arm, cell, abroad, *sorted(names))
        if key not in self.known:
            self.known[key] = self._macro(arm, cell, abroad, names)
        return self.known[key]

    def _macro(self, arm: str, cell: Cell, abroad: bool, names: Collection[str]) -> np.ndarray:
        fold, seed = cell
        table = self._table(arm, fold, seed).join(self.shared[fold], on=KEYS, how="semi")
        table = table.join(self.bench.cohort, on="study_id")
        table = table.filter((pl.col("anatomy") == fold) == abroad)
        questions = []
        for (organ, name), rows in sorted(table.group_by("organ", "abnormality")):
            comparable = not abroad or f"{organ}:{name}" in self.comparable[fold]
            if not comparable or (names and name not in names) or rows["label"].n_unique() < 2:
                continue
            who = np.array([self.patients[patient] for patient in rows["patient_id"]])
            questions.append(Question(rows["label"].to_numpy(), rows["difference"].to_numpy(), who))
        if not questions:
            return np.full(len(self.weights), np.nan)
        return macro_draws(questions, self.weights)[1]

    def mean(self, arm: str, cells: Sequence[Cell], abroad: bool, names: Collection[str] = ()) -> np.ndarray:
        """Its mean over runs: folds count alike, and so do the seeds of a fold."""
        folds: dict[str, list[np.ndarray]] = {}
        for cell in cells:
            folds.setdefault(cell[0], []).append(self.macro(arm, cell, abroad, names))
        return np.mean([np.mean(some, axis=0) for some in folds.values()], axis=0)

    def difference(self, more: str, less: str, abroad: bool, names: Collection[str] = ()) -> dict[str, Any] | None:
        """Macro AUROC of an arm minus another's, over the runs that both have."""
        both = [cell for cell in self.cells.get(more, ()) if cell in self.cells.get(less, ())]
        if not both:
            return None
        draws = self.mean(more, both, abroad, names) - self.mean(less, both, abroad, names)
        return {**asdict(interval_of(draws)), "folds": len({fold for fold, _ in both}), "runs": len(both)}


def judge(bench: Bench) -> dict[str, Any]:
    """The results so far, as they are written."""
    answers = Answers(bench, pairs_by_fold(bench.plan.anatomies))
    found: dict[str, Any] = {
        "plan": asdict(bench.plan),
        "pairs_judged": {fold: len(pairs) for fold, pairs in answers.comparable.items()},
        "jobs": {"done": sum(bench.result(job).is_file() for job in jobs_of(bench.plan)),
                 "of": sum(1 for _ in jobs_of(bench.plan))},
        "arms": {arm: _row(answers, arm) for arm in bench.plan.arms if arm in answers.cells},
    }  # fmt: skip
    untaught = {
        "untaught": _interval(answers, "untaught", HELD_OUT),
        "taught": _interval(answers, "recipe", HELD_OUT),
        "difference": answers.difference("untaught", "recipe", True, HELD_OUT),
    }
    found["never_taught"] = untaught
    found["aims"] = aims(answers, found)
    return found


def _interval(answers: Answers, arm: str, names: Collection[str]) -> dict[str, Any] | None:
    cells = answers.cells.get(arm)
    return asdict(interval_of(answers.mean(arm, cells, True, names))) if cells else None


def _row(answers: Answers, arm: str) -> dict[str, Any]:
    cells = answers.cells[arm]
    results = [read_json(answers.bench.result(job)) for job in jobs_of(answers.bench.plan) if job.arm == arm
               and answers.bench.result(job).is_file()]  # fmt: skip
    seconds = [one["train_cpu_s"] for one in results if "train_cpu_s" in one]
    parent = ARMS[arm].parent if arm in ARMS else None
    by_fold = {
        fold: float(np.mean([answers.macro(arm, cell, True)[0] for cell in cells if cell[0] == fold]))
        for fold in dict.fromkeys(fold for fold, _ in cells)
    }
    return {
        "label": LABELS[arm],
        "folds": len(by_fold),
        "seeds": len({job.seed for job in jobs_of(answers.bench.plan) if job.arm == arm
                      and answers.bench.result(job).is_file()}),
        "steps": results[0].get("steps"),
        "cpu_s": float(np.median(seconds)) if seconds else None,
        "left_out": asdict(interval_of(answers.mean(arm, cells, True))),
        "by_fold": by_fold,
        "in_domain": asdict(interval_of(answers.mean(arm, cells, False))),
        "parent": parent,
        "difference": answers.difference(arm, parent, True) if parent else None,
        "over_report": answers.difference(arm, "report", True) if arm != "report" else None,
        "over_hand_features": answers.difference(arm, "hand_features", True) if arm != "hand_features" else None,
    }  # fmt: skip


def aims(answers: Answers, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, what came out, and whether it is met; None where it can't be said yet."""
    own = found["arms"].get("recipe", {}).get("left_out")
    targets: list[tuple[str, Mapping[str, Any] | None, float, bool]] = [
        ("organ crops with masks (recipe): at least 0.80", own, 0.80, False),
        ("recipe minus report-level CLIP: at least +0.20", answers.difference("recipe", "report", True), 0.20, True),
        ("recipe minus boxes: at least +0.10", answers.difference("recipe", "box", True), 0.10, True),
        ("recipe minus hand features: at least +0.05", answers.difference("recipe", "hand_features", True), 0.05, True),
        ("abnormalities never taught: at least 0.65", found["never_taught"]["untaught"], 0.65, False),
        (
            "dictionary negatives at batch 8: a gain",
            answers.difference("same_organ_8", "recipe_8", True),
            0.0,
            True,
        ),
    ]
    return [
        {"aim": aim, "found": value, "met": None if value is None else _met(value, least, above_zero)}
        for aim, value, least, above_zero in targets
    ]


def _met(value: Mapping[str, Any], least: float, above_zero: bool) -> bool:
    interval = Interval(value["value"], value["low"], value["high"])
    if interval.value is None or interval.value < least:
        return False
    return not above_zero or (interval.low is not None and interval.low > 0)


# ---- shown


def shown(value: Mapping[str, Any] | None, sign: bool = False) -> str:
    """``0.812 [0.790, 0.834]``; nothing where there is nothing."""
    if value is None or value["value"] is None:
        return ""
    form = "+.3f" if sign else ".3f"
    ends = [value["low"], value["high"]]
    return f"{value['value']:{form}} [{', '.join('' if end is None else format(end, form) for end in ends)}]"


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """The table, in Markdown."""
    pairs = ", ".join(f"{fold} {count}" for fold, count in found["pairs_judged"].items())
    yield f"{found['jobs']['done']} of {found['jobs']['of']} runs. Pairs judged on the anatomy left out: {pairs}."
    yield ""
    yield "| | folds, seeds | anatomy left out | minus the arm it differs from | in domain | steps; CPU s |"
    yield "|---|---|---|---|---|---|"
    for row in found["arms"].values():
        change = shown(row["difference"], sign=True)
        change += f" ({LABELS[row['parent']]})" if change else ""
        cost = "" if row["steps"] is None else f"{row['steps']}; {'' if row['cpu_s'] is None else round(row['cpu_s'])}"
        cells = f"{row['folds']}, {row['seeds']}"
        yield f"| {row['label']} | {cells} | {shown(row['left_out'])} | {change} | {shown(row['in_domain'])} | {cost} |"
    yield ""
    never = found["never_taught"]
    if never["untaught"]:
        yield f"Never taught: {shown(never['untaught'])}; taught: {shown(never['taught'])}."
        yield ""
    for one in found["aims"]:
        state = {None: "not judged yet", True: "met", False: "missed"}[one["met"]]
        yield f"- {one['aim']}: {state}. {shown(one['found'])}".rstrip()


def plot(found: Mapping[str, Any], path: Path) -> Path:
    """The arms with their intervals on the anatomy left out, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(found["arms"].values())[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(rows) + 1))
    for number, row in enumerate(rows):
        for name, colour, shift in (("left_out", "C0", 0.0), ("in_domain", "0.6", 0.22)):
            value = row[name]
            if value["value"] is not None:
                axes.plot([value["low"], value["high"]], [number + shift] * 2, color=colour, lw=2)
                axes.plot(value["value"], number + shift, "o", color=colour, ms=4)
    axes.axvline(0.5, color="0.7", ls=":")
    axes.set_yticks(range(len(rows)), [f"{row['label']} ({row['folds']} folds)" for row in rows], fontsize=8)
    axes.set_xlabel("macro AUROC, zero-shot: blue on the anatomy left out, grey on those of training")
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path
