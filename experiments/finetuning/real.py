"""A smoke test on real labels: does the probe of ``ctglip finetune`` learn what people wrote down?

    python -m experiments.finetuning real [--quick] [--json FILE] [--out DIR]

Reports are read, not images: a sentence encoder that has seen neither of these tables embeds each sentence, and the
head that ``ctglip finetune`` puts on organs is put on sentences: the 18 labels that people gave 780 chest CT reports,
and the problems that indexers gave chest radiograph reports. A label stands in the very text that is probed, so this
shows that heads, losses, splits by patient, label fractions, thresholds and calibration work on real tables with real
imbalance. It says nothing of images, nor of how well a CT or a radiograph is read. Reports of the same words share a
split.

``mean`` probes the mean of a report's sentences (a linear probe), ``attention`` weighs sentences by gated attention.
Data: ``CTGLIP_REAL_DATA`` (default ``../shared/data``), see ``benchmarks/report_parsing.py``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from ctglip.cli.console import print_line
from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.zero_shot import evaluate_pairs, thresholds_of
from ctglip.features.text_bank import TextBank
from ctglip.files import read_yaml
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.reports.sentences import split_sentences
from ctglip.tasks.base import Initialization
from ctglip.tasks.calibration import column_error
from ctglip.tasks.classification import Classification, standardise
from ctglip.tasks.classification_results import ComparedColumns
from ctglip.tasks.classification_tables import labels_of, scores_of
from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import CachedFeatures
from ctglip.tasks.network import ClassificationNetwork
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskRun
from ctglip.tasks.runs import train_run
from ctglip.tasks.settings import ClassificationConfig, EvalSettings, FitSettings
from ctglip.tasks.studies import TEST, VAL, Bags, Studies
from ctglip.tasks.targets import Target
from ctglip.training.callbacks import Callbacks
from ctglip.training.optim import OptimSettings

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CTGLIP_REAL_DATA", ROOT.parent / "shared" / "data"))
FRACTIONS = (0.01, 0.1, 1.0)
SEEDS = (0, 1, 2)
EPOCHS = 60
LEAST = 10
"""Columns with fewer positives, or negatives, in the test split are not judged."""


@dataclass(frozen=True)
class Reports:
    """A table of reports with labels: text, patient and 0/1/None for each label."""

    name: str
    ids: list[str]
    texts: list[str]
    patients: list[str]
    labels: pl.DataFrame


def ct_reports() -> Reports:
    """The 18 labels of chest CT reports; each report is another patient's."""
    table = pl.read_csv(DATA / "reports/chest_ct_18_labels/reports.csv", infer_schema=False)
    ids = table["AccessionNo"].to_list()
    patients = ["_".join(name.split("_")[:2]) for name in ids]  # train_1 or train_1_a: the number is the patient's
    labels = table.select(pl.exclude("AccessionNo", "report_text").cast(pl.Int8))
    return Reports("18 labels of chest CT reports", ids, table["report_text"].to_list(), patients, labels)


def cxr_reports() -> Reports:
    """The indexed problems of chest radiograph reports (findings and impression); one study a patient."""
    table = pl.read_csv(DATA / "cxr/openi_reports/reports.csv", infer_schema=False)
    text = pl.concat_str(["findings", "impression"], separator=" ", ignore_nulls=True).str.strip_chars()
    table = table.with_columns(text.alias("text"), pl.col("Problems").fill_null(""))
    table = table.filter((pl.col("text") != "") & ~pl.col("Problems").str.contains("No Indexing"))
    problems = read_yaml(ROOT / "benchmarks/mappings/openi_problems.yaml")["problems"]
    given = pl.col("Problems").str.split(";")
    labels = table.select(
        given.list.eval(pl.element().is_in(names)).list.any().cast(pl.Int8).alias(label)
        for label, names in problems.items()
    )
    return Reports("problems of chest radiograph reports", table["uid"].to_list(), table["text"].to_list(),
                   table["uid"].to_list(), labels)  # fmt: skip


def splits_of(reports: Reports) -> list[str]:
    """60 / 15 / 25 % by patient; patients whose reports have the same words stay together."""
    owner: dict[str, str] = {}

    def root(name: str) -> str:
        while owner.setdefault(name, name) != name:
            name = owner[name]
        return name

    for patient, text in zip(reports.patients, reports.texts, strict=True):
        owner[root(f"patient {patient}")] = root("text " + " ".join(text.lower().split()))
    shares = [
        int(hashlib.sha256(root(f"patient {name}").encode()).hexdigest()[:8], 16) / 16**8 for name in reports.patients
    ]
    return ["train" if share < 0.6 else "val" if share < 0.75 else "test" for share in shares]


class TextClassification(Classification):
    """A head on cached features of sentences; it has no model."""

    def network(self, initialization: Initialization, rows: np.ndarray) -> ClassificationNetwork:
        """A fresh head."""
        inputs = self.inputs[initialization.name]
        assert isinstance(inputs, CachedFeatures)
        head = BagHead(inputs.features.shape[1], self.studies.targets, ("sentence",))
        network = ClassificationNetwork(nn.Identity(), head, "raw", False)  # pyright: ignore[reportArgumentType]
        standardise(network, inputs, rows)
        return network


