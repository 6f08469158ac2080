"""What the experiment measures of a run, and its tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

SHOWN = ["clip", "imitate", "asg"]
FRACTIONS = (0.01, 0.1, 1.0)
DRAWS = 500
READS = ("whole", "organs", "observations")


def run_of(runs: Path, arm: str, seed: int) -> Path:
    """The folder of an arm with a seed."""
    return runs / f"{arm.replace(' ', '_').replace(',', '')}-{seed}"


def judged(run: Path, store: Path, truth: Path, lesions: Path) -> bool:
    """Zero-shot, pointing, retrieval and tags of a run, in each way that it can be read: ``evaluation-<read>/``.

    Returns:
        Whether there was anything to do.
    """
    from ctglip.errors import ModelError
    from ctglip.evaluation.run import evaluate
    from ctglip.evaluation.settings import CxrEvaluation, EvaluateConfig
    from ctglip.models.release import load_release

    release = load_release(run)
    if not release.aligned:
        return False
    has = {"organs": release.model.region_reader, "observations": release.model.resampler}
    reads: list[Any] = [read for read in READS if has.get(read, True)]
    missing = [read for read in reads if not (run / f"evaluation-{read}" / "results.json").is_file()]
    for read in missing:
        out = run / f"evaluation-{read}"
        parts = ("retrieval", "tags") if read == "whole" else ()
        config = EvaluateConfig(
            controls=False, pictures=False, parts=parts, lesions=str(lesions), draws=DRAWS, device="cpu",
            cxr=CxrEvaluation(read=read),
        )  # fmt: skip
        try:
            evaluate(run, store, out, labels=truth, config=config)
        except ModelError as error:
            if error.code not in ("no_whole_image", "not_aligned"):
                raise
    return bool(missing)


def features(model: Any, release: Any, store: Any, study_ids: list[str]) -> np.ndarray:
    """The pooled vector of each whole radiograph."""
    import torch

    from ctglip.data.cxr import CxrDataSettings, cxr_input

    settings, out = CxrDataSettings.model_validate(release.cxr), []
    with torch.no_grad():
        for start in range(0, len(study_ids), 64):
            radiographs = [
                cxr_input(store.study(name).image(), settings).image for name in study_ids[start : start + 64]
            ]
            out.append(model.encoder(torch.from_numpy(np.stack(radiographs))).pooled.numpy())
    return np.concatenate(out).astype(np.float64)


def probed(run: Path, store_path: Path, truth: Path, seed: int) -> bool:
    """Logistic regression on the frozen encoder at each share of the labelled radiographs, and on random weights.

    Returns:
        Whether there was anything to do.
    """
    import torch

    from ctglip.data.organs import studies_of
    from ctglip.models.encoders import build_encoder
    from ctglip.models.release import load_release
    from ctglip.store.tables import Store

    if (run / "probe.parquet").is_file():
        return False
    release, store = load_release(run), Store.open(store_path)
    ids = {split: studies_of(store, split) for split in ("train", "val", "test")}
    labels = pl.read_csv(truth)
    table = {row["study_id"]: row for row in labels.iter_rows(named=True)}
    columns = [name for name in labels.columns if ":" in name]
    y = {split: np.array([[table[i][c] for c in columns] for i in names]) for split, names in ids.items()}
    frames = []
    for start in ("trained", "random"):
        if start == "random":
            torch.manual_seed(seed)
            release.model.encoder = build_encoder(release.model.settings.encoder, release.model.inputs.in_channels)
            release.model.eval()
        x = {split: features(release.model, release, store, names) for split, names in ids.items()}
        mean, scale = x["train"].mean(0), x["train"].std(0) + 1e-6
        x = {split: (values - mean) / scale for split, values in x.items()}
        order = np.random.default_rng([seed, 7]).permutation(len(ids["train"]))
        for fraction in FRACTIONS:
            kept = order[: max(8, round(fraction * len(order)))]
            for column, name in enumerate(columns):
                said = _fitted(x, y, kept, column)
                frames.append(pl.DataFrame({
                    "start": start, "fraction": fraction, "column": name, "study_id": ids["test"],
                    "label": y["test"][:, column], "score": said,
                }))  # fmt: skip
    pl.concat(frames).write_parquet(run / "probe.parquet")
    return True


def _fitted(x: dict[str, np.ndarray], y: dict[str, np.ndarray], kept: np.ndarray, column: int) -> np.ndarray:
    """Scores of the test radiographs; the strength is chosen on the split val; one class alone says nothing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    known, held = y["train"][kept, column], y["val"][:, column]
    best = (-1.0, np.zeros(len(x["test"])))
    if len(np.unique(known)) < 2:
        return best[1]
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300).fit(x["train"][kept], known)
        told = len(np.unique(held)) == 2
        value = float(roc_auc_score(held, model.decision_function(x["val"]))) if told else 0.5
        if value > best[0]:
            best = (value, model.decision_function(x["test"]))
    return best[1]


