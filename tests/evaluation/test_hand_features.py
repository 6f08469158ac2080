"""The control without a network: its numbers are those of the organ's voxels, and it learns from reports alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctglip.data.organs import studies_of
from ctglip.evaluation import hand_features as hand
from ctglip.evaluation.hand_features import (
    NAMES,
    VOLUME,
    fitted_scores,
    hand_features,
    organ_voxels,
    report_labels,
    training_organs,
)
from ctglip.evaluation.labels import PairLabels
from ctglip.reports.parser import get_parser
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
PAIR = ("liver", "hepatic_steatosis")


def test_a_shell_is_what_lies_around_its_masks() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[10:20, 10:20, 10:20] = ORGANS["lung_lower_lobe_left"].label
    pleura, lung = ORGANS["pleura_left"], ORGANS["lung_left"]
    inside, around = (organ_voxels(labels, organ, ORGANS, (2.0, 2.0, 2.0)) for organ in (lung, pleura))
    assert np.array_equal(inside, labels > 0)
    assert not (around & inside).any()
    assert around[9, 15, 15]
    assert not around[0, 15, 15]


def test_numbers_are_those_of_the_stored_voxels(tiny: tuple[Store, object, object]) -> None:
    store = tiny[0]
    studies = studies_of(store, "train")[:2]
    instances = training_organs(store, studies, ("liver",))
    found = hand_features(store, instances, ORGANS)
    assert found.shape == (len(instances), len(NAMES))
    study = store.study(instances[0].study_id)
    labels = study.organs()
    assert labels is not None
    hu = study.image()[np.isin(labels, list(ORGANS.roi_labels("liver")))]
    assert found[0, 1:3] == pytest.approx([hu.mean(), hu.std()], rel=1e-5)
    assert found[0, NAMES.index("percentile 95 of HU")] == pytest.approx(np.percentile(hu, 95))
    assert hand_features(store, [], ORGANS).shape == (0, len(NAMES))


def test_a_fatty_liver_is_told_by_its_density_and_not_by_its_volume(tiny: tuple[Store, object, object]) -> None:
    store = tiny[0]
    instances = training_organs(store, studies_of(store, "train"), ("liver",))
    labels = report_labels(store, instances, ORGANS, load_abnormalities())
    features, rows = hand_features(store, instances, ORGANS), labels[PAIR].rows
    dense = fitted_scores((features, labels), (features, {PAIR: rows}))[0][PAIR]
    large = fitted_scores((features, labels), (features, {PAIR: rows}), VOLUME)[0][PAIR]
    truth = labels[PAIR].labels.astype(bool)
    assert dense[truth].min() > dense[~truth].max()
    assert large[truth].min() <= large[~truth].max()  # all these livers are equally large


def test_pairs_without_labels_of_both_kinds_score_nothing_and_are_counted() -> None:
    features = np.random.default_rng(0).normal(size=(6, len(NAMES)))
    features[2] = np.nan  # an organ without a voxel
    labels = {PAIR: PairLabels(np.arange(6), np.array([0, 1, 0, 1, 0, 1])), ("liver", "cirrhosis"): PairLabels(
        np.arange(6), np.ones(6, np.int64))}  # fmt: skip
    asked = {PAIR: np.arange(6), ("liver", "cirrhosis"): np.arange(3), ("spleen", "splenomegaly"): np.arange(2)}
    scores, unfitted = fitted_scores((features, labels), (features, asked))
    assert unfitted == 2
    assert np.isfinite(scores[PAIR]).all()
    assert np.ptp(scores[PAIR]) > 0
    assert not scores["spleen", "splenomegaly"].any()


def test_what_is_of_a_kind_affirms_the_kind(
    tiny: tuple[Store, object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports name the abdominal aorta's aneurysm where the aorta is asked about."""
    store = tiny[0]
    studies = studies_of(store, "train")[:3]
    livers = training_organs(store, studies, ("liver",))
    instances = [replace(one, row=replace(one.row, organ="aorta")) for one in livers]
    sentences = ("Abdominal aortic aneurysm.", "The aorta is normal.", "Possible abdominal aortic aneurysm.")
    told = {study: list(get_parser().parse(text)) for study, text in zip(studies, sentences, strict=True)}
    monkeypatch.setattr(hand, "findings_by_study", lambda *_: told)
    labels = report_labels(store, instances, ORGANS, load_abnormalities())["aorta", "aortic_aneurysm"]
    assert dict(zip(labels.rows.tolist(), labels.labels.tolist(), strict=True)) == {0: 1, 1: 0}