def sources_of(reports: Reports, bank: TextBank) -> dict[str, CachedFeatures]:
    """The sentences of each report, and their mean."""
    sentences = [split_sentences(text) or (text,) for text in reports.texts]
    ids = bank.ids([sentence for several in sentences for sentence in several])
    vectors = torch.from_numpy(np.asarray(bank.vectors(ids), dtype=np.float32))
    study = np.repeat(np.arange(len(sentences)), [len(several) for several in sentences])
    sums = torch.zeros(len(sentences), vectors.shape[1]).index_add(0, torch.from_numpy(study), vectors)
    mean = sums / torch.from_numpy(np.bincount(study)).float()[:, None]
    zero = np.zeros(len(study), dtype=np.int64)
    return {
        "mean": CachedFeatures(Bags(np.arange(len(sentences)), zero[: len(sentences)], ("sentence",)), mean),
        "attention": CachedFeatures(Bags(study, zero, ("sentence",)), vectors),
    }


def fitted(studies: Studies, name: str, source: CachedFeatures, fraction: float, seed: int) -> FinishedRun:
    """One run."""
    optim = OptimSettings(lr=0.003, warmup=0, weight_decay=0.01)
    config = ClassificationConfig(fit=FitSettings(epochs=EPOCHS, patience=15, batch=64), optim=optim)
    task = TextClassification(config, studies, {name: source})
    release = SimpleNamespace(model=nn.Linear(1, 1))  # says on which device it is, and no more
    own = Initialization(name, release, False, "probe")  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory() as folder:
        done = train_run(task, TaskRun(name, fraction, seed), own, Path(folder), Callbacks())
        return FinishedRun(done.run, done.folder, {**done.about, "scores": done.table("scores")})


def measured(reports: Reports, bank: TextBank, fractions: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """Macro AUROC at each share of the labels, mean over seeds; F1 and calibration error of the first seed on all."""
    targets = tuple(Target(name, ("sentence",)) for name in reports.labels.columns)
    values = reports.labels.cast(pl.Float32).to_numpy().astype(np.float32)
    studies = Studies(targets, tuple(reports.ids), values, tuple(reports.patients), tuple(splits_of(reports)), ())
    settings = EvalSettings(min_positives=LEAST)
    judged = ComparedColumns.of(studies, settings, BootstrapPatients.of(studies, settings))
    counts = {split: len({studies.patients[row] for row in studies.of(split)}) for split in ("train", VAL, TEST)}
    points: list[dict[str, Any]] = []
    for name, source in sources_of(reports, bank).items():
        for fraction in fractions:
            done = [fitted(studies, name, source, fraction, seed) for seed in seeds]
            draws = np.stack(
                [judged.draws(scores_of(one.about["scores"], TEST, targets, judged.labels)) for one in done]
            )
            interval = interval_of(draws.mean(0))
            point = {
                "features": name,
                "fraction": fraction,
                "patients": done[0].about["patients"],
                "macro_auroc": [interval.value, interval.low, interval.high],
                "seeds": draws[:, 0].tolist(),
            }
            if fraction == max(fractions):
                point |= at_thresholds(done[0].about["scores"], studies, judged)
            points.append(point)
    about = {"table": reports.name, "patients": counts, "columns": len(judged.labels)}
    return {**about, "left_out": list(judged.left_out), "points": points}


def at_thresholds(scores: pl.DataFrame, studies: Studies, judged: ComparedColumns) -> dict[str, Any]:
    """Macro F1 at thresholds of the validation split, and the calibration error of the test split."""
    val = {pair: known for pair, known in labels_of(studies, studies.of(VAL)).items() if pair in judged.labels}
    thresholds = thresholds_of(val, scores_of(scores, VAL, studies.targets, val))
    said = scores_of(scores, TEST, studies.targets, judged.labels)
    pairs, _ = evaluate_pairs(judged.labels, said, judged.patients.numbers, judged.patients.weights, thresholds)
    f1 = [pair.at.f1 for pair in pairs if pair.at and pair.at.f1 is not None]
    error = column_error(scores)
    worst = sorted((pair.auroc.value or 0.0, pair.abnormality) for pair in pairs)[:3]
    return {"macro_f1": float(np.mean(f1)), "ece_before": error.before, "ece_after": error.after,
            "worst": [f"{name} {value:.3f}" for value, name in worst]}  # fmt: skip


def shown(result: dict[str, Any]) -> str:
    """One table."""
    counts = ", ".join(f"{n} {split}" for split, n in result["patients"].items())
    lines = [f"{result['table']}: {counts} patients, {result['columns']} labels"]
    for point in result["points"]:
        value, low, high = point["macro_auroc"]
        line = f"  {point['features']:10s} {point['fraction']:5.0%} ({point['patients']:4d} patients)  "
        line += f"macro AUROC {value:.3f} [{low:.3f}, {high:.3f}]"
        if "macro_f1" in point:
            line += f", macro F1 {point['macro_f1']:.3f}, calibration error {point['ece_before']:.3f} before, "
            line += f"{point['ece_after']:.3f} after; lowest: {', '.join(point['worst'])}"
        lines.append(line)
    return "\n".join(lines)


def real(out: Path, quick: bool = False) -> dict[str, Any]:
    """Both tables; ``quick`` takes all labels alone, with one seed, of the first 300 reports."""
    if not DATA.is_dir():
        raise SystemExit(f"Real data is not at {DATA} (set CTGLIP_REAL_DATA).")
    bank = TextBank(out / "text_bank", load_text_encoder(TextEncoderSettings(max_length=64)))
    found = []
    for reports in (ct_reports(), cxr_reports()):
        if quick:
            reports = Reports(reports.name, reports.ids[:300], reports.texts[:300], reports.patients[:300],
                              reports.labels.head(300))  # fmt: skip
        found.append(measured(reports, bank, (1.0,) if quick else FRACTIONS, (0,) if quick else SEEDS))
        print_line(shown(found[-1]))
    return {"tables": found}
