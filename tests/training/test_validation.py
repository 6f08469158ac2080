"""How much negative prompts count is chosen on the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ctglip.evaluation.labels import PairLabels
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.scoring import Calibration
from ctglip.training.validation import Validation

PAIR = ("liver", "liver_cyst")


@dataclass
class Words:
    """Prompts with known directions."""

    positive: np.ndarray
    negative: np.ndarray
    calibration: Calibration

    def differences(self, diagnosis: np.ndarray, pairs: list[Any]) -> np.ndarray:
        axis = self.positive - self.calibration.negative_weight * self.negative
        return np.repeat((diagnosis @ axis)[:, None], len(pairs), axis=1)


class Told(Validation):
    """A validation split whose embeddings and prompts are given."""

    negative: np.ndarray

    def _now(self) -> tuple[Any, OrganEmbeddings]:
        empty = np.zeros((len(POINTS), 2), np.float32)
        return Words(np.array([1.0, 0.0]), self.negative, Calibration()), OrganEmbeddings(empty, empty, POINTS)


RNG = np.random.default_rng(0)
CYST = np.arange(200) % 2
OTHER = RNG.integers(0, 2, 200)
POINTS = (np.stack([CYST, 3 * OTHER], axis=1) + RNG.normal(0, 0.3, (200, 2))).astype(np.float32)
"""First axis: a cyst; second: something else that is wrong with the liver."""


def told(negative: list[float], rows: int = 200) -> Calibration:
    release = type("Nothing", (), {})()
    labels = {PAIR: PairLabels(np.arange(rows), CYST[:rows])}
    split = Told(release, (), lambda: None, labels, (1, 1))  # pyright: ignore
    object.__setattr__(split, "negative", np.array(negative))
    return split.calibration(14.0)


def test_denials_that_mean_normal_are_left_out() -> None:
    """ "No cyst" lies where normal livers do, so whatever else is wrong looks like a cyst."""
    found = told([0.0, -1.0])
    assert found.negative_weight == 0.0
    assert found.scale > 0
    assert found.fitted_on == "findings of the split val"


def test_denials_that_are_understood_count_in_full() -> None:
    assert told([-1.0, 0.0]).negative_weight == 1.0


def test_too_few_answers_choose_nothing() -> None:
    """An uncalibrated model's probability is the softmax over both sides, which weighs them alike."""
    found = told([0.0, -1.0], rows=10)
    assert (found.fitted_on, found.negative_weight, found.scale) == (None, 1.0, 14.0)


def test_models_saved_before_weigh_both_alike() -> None:
    assert Calibration.model_validate({"scale": 3.0, "bias": 0.1}).negative_weight == 1.0
