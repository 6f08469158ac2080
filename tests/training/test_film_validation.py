"""Validation on films during training: the zero-shot AUROC that ``evaluate`` finds on the same split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.data.organs import DataSettings
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.scoring import dictionaries_of
from ctglip.training.validation import build_validation
from tests.inference.tiny_films import film_release, saved, write_film_store
from tests.training.tiny import write_word_bert


@pytest.mark.parametrize("grounding", ["none", "box", "query"])
def test_validation_finds_what_evaluate_finds(grounding: str, tmp_path: Path) -> None:
    release = film_release(write_word_bert(tmp_path / "bert"), grounding=grounding)
    store, _ = write_film_store(tmp_path / "store", 24)
    validation = build_validation(store, release, dictionaries_of(release), DataSettings())
    assert validation is not None
    measured = validation.measure()
    config = EvaluateConfig(draws=10, min_positives=1, controls=False, pictures=False, parts=(), device="cpu")
    found = evaluate(saved(tmp_path, release), store.path, tmp_path / "out", split="val", config=config)
    values = {(p.organ, p.abnormality): p.auroc.value for p in found.pairs}
    assert measured["val_pairs"] >= len(values) > 0
    own = validation.measure()["val_macro_auroc"]
    assert own == measured["val_macro_auroc"]
    if measured["val_pairs"] == len(values):
        assert own == pytest.approx(np.mean([value for value in values.values() if value is not None]))
    assert {place.study_id for place in validation.places} <= set(store.study_ids)
