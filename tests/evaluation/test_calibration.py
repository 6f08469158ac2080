"""Scale and bias of probabilities, fitted to answers whose true odds are known."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.labels import PairLabels

PAIR = ("liver", "liver_cyst")


def answers(scale: float, bias: float, n: int = 4000) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    differences = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-(scale * differences + bias)))).astype(np.int64)
    return {PAIR: PairLabels(np.arange(n), labels)}, {PAIR: differences}


def test_the_odds_of_the_answers_are_found() -> None:
    labels, differences = answers(3.0, -0.5)
    found = fit_calibration(labels, differences, 14.0, "val")
    assert found.scale == pytest.approx(3.0, rel=0.1)
    assert found.bias == pytest.approx(-0.5, abs=0.15)
    assert (found.fitted_on, found.answers, found.learned_scale) == ("val", 4000, 14.0)


def test_a_model_that_is_wrong_more_often_than_right_is_not_turned_around() -> None:
    labels, differences = answers(-3.0, 0.0)
    found = fit_calibration(labels, differences, 14.0, "val")
    assert (found.fitted_on, found.scale, found.bias) == (None, 14.0, 0.0)


def test_without_both_answers_nothing_is_fitted() -> None:
    labels = {PAIR: PairLabels(np.arange(50), np.ones(50, dtype=np.int64))}
    assert fit_calibration(labels, {PAIR: np.linspace(0, 1, 50)}, 14.0, "val").fitted_on is None
