"""How far organs may lie from those of training: what is drawn like training stays inside, what is moved is not."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.data.samples import OrganInstance
from ctglip.evaluation.familiarity import LEAST, SHARE, fit_familiarity, limits_of
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.familiarity import Verdict, scan_outside
from ctglip.inference.feature_cache import OrganFeatures
from ctglip.types import OrganRow

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "heart")
WIDTH = 24


class Anatomy:
    """Organs whose features and HU are drawn from known distributions, each organ about a place of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.middles = self.rng.normal(size=(len(ORGANS), WIDTH)) * 5
        self.mix = self.rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)

    def draw(self, studies: int, moved: float = 0.0, hu: float = 0.0) -> OrganFeatures:
        """Organs of some studies; ``moved`` along one direction, in units of that direction's spread."""
        away = moved * np.linalg.norm(self.mix[:, 0]) * np.eye(WIDTH)[0]
        instances, features = [], []
        for study in range(studies):
            for number, organ in enumerate(ORGANS):
                spread = max(float(self.rng.normal(30, 3)), 1.0)
                row = OrganRow(organ, (0, 9, 0, 9, 0, 9), 50.0, float(self.rng.normal(60, 10)) + hu, False, spread)
                instances.append(OrganInstance(f"s{study}", row))
                features.append(self.middles[number] + self.mix @ self.rng.normal(size=WIDTH) + away)
        found = np.array(features, np.float32)
        return OrganFeatures(tuple(instances), OrganEmbeddings(found, found, found))


def outside(seed: int, moved: float = 0.0, hu: float = 0.0) -> float:
    """Share of new organs that are found outside, of a fit on 80 and 25 studies."""
    anatomy = Anatomy(seed)
    found = fit_familiarity(anatomy.draw(80), anatomy.draw(25), "crop")
    assert found is not None
    new = anatomy.draw(200, moved, hu)
    verdicts = [
        found.compare(p.organ, (p.row.mean_hu, p.row.sd_hu), x)
        for p, x in zip(new.instances, new.embeddings.features, strict=True)
    ]
    return float(np.mean([verdict is not None and verdict.outside for verdict in verdicts]))


def test_what_is_drawn_like_training_stays_inside() -> None:
    """Each of two limits is kept by 99 %: about 2 % are outside, never more than 5 % however the splits fall."""
    shares = [outside(seed) for seed in range(10)]
    assert max(shares) <= 0.05
    assert 0.004 <= float(np.mean(shares)) <= 0.035


@pytest.mark.parametrize(("moved", "hu"), [(12.0, 0.0), (0.0, 80.0), (0.0, -200.0)])
def test_what_is_far_away_is_outside(moved: float, hu: float) -> None:
    assert min(outside(seed, moved, hu) for seed in range(3)) >= 0.98


def test_the_words_say_which_limit_was_crossed_and_by_how_much() -> None:
    anatomy = Anatomy(0)
    found = fit_familiarity(anatomy.draw(80), anatomy.draw(25), "crop")
    assert found is not None
    assert found.about.share == SHARE
    typical = anatomy.middles[0].astype(np.float32)
    inside = found.compare("liver", (60.0, 30.0), typical, "liver")
    dense = found.compare("liver", (400.0, 30.0), typical, "liver")
    assert inside is not None
    assert not inside.outside
    assert inside.distance < 1
    assert dense is not None
    assert dense.outside
    assert "liver: HU" in dense.why
    assert "99 % of the validation organs" in dense.why
    assert "mean 400 HU" in dense.why
    assert found.compare("aorta", (60.0, 30.0), typical) is None


def test_too_few_validation_organs_measure_nothing() -> None:
    anatomy = Anatomy(0)
    assert fit_familiarity(anatomy.draw(80), anatomy.draw(LEAST // len(ORGANS) - 1), "crop") is None
    assert fit_familiarity(anatomy.draw(3), anatomy.draw(30), "crop") is None


def test_limits_are_the_percentile_of_all_organs_together() -> None:
    """Two organs whose distances differ by a factor alone: limits differ by that factor, and hold the wanted share."""
    rng = np.random.default_rng(0)
    near = np.exp(rng.normal(0, 0.2, 5000))
    limits, share = limits_of({"a": near, "b": 3 * near})
    assert share == SHARE
    assert limits["b"] == pytest.approx(3 * limits["a"], rel=1e-6)
    assert limits["a"] == pytest.approx(np.exp(0.2 * 2.326), rel=0.02), "the normal's 99th percentile"
    few, share = limits_of({"a": near[:10], "b": near[10:40]})
    assert share == pytest.approx(40 / 41), "40 values speak for no more"
    assert all(np.isfinite(list(few.values())))


def test_a_scan_is_outside_where_half_of_its_organs_are() -> None:
    far, near = Verdict(True, 2.0, "far"), Verdict(False, 0.5)
    assert scan_outside({"a": far, "b": far, "c": near, "d": None}) == (
        "2 of the 3 organs that were compared with training lie outside of it"
    )
    assert not scan_outside({"a": far, "b": near, "c": near})
    assert not scan_outside({"a": far}), "one organ is not a scan"