# --- figures


def _tables(runs: Path, arm: str, seeds: int, kind: str) -> list[pl.DataFrame]:
    """study_id, column, label, score of each seed; ``kind`` a way of reading, or ``start fraction`` of the probe."""
    found = []
    for seed in range(seeds):
        run = run_of(runs, arm, seed)
        path = run / f"evaluation-{kind}" / "scores.parquet"
        if kind in READS and path.is_file():
            column = pl.concat_str(["organ", "abnormality"], separator=":").alias("column")
            found.append(pl.read_parquet(path).select("study_id", column, "label", score="difference"))
        elif kind not in READS and (run / "probe.parquet").is_file():
            start, fraction = kind.split()
            table = pl.read_parquet(run / "probe.parquet")
            wanted = (pl.col("start") == start) & (pl.col("fraction") == float(fraction))
            found.append(table.filter(wanted).select("study_id", "column", "label", "score"))
    return found


class Draws:
    """Patients drawn with replacement, the same ones for everything that is compared."""

    def __init__(self, store_path: Path) -> None:
        from ctglip.data.organs import studies_of
        from ctglip.evaluation.bootstrap import draw_patients
        from ctglip.store.tables import Store

        store = Store.open(store_path)
        patient = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
        self.studies = studies_of(store, "test")
        names, index = np.unique([patient[name] for name in self.studies], return_inverse=True)
        self.index = dict(zip(self.studies, index.tolist(), strict=True))
        self.weights = draw_patients(len(names), DRAWS, np.random.default_rng(0))

    def macro(self, tables: list[pl.DataFrame]) -> np.ndarray | None:
        """Draws of the macro AUROC, mean over seeds; None without tables."""
        from ctglip.evaluation.bootstrap import Question, macro_draws

        found = []
        for table in tables:
            questions = []
            for _, own in table.sort("column").group_by("column", maintain_order=True):
                labels = own["label"].to_numpy().astype(int)
                if min(labels.sum(), len(labels) - labels.sum()) >= 3:
                    patients = np.array([self.index[name] for name in own["study_id"]])
                    questions.append(Question(labels, own["score"].to_numpy().astype(float), patients))
            if questions:
                found.append(macro_draws(questions, self.weights)[1])
        return np.mean(found, axis=0) if found else None


def rows(runs: Path, arms: list[str], seeds: int) -> dict[str, dict[str, Any]]:
    """What the evaluations found besides AUROC, means over seeds."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for read in READS:
            numbers: dict[str, list[float]] = {}
            for seed in range(seeds):
                run = run_of(runs, arm, seed)
                path = run / f"evaluation-{read}" / "results.json"
                if not path.is_file():
                    continue
                for name, value in _numbers(json.loads(path.read_text())["parts"]).items():
                    numbers.setdefault(name, []).append(value)
                took = run / "took.json"
                if took.is_file():
                    numbers.setdefault("cpu_s", []).append(json.loads(took.read_text())["cpu_seconds"])
            if numbers:
                found[f"{arm} ({read})"] = {name: float(np.mean(values)) for name, values in numbers.items()}
    return found


def pointed(runs: Path, arms: list[str], seeds: int) -> dict[str, dict[str, list[float]]]:
    """For each arm (and way), by abnormality: share of maps that peak in the lesion, by chance, and radiographs of a
    seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        for read in READS:
            kept: dict[str, list[list[float]]] = {}
            for seed in range(seeds):
                path = run_of(runs, arm, seed) / f"evaluation-{read}" / "results.json"
                parts = json.loads(path.read_text())["parts"] if path.is_file() else {}
                for one in parts.get("localization", {}).get("rows", ()):
                    if one["lesion"] is not None:
                        numbers = [one["lesion"]["value"], one["lesion_chance"], one["answers"]]
                        kept.setdefault(one["abnormality"], []).append(numbers)
            if kept:
                found[f"{arm} ({read})"] = {name: np.mean(rows, axis=0).tolist() for name, rows in kept.items()}
    return found


