"""Intervals by drawing patients with replacement, all draws at once.

A draw is a weight for each patient (how often it was drawn); the AUROC of a weighted sample needs the ranks of the
scores once and a cumulative sum for each draw, so a thousand draws cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ctglip.types import Interval


@dataclass(frozen=True)
class Question:
    """One yes/no question put to many organs.

    Attributes:
        labels: 0 or 1.
        scores: higher means yes.
        patients: index of each organ's patient, 0 .. number of patients - 1.
    """

    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    patients: Int[np.ndarray, " n"]


def draw_patients(patients: int, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draws patients"]:
    """How often each patient is drawn, for each draw; row 0 is the sample itself.

    The weights of one patient lie side by side in memory, since they are gathered patient by patient.
    """
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws).astype(np.float64)
    return np.ascontiguousarray(np.concatenate([np.ones((1, patients)), weights]).T).T


def weighted_auroc(question: Question, weights: Float[np.ndarray, "draws patients"]) -> Float[np.ndarray, " draws"]:
    """AUROC of each draw, ties counted half; NaN where a draw lacks positives or negatives."""
    positive = question.labels.astype(bool)
    by_patient = weights.T
    scores = question.scores[~positive]
    order = np.argsort(scores, kind="stable")
    below = np.zeros((len(scores) + 1, len(weights)))
    np.cumsum(by_patient[question.patients[~positive][order]], axis=0, out=below[1:])
    counts = by_patient[question.patients[positive]]
    positives, ranked = question.scores[positive], scores[order]
    beaten = below[np.searchsorted(ranked, positives, "left")] + below[np.searchsorted(ranked, positives, "right")]
    pairs = counts.sum(0) * below[-1]
    wins = np.einsum("pd,pd->d", counts, beaten) / 2
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_mean(
    values: Float[np.ndarray, " n"], patients: Int[np.ndarray, " n"], weights: Float[np.ndarray, "draws patients"]
) -> Float[np.ndarray, " draws"]:
    """Mean of one value for each organ (or study) in each draw; NaN where a draw holds none of them."""
    count = weights.shape[1]
    sums = weights @ np.bincount(patients, values, count)
    totals = weights @ np.bincount(patients, minlength=count).astype(np.float64)
    return np.divide(sums, totals, out=np.full(len(weights), np.nan), where=totals > 0)


def interval_of(draws: Float[np.ndarray, " draws"]) -> Interval:
    """Estimate (row 0 of the draws) and 95 % percentile interval (the other rows)."""
    rest = draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(draws[0]):
        return Interval(None)
    if not len(rest):
        return Interval(float(draws[0]))
    low, high = np.quantile(rest, [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high))


def macro_draws(
    questions: Sequence[Question], weights: Float[np.ndarray, "draws patients"]
) -> tuple[Float[np.ndarray, "questions draws"], Float[np.ndarray, " draws"]]:
    """AUROC of each question and their mean, for each draw.

    A draw that lacks positives of a question leaves that question out of its mean; the same patients are drawn for
    all questions, so two macro means of the same patients can be subtracted draw by draw.
    """
    each = np.stack([weighted_auroc(question, weights) for question in questions])
    known = np.isfinite(each)
    sums = np.where(known, each, 0.0).sum(0)
    return each, np.divide(sums, known.sum(0), out=np.full(each.shape[1], np.nan), where=known.any(0))
