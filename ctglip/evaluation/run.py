"""``evaluate``: a run and a store become ``results.json``, ``scores.parquet`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.data.samples import OrganInstance
from ctglip.errors import ConfigError, CTGLIPError
from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.composed import composed_prompts
from ctglip.evaluation.context import Context, build_context
from ctglip.evaluation.controls import controls_of
from ctglip.evaluation.encoded import SplitEncoder, Stage, effective_rank
from ctglip.evaluation.labels import check_studies, pairs_of
from ctglip.evaluation.metrics import TEST_SPLIT_RULES, expected_calibration_error
from ctglip.evaluation.page import evaluation_page
from ctglip.evaluation.parts import run_parts
from ctglip.evaluation.parts.protocol import load_protocol, read_protocol_labels
from ctglip.evaluation.results import CalibrationResult, Results, tables_of
from ctglip.evaluation.settings import EvaluateConfig, ThresholdRule
from ctglip.evaluation.zero_shot import Recognition, recognition
from ctglip.files import atomic_path, file_checksum, write_json, write_text
from ctglip.inference.feature_cache import check_recipe
from ctglip.inference.prompt_file import read_prompts
from ctglip.inference.scoring import Calibration, Scorer, dictionaries_of
from ctglip.labels import LabelTable
from ctglip.modality import MODALITIES
from ctglip.models.device import resolve_device
from ctglip.models.release import Release, load_release
from ctglip.pages.report import render
from ctglip.store.tables import Store
from ctglip.types import Progress

_LISTED = 10


def evaluate(
    run: Path,
    store: Path,
    out: Path,
    split: str = "test",
    labels: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Results:
    """Evaluate a model on one split of a store.

    Args:
        run: a run, or its ``model/`` folder.
        store: the store; its recipe must be the model's.
        out: folder for ``results.json``, ``scores.parquet`` and ``report.html``.
        split: which patients; thresholds come from the split ``val``.
        labels: label table; without it the findings of the store's reports are the labels.
        config: how it is done.
        progress: called with (done, of) as a stage goes on.
        stage: called with the name of each stage that begins.

    Raises:
        ConfigError: settings of radiographs for a model of scans; a part or protocol that does not exist.
        ModelError: no model, or one made for another recipe.
        StoreError: no store, or an empty split.
        CohortError: faults of the label table, or studies that the store does not have.
        CTGLIPError: no (organ, abnormality) has enough positives and negatives.
    """
    release, opened = load_release(run), Store.open(store)
    context = answer_split(release, opened, split, labels, config or EvaluateConfig(), progress, stage)
    results = results_of(context, label_source(labels))
    context.begin("Tables and page")
    write_json(out / "results.json", results.to_json())
    with atomic_path(out / "scores.parquet") as temporary:
        score_table(context).write_parquet(temporary)
    write_text(out / "report.html", render(evaluation_page(results, context)))
    return results


def label_source(labels: Path | None) -> str:
    """Where labels come from, in words."""
    return f"label table {labels.name}" if labels else "findings of the store's reports"


def answer_split(
    release: Release,
    store: Store,
    split: str,
    labels: Path | None,
    config: EvaluateConfig,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Context:
    """A model's answers about a split. Arguments and errors as in ``evaluate``."""
    release.check_aligned()
    check_recipe(store, release)
    for name in MODALITIES.keys() - {release.modality} & EvaluateConfig.model_fields.keys():
        if getattr(config, name) != EvaluateConfig.model_fields[name].default:
            trained = MODALITIES[release.modality].images
            raise ConfigError(
                f"The settings {name}.* are for {MODALITIES[name].images}; this model was trained on {trained}.",
                fix="Leave them.",
            )
    if stage is not None:
        stage("Prompts")
    release.model.to(resolve_device(config.device))
    prompts = read_prompts(Path(config.prompts), dictionaries_of(release)) if config.prompts else {}
    if config.cxr.composed:
        prompts = composed_prompts(dictionaries_of(release), config.cxr.composed, config.seed) | prompts
    scorer = Scorer(release, prompts, config.wording, config.cxr.read == "observations")
    encoder = SplitEncoder(store=store, scorer=scorer, config=config, progress=progress, stage=stage)
    encoder.embed_texts([text for sides in prompts.values() for side in sides for text in side])
    problems = ()
    if labels is not None:
        protocol = load_protocol(config.protocol) if config.protocol else None
        encoder.table = read_protocol_labels(labels, dictionaries_of(release), protocol, config.ignore)
        problems = check_studies(encoder.table, store, split)
    evaluated = encoder.encode(split, config.controls, Path(config.studies) if config.studies else None)
    known = {pair: one for pair, one in evaluated.labels.items() if one.both(config.min_positives)}
    if not known:
        raise CTGLIPError(
            f"No (organ, abnormality) has {config.min_positives} positives and negatives in the split {split!r}.",
            code="nothing_to_evaluate",
            fix="Give more patients or labels, or lower min_positives.",
        )
    validation = encoder.encode_if_any("val") if split != "val" else None
    return build_context(encoder, evaluated, validation, known, problems)


