"""What every part of an evaluation may look at, and how a part asks for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from ctglip.evaluation.bootstrap import draw_patients, interval_of
from ctglip.evaluation.encoded import EncodedSplit, SplitEncoder, differences_of
from ctglip.evaluation.labels import Labels
from ctglip.evaluation.metrics import TEST_SPLIT_RULES, PairMetrics
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.zero_shot import Scores, evaluate_pairs, thresholds_of
from ctglip.inference.feature_cache import FeatureView
from ctglip.inference.readers import GLOBAL
from ctglip.inference.scoring import Dictionaries, Pair


@dataclass(kw_only=True)
class Context(SplitEncoder):
    """One evaluation under way.

    Attributes:
        split: the evaluated split; validation: where thresholds come from, if the store has it.
        labels: the evaluated pairs.
        scores: their probabilities.
        thresholds: of the pairs that have one.
        weights: bootstrap draws of the split's patients.
        pairs: metrics of each pair.
        macro: draws of the macro AUROC.
        problems: what of the label table could not be used.
    """

    split: EncodedSplit
    validation: EncodedSplit | None
    labels: Labels
    scores: Scores
    thresholds: Mapping[Pair, float]
    weights: Float[np.ndarray, "draws patients"]
    pairs: list[PairMetrics]
    macro: Float[np.ndarray, " draws"]
    problems: tuple[str, ...] = ()

    @property
    def dictionaries(self) -> Dictionaries:
        """Those of the model."""
        return self.scorer.dictionaries

    @property
    def min_positives(self) -> int:
        """A pair or finding with fewer positives, or fewer negatives, is not evaluated."""
        return self.config.min_positives

    @property
    def one_vector_per_study(self) -> bool:
        """Every organ is read from the whole radiograph, so that all organs of a radiograph look alike."""
        return self.reader.reading in GLOBAL

    def other_split(self, name: str) -> EncodedSplit | None:
        """Another split, encoded; None where the store has no such split."""
        if self.validation is not None and name == self.validation.name:
            return self.validation
        return self.encode_if_any(name)

    def control(self, name: str, explanation: str, scores: Scores) -> ControlResult:
        """The macro AUROC of other scores of the evaluated pairs and the model's own, draw by draw."""
        labels, patients = {pair: self.labels[pair] for pair in scores}, self.split.patients
        pairs, control = evaluate_pairs(labels, scores, patients, self.weights, {})
        model = self.macro
        if len(labels) < len(self.labels):
            model = evaluate_pairs(labels, self.scores, patients, self.weights, {})[1]
        values = {f"{pair.organ}:{pair.abnormality}": pair.auroc.value for pair in pairs}
        return ControlResult(name, explanation, interval_of(control), interval_of(model - control), values)

    def differences(self, view: FeatureView) -> Scores:
        """Similarity differences of the evaluated pairs with the organs shown in another way."""
        return differences_of(self.scorer, self.encode_view(self.split, view), self.labels)


def build_context(
    encoder: SplitEncoder,
    split: EncodedSplit,
    validation: EncodedSplit | None,
    labels: Labels,
    problems: tuple[str, ...] = (),
) -> Context:
    """Scores, thresholds and draws of one evaluation.

    Args:
        split: the evaluated split.
        validation: where thresholds and the volume control are fitted; None where the store has no such split.
        labels: the evaluated pairs.
    """
    encoder.begin("Intervals")
    config, probabilities = encoder.config, encoder.scorer.calibration.probabilities
    scores = {pair: probabilities(split.differences[pair]) for pair in labels}
    weights = draw_patients(split.patient_count, config.draws, np.random.default_rng(config.seed))
    thresholds: dict[Pair, float] = {}
    if config.threshold in TEST_SPLIT_RULES:
        thresholds = thresholds_of(labels, scores, TEST_SPLIT_RULES[config.threshold])
    elif validation is not None:
        fitted = {pair: known for pair, known in validation.labels.items() if pair in labels}
        thresholds = thresholds_of(fitted, {pair: probabilities(validation.differences[pair]) for pair in fitted})
    pairs, macro = evaluate_pairs(labels, scores, split.patients, weights, thresholds)
    given = {field.name: getattr(encoder, field.name) for field in fields(SplitEncoder)}
    return Context(
        **given, split=split, validation=validation, labels=labels, scores=scores, thresholds=thresholds,
        weights=weights, pairs=pairs, macro=macro, problems=problems,
    )  # fmt: skip
