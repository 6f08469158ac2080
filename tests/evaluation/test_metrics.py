"""Metrics agree with scikit-learn, and thresholds carry over."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws, weighted_auroc
from ctglip.evaluation.metrics import (
    at_threshold,
    best_f1_threshold,
    binary_metrics,
    expected_calibration_error,
    roc_band,
    roc_corner_threshold,
    roc_points,
)


def random_question(rng: np.random.Generator, n: int = 80, patients: int = 30, ties: bool = True) -> Question:
    labels = (rng.random(n) < 0.3).astype(int)
    labels[:2] = 0, 1
    scores = rng.normal(size=n) + labels
    return Question(labels, np.round(scores, 1) if ties else scores, rng.integers(0, patients, n))


@pytest.mark.parametrize("ties", [True, False])
def test_the_weighted_auroc_equals_scikit_learn_on_resampled_rows(ties: bool) -> None:
    rng = np.random.default_rng(0)
    question = random_question(rng, ties=ties)
    weights = draw_patients(30, 20, rng)
    found = weighted_auroc(question, weights)
    for value, weight in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(len(question.labels)), weight[question.patients].astype(int))
        assert value == pytest.approx(reference.roc_auc_score(question.labels[rows], question.scores[rows]), abs=1e-12)


def test_an_auroc_without_positives_is_unknown_and_stays_out_of_the_macro_mean() -> None:
    rng = np.random.default_rng(1)
    known = random_question(rng)
    empty = Question(np.zeros(5, dtype=int), rng.normal(size=5), np.arange(5))
    weights = draw_patients(30, 10, rng)
    each, macro = macro_draws([known, empty], weights)
    assert np.isnan(each[1]).all()
    assert interval_of(each[1]).value is None
    np.testing.assert_array_equal(macro, each[0])


def test_patients_not_organs_are_drawn() -> None:
    rng = np.random.default_rng(2)
    labels = np.tile([0, 1], 20)
    scores = np.tile([0.0, 1.0], 20) + rng.normal(size=40)
    one_each = Question(labels, scores, np.arange(40))
    clustered = Question(labels, scores, np.repeat(np.arange(4), 10))
    width = []
    for question, patients in ((one_each, 40), (clustered, 4)):
        found = interval_of(weighted_auroc(question, draw_patients(patients, 500, np.random.default_rng(3))))
        width.append((found.high or 0) - (found.low or 0))
    assert width[0] != width[1]


def test_the_interval_covers_the_truth_as_often_as_it_claims() -> None:
    """200 random experiments whose scores know nothing: about 95 % of the intervals hold 0.5."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        labels = (rng.random(60) < 0.4).astype(int)
        question = Question(labels, rng.normal(size=60), np.arange(60))
        found = interval_of(weighted_auroc(question, draw_patients(60, 300, rng)))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_threshold_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    question = random_question(rng, n=200)
    threshold = best_f1_threshold(question.labels, question.scores)
    assert threshold is not None
    said = question.scores >= threshold
    found = at_threshold(question.labels, question.scores, threshold)
    assert found.f1 == pytest.approx(reference.f1_score(question.labels, said))
    assert found.sensitivity == pytest.approx(reference.recall_score(question.labels, said))
    assert found.specificity == pytest.approx(reference.recall_score(1 - question.labels, ~said))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(question.labels, said))
    assert found.npv == pytest.approx(reference.precision_score(1 - question.labels, ~said))
    assert found.ppv == pytest.approx(reference.precision_score(question.labels, said))
    best = max(reference.f1_score(question.labels, question.scores >= t) for t in np.unique(question.scores))
    assert found.f1 == pytest.approx(best)
    auprc = binary_metrics(question, np.zeros(1), None).auprc
    assert auprc == reference.average_precision_score(question.labels, question.scores)


def test_a_threshold_needs_both_answers() -> None:
    assert best_f1_threshold(np.zeros(4, dtype=int), np.arange(4.0)) is None
    assert best_f1_threshold(np.ones(4, dtype=int), np.arange(4.0)) is None
    assert at_threshold(np.zeros(3, dtype=int), np.zeros(3), 0.5).sensitivity is None


def test_the_corner_threshold_is_nearest_to_the_corner() -> None:
    rng = np.random.default_rng(8)
    question = random_question(rng, n=150)
    threshold = roc_corner_threshold(question.labels, question.scores)
    assert threshold is not None

    def distance(t: float) -> float:
        found = at_threshold(question.labels, question.scores, t)
        return float(np.hypot(1 - (found.specificity or 0), 1 - (found.sensitivity or 0)))

    assert distance(threshold) == pytest.approx(min(distance(t) for t in np.unique(question.scores)))
    assert roc_corner_threshold(np.zeros(3, dtype=int), np.arange(3.0)) is None


def test_the_band_of_a_roc_curve_holds_it_and_closes_at_its_ends() -> None:
    rng = np.random.default_rng(10)
    question = random_question(rng, n=200, patients=200)
    x, y = roc_points(question.labels, question.scores)
    weights = draw_patients(200, 300, rng)[1:, question.patients]
    low, high = roc_band(question.labels, question.scores, weights, x)
    assert len(low) == len(high) == len(x)
    assert np.mean([a - 0.02 <= b <= c + 0.02 for a, b, c in zip(low, y, high, strict=True)]) > 0.9
    assert high[-1] == low[-1] == 1.0
    one = roc_band(question.labels, question.scores, np.ones((1, 200)), x)[0]
    assert max(one) == 1.0
    assert np.all(np.diff(one) >= 0)
    assert roc_band(np.zeros(3, dtype=int), np.arange(3.0), np.ones((2, 3)), (0.0, 1.0)) == ((), ())


def test_macro_intervals_of_random_scores_cover_one_half_as_often_as_they_claim() -> None:
    """150 experiments of 6 questions about the same 100 patients."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(150):
        asked = [Question((rng.random(100) < 0.4).astype(int), rng.normal(size=100), np.arange(100)) for _ in range(6)]
        found = interval_of(macro_draws(asked, draw_patients(100, 300, rng))[1])
        covered += (found.low or 1) <= 0.5 <= (found.high or 0)
    assert 0.90 <= covered / 150 <= 0.99


def test_calibration_error_is_zero_for_honest_and_large_for_bold_probabilities() -> None:
    rng = np.random.default_rng(6)
    probabilities = rng.random(20000)
    labels = (rng.random(20000) < probabilities).astype(int)
    assert expected_calibration_error(labels, probabilities) < 0.02
    assert expected_calibration_error(np.zeros(100, dtype=int), np.full(100, 0.9)) == pytest.approx(0.9)
