"""A linear probe of organs after self-supervised pretraining on simulated scans, beside the same encoder with random
weights.

    python -m experiments.self_supervised [--quick] [--json FILE] [--out DIR] [--objective mim|dino]

Pretraining sees the scans of the split train alone: no report, no mask, no label. Then the encoder is frozen; tokens
of an organ are averaged, each weighted by the part of its cell that the organ's mask fills, and one logistic regression
for each column of the truth (settings fixed beforehand) is fitted on the patients of the split train and judged once on
those of the split test. Random weights are those that pretraining began with. Differences are paired: the same patients
are drawn for both. Figures say how well the machinery learns from simulated patients, nothing about clinical use.
What is already in DIR is not made again, and a run that was stopped goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from ctglip.cli.console import print_line
from ctglip.data.scans import ScanSettings, scan_on_grid
from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.base import Encoder
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.vocabulary.organs import load_organs
from experiments.command import keep, parser_of, run_ctglip

SIZES = {"quick": {"studies": 30, "steps": 10, "least": 1}, "full": {"studies": 400, "steps": 800, "least": 5}}
"""Simulated studies, steps of pretraining, answers of each kind that a column needs in the splits train and test."""
SEED = 0
SIDE, GRID, PATCH = 16, 64, 4
"""Voxels of what is encoded at once, of a scan's grid, and of a patch."""
CONFIG = {
    "data.batch": 32,
    "loop.threads": 1,
    "model.encoder.patch": PATCH,
    "loop.pairs": 0,
    "loop.checkpoint_every": 250,
    "seed": SEED,
}
VIEWS = {
    "mim": {"objective.part": [SIDE] * 3},
    "dino": {"objective.views": {"global_size": SIDE, "global_share": [0.01, 0.03], "local_size": 8,
                                 "local_share": [0.002, 0.01], "local_views": 4, "contrast": 0.1}},
}  # fmt: skip
STRENGTH, DRAWS = 0.1, 2000
"""Inverse strength of the penalty, and draws of patients."""
Features = dict[str, np.ndarray]
"""Organ -> ``[studies, dim]``, NaN where a study lacks it."""


def simulated(out: Path, studies: int) -> Store:
    """A simulated cohort at 6 mm, as a store."""
    if not (out / "cohort" / "cohort.csv").is_file():
        run_ctglip("simulate", out / "cohort", "--level", "easy", "--studies", studies, "--seed", SEED,
                "--set", "spacing_mm=6")  # fmt: skip
    if not (out / "store" / "splits.parquet").is_file():
        run_ctglip("preprocess", out / "cohort" / "cohort.csv", out / "store", "--config", "preprocess/demo_3mm",
                "--set", "ct.spacing_mm=[6,6,6]", "--workers", 1)  # fmt: skip
    return Store.open(out / "store")


def pretrained(out: Path, objective: str, steps: int) -> Path:
    """A run on the scans of the split train."""
    run = out / objective
    if not (run / "model" / "config.json").is_file():
        changes = {**CONFIG, **VIEWS[objective], "loop.steps": steps}
        given = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        resume = ["--resume"] if (run / "environment.json").is_file() else []
        run_ctglip("pretrain", out / "store", run, "--config", f"small/{objective}_ct", *given, *resume)
    return run


@torch.no_grad()
def organ_features(encoder: Encoder, store: Store, scans: ScanSettings, organs: Mapping[str, list[int]]) -> Features:
    """The mean token of each organ of each study, weighted by its mask; each scan is encoded in parts as it was seen in
    pretraining."""
    encoder.eval()
    parts = GRID // SIDE
    rows: dict[str, list[np.ndarray]] = {name: [] for name in organs}
    for study_id in store.study_ids:
        cut = scan_on_grid(store.study(study_id), scans)
        image = torch.from_numpy(cut.image(scans))
        blocks = image.unflatten(1, (parts, SIDE)).unflatten(3, (parts, SIDE)).unflatten(5, (parts, SIDE))
        blocks = blocks.permute(1, 3, 5, 0, 2, 4, 6).flatten(0, 2)
        tokens = encoder(blocks).levels[-1].unflatten(0, (parts,) * 3)
        tokens = tokens.permute(3, 0, 4, 1, 5, 2, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        labels = cut.location(256)
        for name, numbers in organs.items():
            inside = torch.from_numpy(np.isin(labels, numbers).astype(np.float32))
            share = F.avg_pool3d(inside[None], PATCH)[0]
            total = float(share.sum())
            mean = (tokens * share).sum((1, 2, 3)) / total if total else torch.full((len(tokens),), torch.nan)
            rows[name].append(mean.numpy())
    return {name: np.stack(several) for name, several in rows.items()}


def probed(
    features: Features, truth: pl.DataFrame, split: np.ndarray, patients: np.ndarray, least: int
) -> dict[str, Question]:
    """What a linear probe of each column says of the split test.

    Args:
        patients: numbers the patient of each study.
        least: answers of each kind that a column needs in both splits.
    """
    found = {}
    for pair in truth.columns:
        x, y = features[pair.split(":")[0]], truth[pair].to_numpy()
        there = np.isfinite(x).all(1)
        train, test = there & (split == "train"), there & (split == "test")
        if min(np.bincount(y[part], minlength=2).min() for part in (train, test)) < least:
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))
        probe.fit(x[train], y[train])
        found[pair] = Question(y[test], probe.decision_function(x[test]), patients[test])
    return found


