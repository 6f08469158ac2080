"""``evaluate``: a run and a store become ``results.json``, ``scores.parquet`` and ``report.html``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from ctglip.errors import CTGLIPError, StoreError
from ctglip.evaluation.composed import composed_prompts
from ctglip.evaluation.context import Context, remember
from ctglip.evaluation.encoded import EncodedSplit, Progress, Stage, begin, encode_split
from ctglip.evaluation.judging import context_of, judged_pairs, results_of
from ctglip.evaluation.labels import Labels, check_studies
from ctglip.evaluation.protocol import load_protocol
from ctglip.evaluation.report import evaluation_page
from ctglip.evaluation.results import Results
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.files import atomic_path, write_json, write_text
from ctglip.inference.feature_cache import check_recipe
from ctglip.inference.prompt_file import read_prompts
from ctglip.inference.scoring import Calibration, Scorer, dictionaries_of
from ctglip.labels import LabelTable, read_labels
from ctglip.models.release import Release, load_release
from ctglip.pages.report import render
from ctglip.store.tables import Store
from ctglip.table_files import read_table


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
    """Judge a model on one split of a store.

    Args:
        run: a run, or its ``model/`` folder.
        store: the store; its volume recipe must be the model's.
        out: folder for ``results.json``, ``scores.parquet`` and ``report.html``.
        split: which patients are judged; thresholds come from the split ``val``.
        labels: label table; without it the findings of the store's reports are the labels.
        config: how it is done.
        progress: called with (done, of) as a stage goes on.
        stage: called with the name of each stage that begins.

    Raises:
        ModelError: no model, or one made for another recipe.
        StoreError: no store, or an empty split.
        CohortError: faults of the label table, or studies that the store does not have.
        CTGLIPError: no (organ, abnormality) has enough positives and negatives.
    """
    config = config or EvaluateConfig()
    release, opened = load_release(run), Store.open(store)
    context = asked(release, opened, split, labels, config, progress, stage)
    results = results_of(context, label_source(labels))
    context.begin("Tables and page")
    write_json(out / "results.json", results.to_json())
    with atomic_path(out / "scores.parquet") as temporary:
        score_table(context.judged, context.labels, context.scorer.calibration).write_parquet(temporary)
    write_text(out / "report.html", render(evaluation_page(results, context)))
    return results


def label_source(labels: Path | None) -> str:
    """Where labels come from, in words."""
    return f"label table {labels.name}" if labels else "findings of the store's reports"


def asked(
    release: Release,
    store: Store,
    split: str,
    labels: Path | None,
    config: EvaluateConfig,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Context:
    """A model's answers about a split, ready to be judged. Arguments and errors as in ``evaluate``."""
    release.check_aligned()
    check_recipe(store, release)
    begin(stage, "Prompts")
    gpu = torch.cuda.is_available() and config.device != "cpu"
    release.model.to("cuda" if gpu else "cpu")
    own = read_prompts(Path(config.prompts), dictionaries_of(release)) if config.prompts else {}
    if config.cxr.composed and release.cxr is not None:
        own = composed_prompts(dictionaries_of(release), config.cxr.composed, config.cxr.seed) | own
    scorer = Scorer(release, own, config.wording, release.cxr is not None and config.cxr.read == "observations")
    words = [text for sides in own.values() for side in sides for text in side]
    said = remember(release, words, store, config, progress)
    table, problems = None, ()
    if labels is not None:
        table = label_table(labels, release, config)
        problems = check_studies(table, store, split)
    begin(stage, f"Encoding the split {split}")
    judged = encode_split(store, scorer, split, table, config, config.controls, progress, config.studies)
    known = judged_pairs(judged, config.min_positives)
    if not known:
        raise CTGLIPError(
            f"No (organ, abnormality) has {config.min_positives} positives and negatives in the split {split!r}.",
            code="nothing_to_judge",
            fix="Give more patients or labels, or lower min_positives.",
        )
    begin(stage, "Encoding the split val")
    validation = _validation(store, scorer, split, table, config, progress)
    context = context_of(store, scorer, judged, validation, known, config, table, progress, stage)
    return replace(context, problems=problems, notes=[said] if said else [])


def label_table(path: Path, release: Release, config: EvaluateConfig) -> LabelTable:
    """A label table as an evaluation reads it: a column of a public protocol may have the protocol's own name."""
    dictionaries = dictionaries_of(release)
    findings = load_protocol(config.protocol).findings if config.protocol else ()
    named = read_table(path).columns
    explained = {name: () for name in findings if name in named and dictionaries.abnormalities.find(name) is None}
    return read_labels(path, dictionaries.organs, dictionaries.abnormalities, explained, config.ignore)


def _validation(
    store: Store,
    scorer: Scorer,
    split: str,
    table: LabelTable | None,
    config: EvaluateConfig,
    progress: Progress | None,
) -> EncodedSplit | None:
    """The validation split; None where it is judged itself or is not there."""
    if split == "val":
        return None
    try:
        return encode_split(store, scorer, "val", table, config, progress=progress)
    except StoreError as error:
        if error.code in ("empty_split", "no_organs"):
            return None
        raise


def score_table(split: EncodedSplit, labels: Labels, calibration: Calibration) -> pl.DataFrame:
    """One row for each answer: study_id, patient, organ, abnormality, label, difference, probability, mask_only."""
    frames = []
    for (organ, name), known in sorted(labels.items()):
        differences = split.differences[organ, name]
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
                    "difference": differences,
                    "probability": calibration.probabilities(differences),
                    "mask_only_difference": pl.Series(mask_only, dtype=pl.Float64),
                    "volume_ml": [instance.row.volume_ml for instance in instances],
                    "touches_border": [instance.row.touches_border for instance in instances],
                }
            )
        )
    return pl.concat(frames)
