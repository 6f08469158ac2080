"""Metrics of one yes/no question over many organs. The formulas are scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn import metrics

from ctglip.evaluation.bootstrap import Question, interval_of
from ctglip.types import Interval

ThresholdChooser = Callable[[Int[np.ndarray, " n"], Float[np.ndarray, " n"]], float | None]


@dataclass(frozen=True)
class ThresholdMetrics:
    """What a threshold does; a share whose denominator is empty is None."""

    threshold: float
    f1: float | None
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    balanced_accuracy: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    """One yes/no question on one split.

    Attributes:
        auroc: with its interval over patients.
        auprc: average precision; None without positives.
        positives, n: organs (or studies) with the abnormality, and all that have a label.
        at: at the threshold, or None where none could be chosen.
    """

    auroc: Interval
    auprc: float | None
    positives: int
    n: int
    at: ThresholdMetrics | None


@dataclass(frozen=True, kw_only=True)
class PairMetrics(BinaryMetrics):
    """One (organ, abnormality)."""

    organ: str
    abnormality: str


def binary_metrics(question: Question, draws: Float[np.ndarray, " draws"], threshold: float | None) -> BinaryMetrics:
    """All metrics of a question.

    Args:
        draws: the AUROC of each bootstrap draw.
        threshold: score >= threshold is a yes.
    """
    labels, scores = question.labels, question.scores
    return BinaryMetrics(
        auroc=interval_of(draws),
        auprc=float(metrics.average_precision_score(labels, scores)) if labels.any() else None,
        positives=int(labels.sum()),
        n=len(labels),
        at=None if threshold is None else at_threshold(labels, scores, threshold),
    )


def best_f1_threshold(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float | None:
    """The threshold (score >= threshold is a yes) with the best F1; None unless both answers occur.

    It lies midway between two neighbouring scores, so that it carries over to another split.
    """
    if not labels.any() or labels.all():
        return None
    precision, recall, thresholds = metrics.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    return float((thresholds[best] + thresholds[best - 1]) / 2) if best > 0 else float(thresholds[best])


def roc_corner_threshold(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float | None:
    """The threshold whose ROC point is nearest to the corner of no errors, as the public CT-RATE scripts choose it;
    None unless both answers occur."""
    if not labels.any() or labels.all():
        return None
    fpr, tpr, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
    return float(thresholds[1:][int(np.argmin((np.hypot(fpr, 1 - tpr))[1:]))])


TEST_SPLIT_RULES: Mapping[str, ThresholdChooser] = {
    "test_roc_corner": roc_corner_threshold,
    "test_f1": best_f1_threshold,
}
"""Rules that choose a threshold on the very labels that are evaluated, by their name in the settings."""


def at_threshold(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], threshold: float) -> ThresholdMetrics:
    """F1, sensitivity, specificity, PPV, NPV and accuracies when score >= threshold is a yes."""
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, scores >= threshold, labels=[0, 1]).astype(float)
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    return ThresholdMetrics(
        threshold=threshold,
        f1=_share(2 * tp, 2 * tp + fp + fn),
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=_share(tp, tp + fp),
        npv=_share(tn, tn + fn),
        balanced_accuracy=None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2,
        accuracy=_share(tp + tn, tp + tn + fp + fn),
    )


def roc_points(
    labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The ROC curve as (1 - specificity, sensitivity), without its collinear points."""
    x, y, _ = metrics.roc_curve(labels, scores)
    return tuple(float(v) for v in x), tuple(float(v) for v in y)


def roc_band(
    labels: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, "draws n"],
    x: tuple[float, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """95 % interval of the sensitivity at some 1 - specificity, over bootstrap draws (how often each row is drawn)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    counts, positive = weights[:, order], labels[order].astype(bool)
    tp, fp = (np.cumsum(counts * rows, axis=1)[:, ends] for rows in (positive, ~positive))
    good = (tp[:, -1] > 0) & (fp[:, -1] > 0)
    if not good.any():
        return (), ()
    curves = [
        np.interp(x, np.r_[0.0, f / f[-1]], np.r_[0.0, t / t[-1]]) for t, f in zip(tp[good], fp[good], strict=True)
    ]
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return tuple(low.tolist()), tuple(high.tolist())


def expected_calibration_error(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> float:
    """Mean gap between predicted probability and observed share over ten equally wide bins, weighted by their size."""
    bins = 10
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    gaps = np.abs(np.bincount(bin_of, labels, bins) - np.bincount(bin_of, probabilities, bins))
    return float(gaps.sum() / max(counts.sum(), 1))


def _share(part: float, total: float) -> float | None:
    return float(part / total) if total > 0 else None