def _numbers(parts: dict[str, Any]) -> dict[str, float]:
    """Pointing, retrieval and tags of one evaluation."""
    found: dict[str, float] = {}
    for one in parts.get("localization", {}).get("rows", ()):
        if one["abnormality"] == "all":
            for kind in ("lesion", "near", "organ"):
                if one[kind] is not None:
                    found |= {kind: one[kind]["value"], f"{kind} by chance": one[f"{kind}_chance"]}
    for one in parts.get("retrieval", {}).get("directions", ()):
        if one["name"] in ("radiograph to report", "report to radiograph"):
            at = {entry["k"]: entry for entry in one["at"]}
            k = 10 if 10 in at else max(at)
            found[f"{one['name']} R@{k}"] = at[k]["recall"]["value"]
            found[f"{one['name']} R@{k} by chance"] = at[k]["chance"]
    if parts.get("tags"):
        found["AUROC by tags"] = parts["tags"]["macro_auroc"]["value"]
    return found


def differences(runs: Path, store: Path, arms: list[str], seeds: int) -> dict[str, Any]:
    """Macro AUROC of every arm and way, and its paired difference from CLIP in the same way."""
    from ctglip.evaluation.bootstrap import interval_of

    draws = Draws(store)
    kinds = [*READS, *(f"{start} {fraction}" for start in ("trained", "random") for fraction in FRACTIONS)]
    macro = {(arm, kind): draws.macro(_tables(runs, arm, seeds, kind)) for arm in arms for kind in kinds}
    found: dict[str, Any] = {}
    for (arm, kind), own in macro.items():
        if own is None:
            continue
        base = macro.get(("clip", "whole" if kind in READS else kind))
        apart = None if base is None or arm == "clip" else asdict(interval_of(own - base))
        found.setdefault(arm, {})[kind] = {"macro_auroc": asdict(interval_of(own)), "minus_clip": apart}
    return found


def shown(interval: dict[str, float | None] | None) -> str:
    """``0.861 [0.820, 0.902]``."""
    if interval is None or interval["value"] is None:
        return ""
    if interval["low"] is None or interval["high"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def about(figures: dict[str, Any]) -> str:
    """The tables."""
    found = figures["differences"]
    wanted = [*READS, *(f"trained {fraction}" for fraction in FRACTIONS)]
    kinds = [kind for kind in wanted if any(kind in own for own in found.values())]
    lines = ["Macro AUROC: zero-shot (whole radiograph, organs), then linear probes at each share of the labels", ""]
    lines += ["| arm | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for arm, own in found.items():
        lines.append(f"| {arm} | " + " | ".join(shown((own.get(k) or {}).get("macro_auroc")) for k in kinds) + " |")
    first = next(iter(found.values()))
    chance = [shown((first.get(k.replace("trained", "random")) or {}).get("macro_auroc")) for k in kinds]
    lines.append(
        "| random weights | "
        + " | ".join(c if k not in READS else "" for c, k in zip(chance, kinds, strict=True))
        + " |"
    )
    lines += ["", "Minus CLIP, the same patients drawn:", ""]
    lines += [
        f"- {arm}, {kind}: {shown(own[kind]['minus_clip'])}"
        for arm, own in found.items()
        for kind in kinds
        if own.get(kind, {}).get("minus_clip")
    ]
    lines += [""]
    names = list(dict.fromkeys(name for numbers in figures["rows"].values() for name in numbers))
    plain = [name for name in names if not name.endswith(" by chance")]
    lines += ["| arm (read from) | " + " | ".join(plain) + " |", "|---|" + "---|" * len(plain)]
    for arm, numbers in figures["rows"].items():
        cells = [f"{numbers[name]:.3f}" if name in numbers else "" for name in plain]
        chance = [f" ({numbers[f'{name} by chance']:.3f})" if f"{name} by chance" in numbers else "" for name in plain]
        lines.append(f"| {arm} | " + " | ".join(a + b for a, b in zip(cells, chance, strict=True)) + " |")
    lines += ["", "In brackets: by chance.", *about_pointing(figures["pointing"])]
    took = f"{figures['cpu_seconds']:.0f} s of a core, {figures['seconds']:.0f} s of this call"
    lines += ["", f"{figures['seeds']} seeds, radiographs {figures['split']}; {took}."]
    return "\n".join(lines)


def about_pointing(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """By abnormality: does the map peak in the lesion?"""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    if not names:
        return []
    lines = ["", "Maps that peak in the lesion, in brackets by chance:", ""]
    lines += ["| arm (read from) | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for arm, own in found.items():
        cells = [f"{own[name][0]:.2f} ({own[name][1]:.2f})" if name in own else "" for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines
