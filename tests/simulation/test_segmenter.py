"""Faults of masks: each is what it says, at its rate, and is recorded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import lookup, number
from ctglip.simulation.segmenter import SMALL_ORGANS, SOFT_ORGANS, MaskSettings, draw_masks
from ctglip.simulation.study import SimulationSettings, simulate_study

Drawn = tuple[np.ndarray, list[tuple[str, str]]]


def _draw(torso: Anatomy, seed: int = 0, **faults: float) -> Drawn:
    return draw_masks(torso.labels, torso.hu, torso.spacing_mm, MaskSettings(**faults), np.random.default_rng(seed))


def test_without_faults_masks_are_the_truth(torso: Anatomy) -> None:
    labels, faults = _draw(torso)
    assert labels is torso.labels
    assert faults == []


def test_consolidation_is_missing_from_the_lung() -> None:
    settings = SimulationSettings(bodies=1, contrast=0, spacing_mm=4, second_studies=0)
    pair = ("lung_right:consolidation",)
    truth = simulate_study(2, 0, settings, pairs=pair)
    drawn = simulate_study(2, 0, settings.model_copy(update={"masks": MaskSettings(opacity=1)}), pairs=pair)
    assert np.array_equal(truth.scan.hu, drawn.scan.hu)
    lung = lookup(["lung_right"])
    lost = lung[truth.labels.labels] & ~lung[drawn.labels.labels]
    assert lost.sum() * 0.064 > 15
    assert np.median(truth.scan.hu[lost]) > -350
    kept = lung[drawn.labels.labels]
    assert np.median(truth.scan.hu[kept]) < -750
    assert ("lung_right", "opacity") in drawn.mask_faults


def test_a_leak_runs_into_what_looks_alike(torso: Anatomy) -> None:
    labels, faults = _draw(torso, leak=1)
    assert {fault for _, fault in faults} == {"leak"}
    organ = number("liver")
    before, after = torso.labels == organ, labels == organ
    gained = after & ~before
    assert 0 < gained.sum() < 0.2 * before.sum()
    assert np.abs(torso.hu[gained] - np.median(torso.hu[before])).max() < 40


def test_a_hole_takes_a_part_of_the_organ(torso: Anatomy) -> None:
    labels, faults = _draw(torso, hole=1)
    assert {organ for organ, _ in faults} == set(SOFT_ORGANS)
    liver = torso.labels == number("liver")
    lost = liver & (labels != number("liver"))
    assert 0 < lost.sum() < 0.2 * liver.sum()
    assert set(np.unique(labels[lost])) == {0}


def test_small_organs_are_missed_at_their_rate(torso: Anatomy) -> None:
    there = [organ for organ in SMALL_ORGANS if torso.volume_ml(organ) > 0]
    missed = Counter(organ for seed in range(60) for organ, _ in _draw(torso, seed, missed=0.2)[1])
    asked = 60 * len(there)
    assert abs(sum(missed.values()) / asked - 0.2) < 4 * (0.2 * 0.8 / asked) ** 0.5
    assert set(missed) == set(there)
    labels, faults = _draw(torso, missed=1)
    for organ, _ in faults:
        assert not (labels == number(organ)).any()
    assert (labels == number("liver")).sum() == (torso.labels == number("liver")).sum()


def test_ragged_borders_move_by_what_is_asked(torso: Anatomy) -> None:
    from scipy import ndimage

    labels, faults = _draw(torso, ragged_mm=2.0)
    assert faults == []
    liver, drawn = torso.labels == number("liver"), labels == number("liver")
    dice = 2 * (liver & drawn).sum() / (liver.sum() + drawn.sum())
    assert 0.9 < dice < 0.99
    assert abs(int(liver.sum()) - int(drawn.sum())) < 0.03 * liver.sum()
    away = ndimage.distance_transform_edt(~liver, torso.spacing_mm)
    assert away[drawn].max() <= 3 * 2.5 * np.sqrt(3) + 0.1
    rougher = _draw(torso, ragged_mm=4.0)[0] == number("liver")
    assert 2 * (liver & rougher).sum() / (liver.sum() + rougher.sum()) < dice


def test_vertebrae_are_miscounted_by_one_at_their_rate(torso: Anatomy) -> None:
    spine = (number("vertebrae_L5"), number("vertebrae_T1"))
    wrong = 0
    for seed in range(80):
        labels, faults = _draw(torso, seed, levels=0.3)
        wrong += bool(faults)
        changed = labels != torso.labels
        assert changed.any() == bool(faults)
        if faults:
            steps = labels[changed].astype(int) - torso.labels[changed]
            assert set(np.unique(steps)) in ({1}, {-1})
            assert torso.labels[changed].min() > spine[0]
            assert torso.labels[changed].max() == spine[1]
    assert abs(wrong / 80 - 0.3) < 4 * (0.3 * 0.7 / 80) ** 0.5


@pytest.mark.parametrize("fault", ["opacity", "leak", "hole", "missed", "ragged_mm", "levels"])
def test_one_fault_does_not_move_another(torso: Anatomy, fault: str) -> None:
    rates = {"leak": 0.3, "hole": 0.3, "missed": 0.3, "levels": 0.5}
    alone = {one for one in _draw(torso, 5, **rates)[1] if one[1] != fault}
    with_it = {one for one in _draw(torso, 5, **{**rates, fault: 1.0})[1] if one[1] != fault}
    assert {organ for organ, name in alone if name in ("missed", "levels")} == {
        organ for organ, name in with_it if name in ("missed", "levels")
    }
