"""Whole studies: what is true of them, what is written of them, and the vectors of whole radiographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from ctglip.evaluation.bootstrap import Question, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.metrics import TEST_SPLIT_RULES, BinaryMetrics, best_f1_threshold, binary_metrics
from ctglip.evaluation.settings import ThresholdRule
from ctglip.inference.feature_cache import VIEWS, organ_features_of
from ctglip.inference.model_readers import reader_of
from ctglip.inference.scoring import Dictionaries
from ctglip.labels import LabelTable
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store

SECTIONS = ("findings", "impression", "report")
"""Texts of a study; ``report`` is both sections together."""


class StudyContext(Protocol):
    """What whole studies are evaluated with, of whatever model.

    Attributes:
        store: the store; table: the label table, None takes the store's findings.
        dictionaries: what organs and abnormalities are.
        weights: bootstrap draws of the evaluated patients.
        min_positives: a finding with fewer positives, or fewer negatives, is not evaluated.
    """

    @property
    def store(self) -> Store: ...

    @property
    def table(self) -> LabelTable | None: ...

    @property
    def dictionaries(self) -> Dictionaries: ...

    @property
    def weights(self) -> Float[np.ndarray, "draws patients"]: ...

    @property
    def min_positives(self) -> int: ...


@dataclass(frozen=True)
class StudyScores:
    """Labels and scores of each finding over studies, NaN where not known; and the index of each study's patient."""

    patients: Int[np.ndarray, " s"]
    labels: Mapping[str, Float[np.ndarray, " s"]]
    scores: Mapping[str, Float[np.ndarray, " s"]]

    def known(self, name: str) -> Question:
        """The studies whose label and score of a finding are known."""
        labels, scores = self.labels[name], self.scores[name]
        rows = np.isfinite(labels) & np.isfinite(scores)
        return Question(labels[rows].astype(int), scores[rows], self.patients[rows])


def evaluate_studies(
    context: StudyContext, found: StudyScores, validation: StudyScores | None, rule: ThresholdRule
) -> tuple[dict[str, BinaryMetrics], Float[np.ndarray, " draws"]]:
    """Metrics of each finding that has enough positives and negatives, and the draws of their macro AUROC (empty
    without such a finding).

    Args:
        found: the evaluated studies; validation: those on which ``validation_f1`` chooses thresholds.
    """
    questions: dict[str, Question] = {}
    for name in found.labels:
        question = found.known(name)
        positives = int(question.labels.sum())
        if min(positives, len(question.labels) - positives) >= context.min_positives:
            questions[name] = question
    if not questions:
        return {}, np.zeros(0)
    thresholds: dict[str, float | None] = dict.fromkeys(questions)
    for name, question in questions.items():
        chosen_on = question if rule in TEST_SPLIT_RULES else validation.known(name) if validation else None
        if chosen_on is not None:
            choose = TEST_SPLIT_RULES.get(rule, best_f1_threshold)
            thresholds[name] = choose(chosen_on.labels, chosen_on.scores)
    each, macro = macro_draws(list(questions.values()), context.weights)
    metrics = {
        name: binary_metrics(question, draws, thresholds[name])
        for (name, question), draws in zip(questions.items(), each, strict=True)
    }
    return metrics, macro


def study_labels(
    context: StudyContext,
    studies: Sequence[str],
    abnormalities: Mapping[str, str],
    columns: Mapping[str, Sequence[int]],
) -> dict[str, Float[np.ndarray, " s"]]:
    """What is true of whole studies: 1, 0 or NaN for each finding and study.

    From the columns of the label table; else from what reports affirm (a finding that is not mentioned is a 0, as in
    public labels).

    Args:
        abnormalities: finding -> its abnormality.
        columns: finding -> the label table's columns about it; not used where there is no table.
    """
    if context.table is not None:
        values = context.table.of_studies(studies)
        return {name: np.fmax.reduce(values[:, columns[name]], axis=1, initial=np.nan) for name in abnormalities}
    findings = findings_by_study(context.store, set(studies))
    affirmed = {
        study: {row.abnormality for row in rows if row.status == "affirmed"} for study, rows in findings.items()
    }
    dictionary = context.dictionaries.abnormalities
    out = {}
    for name, abnormality in abnormalities.items():
        subtypes = {abnormality, *dictionary.descendants(abnormality)}
        out[name] = np.array(
            [float(not subtypes.isdisjoint(affirmed[study])) if study in affirmed else np.nan for study in studies]
        )
    return out


def columns_about(context: StudyContext, abnormality: str) -> list[int]:
    """The label table's columns about an abnormality or a subtype of it, of whatever organ; none without a table."""
    if context.table is None:
        return []
    subtypes = {abnormality, *context.dictionaries.abnormalities.descendants(abnormality)}
    return [number for number, column in enumerate(context.table.columns) if column.abnormality in subtypes]


def section_texts(store: Store, study_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """The texts of some studies by section; a section that a study does not have is not there."""
    ids, texts_of = set(study_ids), {}
    for study_id, section, text in store.table("reports").iter_rows():
        text = " ".join((text or "").split())
        if study_id in ids and section in SECTIONS[:2] and any(c.isalnum() for c in text):
            texts_of.setdefault(study_id, {})[section] = text
    for texts in texts_of.values():
        texts["report"] = " ".join(texts[name] for name in SECTIONS[:2] if name in texts)
    return texts_of


def radiograph_vectors(context: Context) -> tuple[list[str], Float[np.ndarray, "s e"]]:
    """The evaluated radiographs that could be read, and their vectors as a whole.

    Raises:
        ModelError: code ``no_whole_image``: the model has no head for them.
    """
    release, config = context.release, context.config
    reader_of(release, "whole")
    features = organ_features_of(
        context.store, release, list(context.split.patient_of), ["body"], folder=context.cache_folder,
        view=VIEWS["whole"], batch=config.batch, threads=config.threads, progress=context.progress,
    )  # fmt: skip
    return [instance.study_id for instance in features.instances], features.embeddings.diagnosis