def results_of(context: Context, source: str) -> Results:
    """Controls, parts, recognition and calibration: everything that is reported.

    Args:
        context: the evaluation under way.
        source: where labels come from, in words.
    """
    split, notes = context.split, context.notes
    f1 = [pair.at.f1 for pair in context.pairs if pair.at and pair.at.f1 is not None]
    context.begin("Controls")
    controls = controls_of(context) if context.config.controls else ()
    left_out = sorted(":".join(pair) for pair in split.labels if pair not in context.labels)
    if left_out:
        names = f": {', '.join(left_out)}" if context.table is not None or len(left_out) <= _LISTED else ""
        notes.append(f"{len(left_out)} pairs with too few positives or negatives are not evaluated{names}.")
    if context.table is not None:
        notes += _unused_labels(context, context.table)
    if len(context.thresholds) < len(context.labels):
        missing = len(context.labels) - len(context.thresholds)
        notes.append(f"{missing} pairs have no threshold: the validation split lacks an answer.")
    parts = run_parts(context)
    context.begin("Recognition and calibration")
    return Results(
        split=split.name,
        label_source=source,
        threshold_source=threshold_source(context.config.threshold, context.validation is not None),
        studies=len(split.patient_of),
        patients=split.patient_count,
        crops=len(split.instances),
        macro_auroc=interval_of(context.macro),
        macro_f1=float(np.mean(f1)) if f1 else None,
        pairs=tuple(context.pairs),
        left_out=tuple(left_out),
        controls=controls,
        recognition=None if context.one_vector_per_study else _recognition(context),
        calibration=_calibration(context),
        effective_rank=effective_rank(split.embeddings.diagnosis),
        embedding_dim=split.embeddings.diagnosis.shape[-1],
        prompts=_prompt_source(context),
        parts=parts,
        failures=split.failures,
        notes=tuple(notes),
        problems=context.problems,
        model=_weights(context.scorer.release),
        tables=tables_of(parts, context.scorer.dictionaries),
    )


def _weights(release: Release) -> str:
    """The checksum of a model's weights."""
    return "" if release.folder is None else file_checksum(release.folder / "model.safetensors")


def _unused_labels(context: Context, table: LabelTable) -> list[str]:
    """Labels of the evaluated studies that no organ answers, and studies without labels."""
    studies = list(context.split.patient_of)
    found = {(instance.study_id, instance.organ) for instance in context.split.instances}
    values = table.of_studies(studies)
    notes = []
    without = sum(study not in table.rows for study in studies)
    if without:
        notes.append(f"{without} of {len(studies)} studies of the split have no row in the label table.")
    for number, pair in enumerate(pairs_of(table, context.scorer.dictionaries.abnormalities)):
        lacking = [study for study, value in zip(studies, values[:, number], strict=True)
                   if pair is not None and np.isfinite(value) and (study, pair[0]) not in found]  # fmt: skip
        if lacking:
            notes.append(f"{table.columns[number].heading}: {len(lacking)} labelled studies lack the organ.")
    return notes


def threshold_source(rule: ThresholdRule, validated: bool) -> str:
    """Where thresholds come from, in words. ``validated``: there is a split to choose them on."""
    if rule in TEST_SPLIT_RULES:
        what = "nearest to the ROC corner" if rule == "test_roc_corner" else "best F1"
        return f"{what} on the evaluated labels themselves: flatters, for comparison with public scripts"
    return "best F1 on the split val" if validated else "none: the store has no split val"


def _prompt_source(context: Context) -> str:
    config, prompts = context.config, context.scorer.custom_prompts
    words = "the dictionary's prompt ensembles"
    if config.wording != "dictionary":
        words = f"single prompts in the wording '{config.wording}'"
    if not prompts:
        return words
    count = len(prompts.keys() & context.labels.keys())
    return f"own prompts for {count} of {len(context.labels)} pairs, for the rest {words}"


def _recognition(context: Context) -> Recognition:
    split, scorer = context.split, context.scorer
    organs, names = scorer.dictionaries.organs, scorer.release.organs
    mirror = {name: organs.mirror(name) for name in names if organs.mirror(name) != name}
    nearest = scorer.recognise(split.embeddings.anatomy)
    return recognition(nearest, split.instances, names, mirror, split.patients, context.weights)


def _calibration(context: Context) -> CalibrationResult:
    calibration, pairs = context.scorer.calibration, sorted(context.labels)
    truth = np.concatenate([context.labels[pair].labels for pair in pairs])
    differences = np.concatenate([context.split.differences[pair] for pair in pairs])
    learned = Calibration(scale=calibration.learned_scale).probabilities(differences)
    fitted = calibration.probabilities(differences) if calibration.fitted_on else None
    return CalibrationResult(
        ece_learned=expected_calibration_error(truth, learned),
        ece_fitted=None if fitted is None else expected_calibration_error(truth, fitted),
    )


def score_table(context: Context) -> pl.DataFrame:
    """One row for each answer: study_id, patient, organ, abnormality, label, difference, probability, mask_only."""
    split, frames = context.split, []
    for (organ, name), known in sorted(context.labels.items()):
        instances = [split.instances[row] for row in known.rows]
        mask_only = split.mask_only[organ, name] if split.mask_only is not None else [None] * len(instances)
        frames.append(
            pl.DataFrame(
                {
                    "study_id": [instance.study_id for instance in instances],
                    "patient": split.patients[known.rows],
                    "organ": organ,
                    "abnormality": name,
                    "label": known.labels,
                    "difference": split.differences[organ, name],
                    "probability": context.scores[organ, name],
                    "mask_only_difference": pl.Series(mask_only, dtype=pl.Float64),
                    "volume_ml": pl.Series(_measured(instances, "volume_ml"), dtype=pl.Float64),
                    "touches_border": pl.Series(_measured(instances, "touches_border"), dtype=pl.Boolean),
                }
            )
        )
    return pl.concat(frames)


def _measured(instances: Sequence[OrganInstance], name: str) -> list[Any]:
    """A column of the organ table; None for organs of radiographs, which nobody measured."""
    return [getattr(instance.row, name, None) for instance in instances]
