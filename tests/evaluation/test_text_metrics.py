"""BLEU-4 and ROUGE-L in draws of patients are those of the libraries; METEOR is computed with WordNet or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.evaluation import text_metrics
from ctglip.evaluation.text_metrics import text_draws, text_statistics

TEXTS = ["The liver is normal. No ascites.", "The spleen is enlarged.", "A cyst of the left kidney is seen."]
REFERENCES = [
    "The liver is unremarkable. No ascites.",
    "The spleen is enlarged.",
    "There is a cyst of the left kidney.",
]
PATIENTS = np.array([0, 1, 1])


def test_draws_are_the_metrics_of_the_drawn_texts() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    weights = np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]])
    found = text_draws(text_statistics(TEXTS, REFERENCES), PATIENTS, weights)
    for number, rows in enumerate(([0, 1, 2], [1, 2, 1, 2], [0, 0])):
        texts, references = [TEXTS[n] for n in rows], [[REFERENCES[n] for n in rows]]
        expected = sacrebleu.corpus_bleu(texts, references, lowercase=True).score / 100
        assert found["bleu4"][number] == pytest.approx(expected)
    assert found["rouge_l"][0] == pytest.approx(np.mean([5 / 6, 1, 6 / 8]))
    assert found["rouge_l"][1] > found["rouge_l"][2]


def test_nothing_else_is_called_meteor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    monkeypatch.setattr(text_metrics, "WORDNET", tmp_path)
    assert not text_metrics.has_wordnet()
    found = text_draws(text_statistics(TEXTS, REFERENCES), PATIENTS, np.ones((1, 2)))
    assert found.keys() == {"bleu4", "rouge_l"}
