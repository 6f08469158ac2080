"""Retrieval against what it must be: ranks counted by hand, chance found by shuffling."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.evaluation.bootstrap import draw_patients, weighted_mean
from ctglip.evaluation.parts.retrieval import chance_recall, direction, ranked


def test_ranks_count_what_comes_before_the_first_right_one() -> None:
    similarity = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.3, 0.3, 0.3]])
    own = ranked(similarity, np.eye(3, dtype=bool), np.arange(3))
    assert own.ranks.tolist() == [1, 2, 3]


def test_a_duplicate_of_the_right_text_is_right() -> None:
    similarity = np.array([[0.2, 0.5, 0.9], [0.2, 0.5, 0.9], [0.9, 0.5, 0.2]])
    same = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=bool)
    found = ranked(similarity, same, np.arange(3))
    assert found.ranks.tolist() == [1, 2, 1]
    assert found.right.tolist() == [2, 1, 2]


def test_a_model_that_knows_nothing_gains_nothing_from_ties() -> None:
    found = ranked(np.zeros((4, 4)), np.eye(4, dtype=bool), np.arange(4))
    assert found.ranks.tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_chance_is_what_shuffling_gives(k: int) -> None:
    rng = np.random.default_rng(0)
    right, candidates = np.array([1, 2, 5, 12]), np.array([12, 12, 20, 12])
    found = []
    for r, n in zip(right, candidates, strict=True):
        orders = rng.permuted(np.tile(np.arange(n), (40000, 1)), axis=1)
        found.append((orders[:, :k] < r).any(axis=1).mean())
    assert chance_recall(right, candidates, k) == pytest.approx(np.mean(found), abs=0.01)


def test_recall_grows_with_k_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    similarity = rng.normal(size=(60, 60)) + 1.5 * np.eye(60)
    part = ranked(similarity, np.eye(60, dtype=bool), np.arange(60))
    found = direction("study: image to report", [part], draw_patients(60, 200, rng))
    values = [at.recall.value or 0.0 for at in found.at]
    assert values == sorted(values)
    assert [at.k for at in found.at] == [1, 5, 10, 20, 50]
    assert values[0] == pytest.approx((part.ranks == 1).mean())
    assert found.median_rank == np.median(part.ranks)
    for at in found.at:
        assert (at.recall.low or 0) <= (at.recall.value or 0) <= (at.recall.high or 0)
        assert at.chance == pytest.approx(at.k / 60)


def test_a_weighted_mean_equals_the_mean_of_the_drawn_rows() -> None:
    rng = np.random.default_rng(2)
    values, patients = rng.normal(size=40), rng.integers(0, 12, 40)
    weights = draw_patients(12, 30, rng)
    for found, weight in zip(weighted_mean(values, patients, weights), weights, strict=True):
        rows = np.repeat(np.arange(40), weight[patients].astype(int))
        assert found == pytest.approx(values[rows].mean())