def compared(arms: Mapping[str, Mapping[str, Question]], patients: int) -> dict[str, Any]:
    """Macro AUROC of each arm with its interval over patients, the paired difference, and AUROC column by column."""
    weights = draw_patients(patients, DRAWS, np.random.default_rng(SEED))
    macros, columns = {}, {}
    for arm, questions in arms.items():
        each, macros[arm] = macro_draws(list(questions.values()), weights)
        columns[arm] = dict(zip(questions, each[:, 0].tolist(), strict=True))
    (first, own), (_, other) = macros.items()
    intervals = {arm: interval_of(draws) for arm, draws in macros.items()} | {"difference": interval_of(own - other)}
    rounded = {name: [one.value, one.low, one.high] for name, one in intervals.items()}
    return {"arm": first, "patients": patients, "columns": columns, **rounded}


def run(out: Path, objective: str, size: str) -> dict[str, Any]:
    """The whole comparison."""
    began, asked, out = time.perf_counter(), SIZES[size], out / size
    store = simulated(out, asked["studies"])
    release = load_release(pretrained(out, objective, asked["steps"]))
    scans = ScanSettings.model_validate(release.scans)
    torch.manual_seed(SEED)
    start = build_encoder(release.model.settings.encoder, release.model.inputs.in_channels)
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    ids = store.study_ids
    truth = pl.read_csv(out / "cohort" / "truth.csv", schema_overrides={"study_id": pl.String})
    truth = pl.DataFrame({"study_id": ids}).join(truth, on="study_id", how="left").drop("study_id")
    dictionary = load_organs()
    organs = {name: sorted(dictionary.roi_labels(name)) for name in {pair.split(":")[0] for pair in truth.columns}}
    split = np.array([splits[name] for name in ids])
    owner = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    tested = list(dict.fromkeys(owner[name] for name in ids if splits[name] == "test"))
    number = {patient: number for number, patient in enumerate(tested)}
    patients = np.array([number.get(owner[name], -1) for name in ids])
    arms = {
        name: probed(organ_features(encoder, store, scans, organs), truth, split, patients, asked["least"])
        for name, encoder in ((objective, release.model.encoder), ("random weights", start))
    }
    figures = compared(arms, len(tested))
    return {**figures, "size": asked, "studies": len(ids), "seconds": time.perf_counter() - began}


def shown(interval: list[float]) -> str:
    """``0.861 [0.820, 0.902]``."""
    value, low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Measure, show, and write."""
    parser = parser_of("self_supervised", __doc__, "does it run: a few studies and steps")
    parser.add_argument("--out", type=Path, default=Path("self-supervised-output"), help="cohort, store and runs")
    parser.add_argument("--objective", default="mim", choices=list(VIEWS), help="of pretraining")
    asked = parser.parse_args()
    figures = run(asked.out, asked.objective, "quick" if asked.quick else "full")
    arm = figures["arm"]
    print_line(
        f"macro AUROC of {len(figures['columns'][arm])} columns, {figures['patients']} test patients: "
        f"{arm} {shown(figures[arm])}, random weights {shown(figures['random weights'])}, "
        f"difference {shown(figures['difference'])}; {figures['seconds']:.0f} s"
    )
    keep(figures, asked.json)


if __name__ == "__main__":
    main()
