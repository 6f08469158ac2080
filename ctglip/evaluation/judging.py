"""From encoded splits to results: metrics, controls, recognition, calibration."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ctglip.evaluation.bootstrap import draw_patients, interval_of
from ctglip.evaluation.context import Context
from ctglip.evaluation.controls import volume_scores
from ctglip.evaluation.encoded import EncodedSplit, Progress, Stage, begin
from ctglip.evaluation.labels import Labels, pairs_of
from ctglip.evaluation.metrics import ON_TEST, expected_calibration_error
from ctglip.evaluation.parts import run_parts
from ctglip.evaluation.results import CalibrationResult, ControlResult, Results
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Recognition, Scores, judge, recognition, thresholds_of
from ctglip.inference.scoring import Calibration, Pair, Scorer
from ctglip.labels import LabelTable
from ctglip.store.tables import Store

MASK_ONLY = "Mask only"
VOLUME_ONLY = "Volume only"
BOX_ONLY = "Box only"
_NAMED = 10


def judged_pairs(split: EncodedSplit, least: int) -> Labels:
    """The pairs with enough positives and negatives."""
    return {pair: known for pair, known in split.labels.items() if known.both(least)}


def context_of(
    store: Store,
    scorer: Scorer,
    split: EncodedSplit,
    validation: EncodedSplit | None,
    labels: Labels,
    config: EvaluateConfig,
    table: LabelTable | None = None,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Context:
    """Scores, thresholds and draws of one evaluation.

    Args:
        split: the split judged.
        validation: where thresholds and the volume control are fitted; None where the store has no such split.
        labels: the pairs judged.
        config: draws, seed, rule of the threshold.
        table: the label table, for parts that encode another split.
        progress, stage: as ``Context`` has them.
    """
    begin(stage, "Intervals")
    scores = {pair: scorer.calibration.probabilities(split.differences[pair]) for pair in labels}
    weights = draw_patients(split.patient_count, config.draws, np.random.default_rng(config.seed))
    thresholds = _thresholds(scorer, validation, labels, scores, config)
    pairs, macro = judge(labels, scores, split.patients, weights, thresholds)
    return Context(
        store=store,
        scorer=scorer,
        config=config,
        table=table,
        judged=split,
        validation=validation,
        labels=labels,
        scores=scores,
        thresholds=thresholds,
        weights=weights,
        pairs=pairs,
        macro=macro,
        progress=progress,
        stage=stage,
    )


def _thresholds(
    scorer: Scorer, validation: EncodedSplit | None, labels: Labels, scores: Scores, config: EvaluateConfig
) -> dict[Pair, float]:
    if config.threshold in ON_TEST:
        return thresholds_of(labels, scores, ON_TEST[config.threshold])
    if validation is None:
        return {}
    fitted = {pair: known for pair, known in validation.labels.items() if pair in labels}
    return thresholds_of(fitted, {p: scorer.calibration.probabilities(validation.differences[p]) for p in fitted})


def results_of(context: Context, label_source: str) -> Results:
    """Everything that is reported.

    Args:
        context: the evaluation under way.
        label_source: where labels come from, in words.
    """
    split, labels, notes, scorer = context.judged, context.labels, context.notes, context.scorer
    pairs, macro = context.pairs, context.macro
    f1 = [pair.at.f1 for pair in pairs if pair.at and pair.at.f1 is not None]
    context.begin("Controls")
    controls = _controls(context) if context.config.controls else ()
    left_out = sorted(":".join(pair) for pair in split.labels if pair not in labels)
    if left_out:
        shown = f": {', '.join(left_out)}" if context.table is not None or len(left_out) <= _NAMED else ""
        notes.append(f"{len(left_out)} pairs with too few positives or negatives are not judged{shown}.")
    if context.table is not None:
        notes += _unused(context, context.table)
    if len(context.thresholds) < len(labels):
        missing = len(labels) - len(context.thresholds)
        notes.append(f"{missing} pairs have no threshold: the validation split lacks an answer.")
    parts = run_parts(context)
    context.begin("Recognition and calibration")
    return Results(
        split=split.split,
        label_source=label_source,
        threshold_source=_threshold_source(context),
        studies=len({instance.study_id for instance in split.instances}),
        patients=split.patient_count,
        crops=len(split.instances),
        macro_auroc=interval_of(macro),
        macro_f1=float(np.mean(f1)) if f1 else None,
        pairs=tuple(pairs),
        left_out=tuple(left_out),
        controls=controls,
        recognition=None if context.whole_radiographs else _recognition(scorer, split, context.weights),
        calibration=_calibration(scorer.calibration, split, labels),
        effective_rank=split.rank,
        embedding_dim=split.embeddings.diagnosis.shape[-1],
        prompts=_prompts(context),
        parts=parts,
        failures=split.failures,
        notes=tuple(notes),
        problems=context.problems,
    )


def _unused(context: Context, table: LabelTable) -> list[str]:
    """Labels of the judged studies that no organ answers, and studies without labels."""
    split, abnormalities = context.judged, context.scorer.dictionaries.abnormalities
    studies = list(dict.fromkeys(instance.study_id for instance in split.instances))
    seen = {(instance.study_id, instance.organ) for instance in split.instances}
    values = table.of_studies(studies)
    notes = []
    without = sum(study not in table.rows for study in studies)
    if without:
        notes.append(f"{without} of {len(studies)} studies of the split have no row in the label table.")
    for number, pair in enumerate(pairs_of(table, abnormalities)):
        lacking = [study for study, value in zip(studies, values[:, number], strict=True)
                   if pair is not None and np.isfinite(value) and (study, pair[0]) not in seen]  # fmt: skip
        if lacking:
            notes.append(f"{table.columns[number].heading}: {len(lacking)} labelled studies lack the organ.")
    return notes


def _threshold_source(context: Context) -> str:
    if context.config.threshold in ON_TEST:
        what = "nearest to the ROC corner" if context.config.threshold == "test_roc_corner" else "best F1"
        return f"{what} on the judged labels themselves: flatters, for comparison with public scripts"
    return "best F1 on the split val" if context.validation else "none: the store has no split val"


def _prompts(context: Context) -> str:
    config = context.config
    words = "the dictionary's prompt ensembles"
    if config.wording != "dictionary":
        words = f"single prompts in the wording '{config.wording}'"
    if not context.scorer.own:
        return words
    own = sum(pair in context.scorer.own for pair in context.labels)
    return f"own prompts for {own} of {len(context.labels)} pairs, for the rest {words}"


def _controls(context: Context) -> tuple[ControlResult, ...]:
    split, validation, labels = context.judged, context.validation, context.labels
    found = []
    if split.mask_only is not None:
        text = "The same model, shown crops in which the organ has its mean HU throughout and everything else is air."
        found.append(context.compared(MASK_ONLY, text, {pair: split.mask_only[pair] for pair in labels}))
    if validation and not context.whole_radiographs:
        scores, unfitted = volume_scores(validation.instances, validation.labels, split.instances, labels)
        name, what = (VOLUME_ONLY, "volume") if context.radiographs is False else (BOX_ONLY, "area of the organ's box")
        text = f"A logistic score of log {what} and its square, fitted for each pair on the validation split."
        found.append(context.compared(name, text, scores))
        if unfitted:
            context.notes.append(f"{name}: {unfitted} pairs could not be fitted on the split val and count as 0.5.")
    return tuple(found)


def _recognition(scorer: Scorer, split: EncodedSplit, weights: Float[np.ndarray, "draws patients"]) -> Recognition:
    organs = scorer.dictionaries.organs
    names = scorer.release.organs
    mirror = {name: organs.mirror(name) for name in names if organs.mirror(name) != name}
    said = scorer.recognise(split.embeddings.anatomy)
    return recognition(said, split.instances, names, mirror, split.patients, weights)


def _calibration(calibration: Calibration, split: EncodedSplit, labels: Labels) -> CalibrationResult:
    truth = np.concatenate([labels[pair].labels for pair in sorted(labels)])
    differences = np.concatenate([split.differences[pair] for pair in sorted(labels)])
    learned = Calibration(scale=calibration.learned_scale).probabilities(differences)
    fitted = calibration.probabilities(differences) if calibration.fitted_on else None
    return CalibrationResult(
        ece_learned=expected_calibration_error(truth, learned),
        ece_fitted=None if fitted is None else expected_calibration_error(truth, fitted),
    )
