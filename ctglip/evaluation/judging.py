"""From encoded splits to results: metrics, controls, recognition, calibration."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ctglip.evaluation.bootstrap import draw_patients, interval_of
from ctglip.evaluation.controls import volume_scores
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.labels import Labels
from ctglip.evaluation.metrics import expected_calibration_error
from ctglip.evaluation.results import CalibrationResult, ControlResult, Results
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Recognition, Scores, judge, recognition, thresholds_of
from ctglip.inference.scoring import Calibration, Scorer

MASK_ONLY = "Mask only"
VOLUME_ONLY = "Volume only"


def judged_pairs(split: EncodedSplit, least: int) -> Labels:
    """The pairs with enough positives and negatives."""
    return {pair: known for pair, known in split.labels.items() if known.both(least)}


def results_of(
    scorer: Scorer,
    split: EncodedSplit,
    validation: EncodedSplit | None,
    labels: Labels,
    config: EvaluateConfig,
    label_source: str,
) -> Results:
    """Everything that is reported.

    Args:
        split: the split judged.
        validation: where thresholds and the volume control are fitted; None where the store has no such split.
        labels: the pairs judged.
        config: draws and seed.
        label_source: where labels come from, in words.
    """
    calibration = scorer.calibration
    scores = {pair: calibration.probabilities(split.differences[pair]) for pair in labels}
    thresholds = {}
    if validation:
        fitted = {pair: known for pair, known in validation.labels.items() if pair in labels}
        chosen = {pair: calibration.probabilities(validation.differences[pair]) for pair in fitted}
        thresholds = thresholds_of(fitted, chosen)
    weights = draw_patients(split.patient_count, config.draws, np.random.default_rng(config.seed))
    pairs, macro = judge(labels, scores, split.patients, weights, thresholds)
    f1 = [pair.at.f1 for pair in pairs if pair.at and pair.at.f1 is not None]
    notes: list[str] = []
    controls = _controls(split, validation, labels, macro, weights, notes) if config.controls else ()
    left_out = sorted(":".join(pair) for pair in split.labels if pair not in labels)
    if left_out:
        notes.append(f"{len(left_out)} pairs with too few positives or negatives are not judged.")
    if len(thresholds) < len(labels):
        notes.append(f"{len(labels) - len(thresholds)} pairs have no threshold: the validation split lacks an answer.")
    return Results(
        split=split.split,
        label_source=label_source,
        threshold_source="best F1 on the split val" if validation else "none: the store has no split val",
        studies=len({place.study_id for place in split.places}),
        patients=split.patient_count,
        crops=len(split.places),
        macro_auroc=interval_of(macro),
        macro_f1=float(np.mean(f1)) if f1 else None,
        pairs=tuple(pairs),
        left_out=tuple(left_out),
        controls=controls,
        recognition=_recognition(scorer, split, weights),
        calibration=_calibration(calibration, split, labels),
        effective_rank=split.rank,
        embedding_dim=split.embeddings.diagnosis.shape[1],
        failures=split.failures,
        notes=tuple(notes),
    )


def _controls(
    split: EncodedSplit,
    validation: EncodedSplit | None,
    labels: Labels,
    macro: Float[np.ndarray, " draws"],
    weights: Float[np.ndarray, "draws patients"],
    notes: list[str],
) -> tuple[ControlResult, ...]:
    found = []
    if split.mask_only is not None:
        text = "The same model, shown crops in which the organ has its mean HU throughout and everything else is air."
        found.append(_control(MASK_ONLY, text, split.mask_only, split, labels, macro, weights))
    if validation:
        scores, unfitted = volume_scores(validation.places, validation.labels, split.places, labels)
        text = "A logistic score of log volume and its square, fitted for each pair on the validation split."
        found.append(_control(VOLUME_ONLY, text, scores, split, labels, macro, weights))
        if unfitted:
            notes.append(f"{VOLUME_ONLY}: {unfitted} pairs could not be fitted on the split val and count as 0.5.")
    return tuple(found)


def _control(
    name: str,
    explanation: str,
    scores: Scores,
    split: EncodedSplit,
    labels: Labels,
    macro: Float[np.ndarray, " draws"],
    weights: Float[np.ndarray, "draws patients"],
) -> ControlResult:
    pairs, own = judge(labels, {pair: scores[pair] for pair in labels}, split.patients, weights, {})
    values = {f"{pair.organ}:{pair.abnormality}": pair.auroc.value for pair in pairs}
    return ControlResult(name, explanation, interval_of(own), interval_of(macro - own), values)


def _recognition(scorer: Scorer, split: EncodedSplit, weights: Float[np.ndarray, "draws patients"]) -> Recognition:
    organs = scorer.dictionaries.organs
    names = scorer.release.organs
    mirror = {name: organs.mirror(name) for name in names if organs.mirror(name) != name}
    said = scorer.recognise(split.embeddings.anatomy)
    return recognition(said, split.places, names, mirror, split.patients, weights)


def _calibration(calibration: Calibration, split: EncodedSplit, labels: Labels) -> CalibrationResult:
    truth = np.concatenate([labels[pair].labels for pair in sorted(labels)])
    differences = np.concatenate([split.differences[pair] for pair in sorted(labels)])
    learned = Calibration(scale=calibration.learned_scale).probabilities(differences)
    fitted = calibration.probabilities(differences) if calibration.fitted_on else None
    return CalibrationResult(
        ece_learned=expected_calibration_error(truth, learned),
        ece_fitted=None if fitted is None else expected_calibration_error(truth, fitted),
    )
