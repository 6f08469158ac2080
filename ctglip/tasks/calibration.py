"""How far a tuned model's probabilities can be trusted: fitted on the validation split, measured on the test split.

Two things answer after a fine-tuning, and each has its own scale. The columns' logits get one temperature and an offset
for each column (balanced losses say yes to rare answers too often). The answers to texts (``query``, ``evaluate``) get
scale and bias anew, because the model behind them has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from ctglip.evaluation.calibration import MIN_ANSWERS, fit_calibration
from ctglip.evaluation.labels import Labels, PairLabels
from ctglip.evaluation.metrics import expected_calibration_error
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.scoring import Calibration, Scorer
from ctglip.models.release import Release
from ctglip.tasks.base import in_batches
from ctglip.tasks.inputs import OrganInputs
from ctglip.tasks.network import ClassificationNetwork
from ctglip.tasks.studies import TEST, VAL, Studies
from ctglip.tasks.targets import Target

_OFFSET_DEVIATION = 2.0
_STEPS = 60
_ROWS = 64
"""Organs that are asked about at a time."""


@dataclass(frozen=True)
class LogitCalibration:
    """``scale * logit + offset`` is the calibrated logit.

    Attributes:
        scale: the inverse temperature, one for all columns.
        offsets: one for each logit.
        answers: known answers of the validation split that they were fitted on; 0: too few, nothing is changed.
    """

    scale: float
    offsets: tuple[float, ...]
    answers: int

    def logits(self, raw: Float[np.ndarray, "s c"]) -> Float[np.ndarray, "s c"]:
        """Calibrated logits."""
        return self.scale * raw + np.asarray(self.offsets, dtype=np.float64)


def fit_logits(
    logits: Float[np.ndarray, "s c"], values: Float[np.ndarray, "s t"], targets: Sequence[Target]
) -> LogitCalibration:
    """Scale and offsets that make the known answers likeliest.

    Normal priors (log scale: deviation 1 around 0; offsets: deviation 2 around 0) keep columns of few answers, or of
    one, where they were. AUROC of yes/no columns does not change.

    Args:
        logits: of the validation studies.
        values: their labels, NaN where not known.
        targets: the columns.
    """
    known = np.isfinite(values)
    width = logits.shape[1] if len(logits) else sum(target.width for target in targets)
    if known.sum() < MIN_ANSWERS or len(np.unique(values[known])) < 2:
        return LogitCalibration(1.0, (0.0,) * width, 0)
    raw, truth = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(values)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(width, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, offsets], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        """The loss with its gradients, as LBFGS asks for it."""
        optimizer.zero_grad()
        scaled = log_scale.exp() * raw + offsets
        total = log_scale.square() / 2 + (offsets / _OFFSET_DEVIATION).square().sum() / 2
        start = 0
        for number, target in enumerate(targets):
            rows, columns = truth[:, number].isfinite(), slice(start, start + target.width)
            start += target.width
            if target.classes:
                total = total + F.cross_entropy(scaled[rows, columns], truth[rows, number].long(), reduction="sum")
            else:
                total = total + F.binary_cross_entropy_with_logits(
                    scaled[rows, columns][:, 0], truth[rows, number].double(), reduction="sum"
                )
        total.backward()
        return total

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return LogitCalibration(float(log_scale.detach().exp()), tuple(offsets.detach().tolist()), int(known.sum()))


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error over all known answers of the test split, before and after; None without answers."""

    before: float | None
    after: float | None
    answers: int


def column_error(table: pl.DataFrame) -> CalibrationError:
    """Of a run's scores: every known answer, each class of a multi-class column as a yes/no answer of its own."""
    rows = table.filter((pl.col("split") == TEST) & pl.col("label").is_not_null())
    if not rows.height:
        return CalibrationError(None, None, 0)
    truth = rows["label"].to_numpy().astype(np.int64)
    before, after = (
        expected_calibration_error(truth, rows[name].to_numpy()) for name in ("uncalibrated", "probability")
    )
    return CalibrationError(before, after, len(truth))


@dataclass(frozen=True)
class TextCalibration:
    """How the tuned model's answers to texts are scaled.

    Attributes:
        calibration: for the released model.
        error: of the answers about the columns that ask one organ about one abnormality; before: with the scale that
            the model came with.
        note: what was done.
    """

    calibration: Calibration
    error: CalibrationError
    note: str


def calibrate_texts(
    release: Release, network: ClassificationNetwork, inputs: OrganInputs, studies: Studies, labels: str
) -> TextCalibration:
    """Scale and bias of answers to texts, fitted on the labels of the validation split.

    Columns that ask one organ about one abnormality count. Where they hold too little, or the model does not tell their
    answers apart, the scale that the model came with is dropped: it was fitted to other weights.

    Args:
        release: the model before tuning; texts are embedded as they were.
        network: as it was trained.
        inputs: organs.
        studies: labels.
        labels: what they are called.
    """
    scorer = Scorer(release)
    before = scorer.calibration
    val, test = (_text_answers(network, inputs, studies, studies.of(split), scorer) for split in (VAL, TEST))
    fitted = fit_calibration(*val, before.learned_scale, f"{labels}, split {VAL}", before.negative_weight)
    error = CalibrationError(_error(*test, before), _error(*test, fitted), sum(len(v.labels) for v in test[0].values()))
    if fitted.fitted_on:
        note = f"Answers to texts were calibrated anew on {fitted.answers} labels of the split {VAL}."
    else:
        note = (
            f"Answers to texts are not calibrated: the split {VAL} has too few labels of single organs and known "
            "abnormalities for it, and the scale of the model before tuning is not this one's."
        )
    return TextCalibration(fitted, error, note)


def _error(labels: Labels, differences: Scores, calibration: Calibration) -> float | None:
    if not labels:
        return None
    pairs = sorted(labels)
    truth = np.concatenate([labels[pair].labels for pair in pairs])
    answers = np.concatenate([differences[pair] for pair in pairs])
    return expected_calibration_error(truth, calibration.probabilities(answers))


@torch.no_grad()
def _text_answers(
    network: ClassificationNetwork,
    inputs: OrganInputs,
    studies: Studies,
    rows: Int[np.ndarray, " s"],
    scorer: Scorer,
) -> tuple[Labels, Scores]:
    """For each pair its known labels of some studies, and the model's answers about them."""
    network.eval()
    device = next(network.parameters()).device
    bags, model = inputs.bags, network.model
    labels: Labels = {}
    scores: Scores = {}
    if network.global_image != (model.region_reader is None):
        return labels, scores  # asked in words, the model looks for organs
    instances, parts = bags.rows(rows)[0], []
    head = model.image_head if network.global_image and model.image_head is not None else model.diagnosis
    for some in in_batches(instances, _ROWS):
        features = network.read({name: value.to(device) for name, value in inputs.read(some, None).items()})
        parts.append(head(features).float().cpu().numpy())
    for number, target in enumerate(studies.targets):
        if target.classes or len(target.organs) != 1 or len(target.organ_pairs) != 1 or not parts:
            continue
        organ = bags.organs.index(target.organs[0])
        rows_of_organ = np.flatnonzero(bags.organ[instances] == organ)
        values = studies.values[bags.study[instances[rows_of_organ]], number]
        labelled, values = rows_of_organ[np.isfinite(values)], values[np.isfinite(values)]
        if len(labelled):
            pair = target.organ_pairs[0]
            vectors = np.concatenate(parts)[labelled]
            labels[pair] = PairLabels(np.arange(len(labelled)), values.astype(np.int64))
            scores[pair] = scorer.differences(vectors, [pair])[:, 0]
    return labels, scores
