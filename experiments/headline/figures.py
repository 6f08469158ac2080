"""Answers of many runs judged together: intervals over the same drawn patients, differences draw by draw, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws
from ctglip.files import read_json
from ctglip.types import Interval

KEYS = ("study_id", "organ", "abnormality")


@dataclass(frozen=True)
class Judged:
    """The answers of some runs of one arm about one test split.

    Attributes:
        macro: macro AUROC of each bootstrap draw (row 0 is the sample itself), the mean over the runs.
        pairs: the same of each ``organ:abnormality``.
        numbers: means over the runs of what each evaluation found: macro F1, recognition, effective rank.
        seeds: macro AUROC of each run.
    """

    macro: np.ndarray
    pairs: dict[str, np.ndarray]
    numbers: dict[str, float | None]
    seeds: tuple[float, ...]


def judge(folders: Sequence[Path], patients: Mapping[str, str], draws: int) -> Judged:
    """Judge the evaluations of one arm's runs.

    Args:
        folders: of the evaluations.
        patients: study to patient; the same patients are drawn whatever the arm, so draws can be subtracted.
        draws: bootstrap draws.
    """
    names = sorted(set(patients.values()))
    index = {name: number for number, name in enumerate(names)}
    weights = draw_patients(len(names), draws, np.random.default_rng(0))
    macros, each = [], []
    for folder in folders:
        table = pl.read_parquet(folder / "scores.parquet").sort(KEYS)
        questions = {}
        for (organ, name), rows in sorted(table.group_by("organ", "abnormality")):
            who = np.array([index[patients[study]] for study in rows["study_id"]])
            questions[f"{organ}:{name}"] = Question(rows["label"].to_numpy(), rows["difference"].to_numpy(), who)
        by_pair, macro = macro_draws(list(questions.values()), weights)
        macros.append(macro)
        each.append(dict(zip(questions, by_pair, strict=True)))
    pairs = {pair: np.mean([found[pair] for found in each], axis=0) for pair in each[0]}
    seeds = tuple(float(macro[0]) for macro in macros)
    return Judged(np.mean(macros, axis=0), pairs, _numbers(folders), seeds)


def _numbers(folders: Sequence[Path]) -> dict[str, float | None]:
    found: dict[str, list[float]] = {}
    for folder in folders:
        result = read_json(folder / "results.json")
        seen = result["recognition"]
        values = {
            "macro_f1": result["macro_f1"],
            "effective_rank": result["effective_rank"],
            "organ_top1": seen["top1"]["value"],
            "organ_macro": seen["macro"]["value"],
            "right_side": seen["sides"],
        }
        for name, value in values.items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def row_of(judged: Judged) -> dict[str, Any]:
    """An arm's line of the results."""
    pairs = {pair: asdict(interval_of(draws)) for pair, draws in judged.pairs.items()}
    worst = min(pairs, key=lambda pair: pairs[pair]["value"])
    return {
        "macro_auroc": asdict(interval_of(judged.macro)),
        "by_seed": judged.seeds,
        "worst_pair": [worst, pairs[worst]["value"]],
        **judged.numbers,
        "pairs": pairs,
    }


def difference(more: Judged, less: Judged, pairs: Sequence[str] = ()) -> Interval:
    """Macro AUROC of one arm minus another's, on the same draws of patients; over some pairs, or all."""
    if not pairs:
        return interval_of(more.macro - less.macro)
    return interval_of(np.mean([more.pairs[pair] - less.pairs[pair] for pair in pairs], axis=0))


# ---- plots


def plot(out: Path, found: dict[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Learning curves, the ladder with effective ranks, and bars by abnormality, as PNG and SVG.

    Args:
        found: the results, as they are written.
        curves: label of an arm to its run's ``val`` and ``loss`` points.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    paths = []
    for anatomy, arms in found["arms"].items():
        paths += _saved(_ladder(arms, found["labels"]), out / f"ladder_{anatomy}")
        paths += _saved(_bars(arms, found["labels"]), out / f"abnormalities_{anatomy}")
    if curves:
        paths += _saved(_curves(curves), out / "learning_curves")
    return paths


def _saved(figure: Any, path: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(kind) for kind in (".png", ".svg")]
    for each in paths:
        figure.savefig(each, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return paths


def _ladder(arms: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 0.55 * len(arms) + 1.2), sharey=True, width_ratios=(2, 1))
    instances = np.arange(len(arms))[::-1]
    for instance, row in zip(instances, arms.values(), strict=True):
        macro = row["macro_auroc"]
        left.plot([macro["low"], macro["high"]], [instance, instance], color="C0", lw=2)
        left.plot(macro["value"], instance, "o", color="C0")
        left.plot(row["by_seed"], [instance + 0.22] * len(row["by_seed"]), "|", color="0.4")
        left.annotate(
            f"{macro['value']:.3f}", (macro["value"], instance), (0, -13), textcoords="offset points", ha="center"
        )
    left.axvline(0.5, color="0.7", ls=":")
    left.set_yticks(instances, [labels[name] for name in arms])
    left.set_xlabel("macro AUROC, zero-shot (95 % over patients; ticks: seeds)")
    right.barh(instances, [row["effective_rank"] or 0 for row in arms.values()], color="C1", height=0.5)
    right.set_xlabel("effective rank of the embeddings")
    return figure


def _bars(arms: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
    import matplotlib.pyplot as plt

    shown = [name for name in ("report", "sentence", "box", "same_organ") if name in arms] or list(arms)
    last = arms[shown[-1]]["pairs"]
    pairs = sorted(last, key=lambda pair: -last[pair]["value"])
    figure, axes = plt.subplots(figsize=(max(6.0, 0.42 * len(pairs)), 4))
    width = 0.8 / len(shown)
    for number, name in enumerate(shown):
        values = [arms[name]["pairs"][pair] for pair in pairs]
        where = np.arange(len(pairs)) + (number - (len(shown) - 1) / 2) * width
        spread = [[v["value"] - (v["low"] or 0) for v in values], [(v["high"] or 1) - v["value"] for v in values]]
        axes.bar(where, [v["value"] for v in values], width, color=f"C{number}", label=labels[name])
        axes.errorbar(where, [v["value"] for v in values], np.maximum(spread, 0), fmt="none", ecolor="0.4", lw=0.6)
    axes.axhline(0.5, color="0.5", ls=":")
    axes.axhline(0.7, color="0.5", ls="--", lw=0.7)
    axes.set_ylim(0.2, 1.02)
    axes.set_xticks(
        range(len(pairs)), [pair.replace("_", " ").replace(":", ": ") for pair in pairs], rotation=60, ha="right"
    )
    axes.set_ylabel("AUROC, zero-shot")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    return figure


def _curves(curves: Mapping[str, Mapping[str, Any]]) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for number, (label, points) in enumerate(curves.items()):
        last = max(step for step, _ in points["loss"])
        for axes, name in ((left, "val"), (right, "loss")):
            steps, values = zip(*points[name], strict=True)
            axes.plot(
                np.array(steps) / last, values, color=f"C{number}", label=label, marker="o" if axes is left else ""
            )
    left.set_ylabel("macro AUROC on the validation split (its reports)")
    right.set_ylabel("training loss (scales differ by objective)")
    for axes in (left, right):
        axes.set_xlabel("share of the budget")
    left.axhline(0.5, color="0.7", ls=":")
    figure.legend(
        *left.get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
    )
    figure.tight_layout()
    return figure
