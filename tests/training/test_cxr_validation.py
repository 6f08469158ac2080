"""Validation on radiographs during training: the zero-shot AUROC that ``evaluate`` finds on the same split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.data.cxr import CxrDataSettings
from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.scoring import Scorer, dictionaries_of
from ctglip.models.release import load_release
from ctglip.models.resampler import ResamplerSettings
from ctglip.training.validation import build_validation
from tests.inference.tiny_cxr import cxr_release, saved, write_cxr_store
from tests.training.tiny import write_word_bert


@pytest.mark.parametrize("reader", [None, "box", "query"])
def test_validation_finds_what_evaluate_finds(reader: str | None, tmp_path: Path) -> None:
    release = cxr_release(write_word_bert(tmp_path / "bert"), regions=reader and {"name": reader})
    store, _ = write_cxr_store(tmp_path / "store", 24)
    validation = build_validation(store, release, dictionaries_of(release), CxrDataSettings())
    assert validation is not None
    measured = validation.measure()
    release.calibration = validation.calibration(14.0).model_dump(mode="json")
    config = EvaluateConfig(draws=10, min_positives=1, controls=False, pictures=False, parts=(), device="cpu")
    found = evaluate(saved(tmp_path, release), store.path, tmp_path / "out", split="val", config=config)
    values = {(p.organ, p.abnormality): p.auroc.value for p in found.pairs}
    assert measured["val_pairs"] >= len(values) > 0
    judged = {pair: known for pair, known in validation.labels.items() if known.both()}
    by_weight = validation._by_weight(*validation._now(), judged)
    assert measured["val_macro_auroc"] == max(by_weight.values())
    own = by_weight[release.calibration["negative_weight"]]
    if measured["val_pairs"] == len(values):
        assert own == pytest.approx(np.mean([value for value in values.values() if value is not None]))
    assert {instance.study_id for instance in validation.instances} <= set(store.study_ids)


def test_answers_of_observations_are_calibrated_on_their_own(tmp_path: Path) -> None:
    """The released model carries both calibrations, and the scorer of observations takes theirs."""
    observing = {"resampler": ResamplerSettings(queries=3, layers=1, heads=2, dim=16)}
    release = cxr_release(write_word_bert(tmp_path / "bert"), **observing)
    store, _ = write_cxr_store(tmp_path / "store", 40)
    validation = build_validation(store, release, dictionaries_of(release), CxrDataSettings())
    assert validation is not None
    assert validation.observe is not None
    fitted = validation.calibration(14.0)
    assert fitted.observations is not None
    scorer, weight = Scorer(release, observes=True), fitted.observations.negative_weight
    scorer.calibration = scorer.calibration.model_copy(update={"negative_weight": weight})
    differences = {p: scorer.differences(validation.observe().diagnosis, [p])[k.rows, 0]
                   for p, k in validation.labels.items()}  # fmt: skip
    expected = fit_calibration(validation.labels, differences, 14.0, "findings of the split val", weight)
    assert fitted.observations.scale == pytest.approx(expected.scale, rel=1e-4)
    release.calibration = fitted.model_dump(mode="json")
    loaded = load_release(saved(tmp_path, release))
    assert Scorer(loaded, observes=True).calibration == fitted.observations
    assert Scorer(loaded).calibration == fitted
