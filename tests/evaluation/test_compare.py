"""Two models compared: on the same patients, with p values that mean what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctglip.evaluation.bootstrap import Question, draw_patients, macro_draws
from ctglip.evaluation.compare import compare, holm, p_value
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.store.tables import Store

CONFIG = EvaluateConfig(draws=100, min_positives=2, device="cpu")


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_family_wise_error() -> None:
    """Of 500 families of 10 true null hypotheses about one in twenty has a rejection."""
    rng = np.random.default_rng(0)
    rejected = sum(min(holm(rng.random(10).tolist())) < 0.05 for _ in range(500))  # type: ignore[type-var]
    assert 0.02 <= rejected / 500 <= 0.08


def test_p_values_of_equal_models_are_spread_evenly() -> None:
    """200 pairs of models with equally noisy views of one signal."""
    rng = np.random.default_rng(1)
    values = []
    for _ in range(200):
        labels = (rng.random(80) < 0.4).astype(int)
        signal = labels + rng.normal(size=80)
        a, b = (Question(labels, signal + rng.normal(size=80), np.arange(80)) for _ in range(2))
        weights = draw_patients(80, 200, rng)
        values.append(p_value(macro_draws([b], weights)[1] - macro_draws([a], weights)[1]) or 0.0)
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.10
    assert 0.4 <= np.mean(np.array(values) < 0.5) <= 0.6


def test_a_better_model_is_found_better() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random(100) < 0.4).astype(int)
    weights = draw_patients(100, 300, rng)
    good = Question(labels, labels + 0.5 * rng.normal(size=100), np.arange(100))
    poor = Question(labels, rng.normal(size=100), np.arange(100))
    found = p_value(macro_draws([good], weights)[1] - macro_draws([poor], weights)[1])
    assert found is not None
    assert found < 0.001
    assert p_value(np.zeros(10)) == 1.0
    assert p_value(np.full(10, np.nan)) is None


def test_a_model_does_not_differ_from_itself(tiny: tuple[Store, Path, Path], tmp_path: Path) -> None:
    store, truth, run = tiny
    found = compare(run, run / "model", store.path, tmp_path, labels=truth, config=CONFIG)
    assert found.macro_difference.value == found.macro_difference.low == found.macro_difference.high == 0
    assert {pair.p_value for pair in found.pairs} == {1.0}
    assert all(pair.first == pair.second for pair in found.pairs)
    written = json.loads((tmp_path / "compare.json").read_text())
    assert written == json.loads(json.dumps(found.to_json()))
    assert "0 of 3 pairs differ" in found.headline()
    html = (tmp_path / "compare.html").read_text()
    assert "no difference" in html
    assert "plenomegaly" in html
