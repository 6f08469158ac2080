"""One split as the protocol needs it: crops, what is true of them, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ctglip.data.cache import OrganInstance, cut_study
from ctglip.data.crops import CropSettings
from ctglip.data.organs import findings_by_study, studies_of
from ctglip.data.stored import CropFiles
from ctglip.errors import StoreError
from ctglip.evaluation.labels import Labels, labels_from_findings, labels_from_table, pairs_of
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.cxr_encoding import visible_on_radiographs
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.feature_cache import (
    FOLDER,
    MASK_ONLY,
    OBSERVATIONS,
    PLAIN,
    WHOLE_RADIOGRAPH,
    OrganFeatures,
    View,
    organ_features_of,
)
from ctglip.inference.scoring import Scorer
from ctglip.labels import LabelTable
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.vocabulary.organs import load_organs

Progress = Callable[[int, int], None]
Stage = Callable[[str], None]
"""Called with what begins, in a few words; ``Progress`` then counts in it."""


def begin(stage: Stage | None, name: str) -> None:
    """Say that a stage begins, to whoever wants to know."""
    if stage is not None:
        stage(name)


@dataclass(frozen=True)
class EncodedSplit:
    """The organs of one split.

    Attributes:
        split: its name.
        names: the organs looked for.
        places: the organs found, study by study.
        failures: studies that could not be read.
        labels: what is known of them.
        patients: index of the patient of each organ; ``patient_count`` of them.
        embeddings: of the organs as they are.
        differences: for each pair, similarity with its positive minus its negative prompts, over the pair's rows.
        mask_only: the same of crops that show the mask and the organ's mean HU alone, where controls are wanted.
        rank: effective rank of the diagnosis embeddings.
    """

    split: str
    names: tuple[str, ...]
    instances: tuple[OrganInstance, ...]
    failures: tuple[str, ...]
    labels: Labels
    patients: Int[np.ndarray, " rows"]
    patient_count: int
    embeddings: OrganEmbeddings
    differences: Scores
    mask_only: Scores | None
    rank: float


def encode_split(
    store: Store,
    scorer: Scorer,
    split: str,
    table: LabelTable | None,
    config: EvaluateConfig,
    controls: bool = False,
    progress: Progress | None = None,
    listed: str | None = None,
) -> EncodedSplit:
    """Encode every trained or labelled organ of a split, each once and for all (``inference.feature_cache``).

    Args:
        table: the label table; None takes the store's findings.
        controls: also encode the mask-only crops, of a model that reads crops.
        listed: as ``EvaluateConfig.studies``.
        progress: called with (organs encoded, organs).

    Raises:
        StoreError: the split is empty, or holds no such organ.
    """
    release, dictionaries = scorer.release, scorer.dictionaries
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    study_ids = studies_of(store, split) if listed is None else listed_studies(store, split, Path(listed))
    wanted = _wanted(scorer, table)
    names = [name for name in organs.names if name in wanted]
    seen = _features(store, release, study_ids, names, reading_view(release, config), config, progress)
    if not len(seen):
        raise StoreError(
            f"The split {split!r} of {store.path} holds none of the model's organs.",
            code="no_organs",
            fix="" if release.cxr is None else "Its radiographs have no boxes of them: try --set cxr.read=whole.",
        )
    if table is not None:
        labels = labels_from_table(table, seen.instances, abnormalities)
    else:
        findings = findings_by_study(store, set(study_ids))
        labels = labels_from_findings(findings, seen.instances, organs, abnormalities, config.unmentioned_as_negative)
    patients, count = _patients(store, [instance.study_id for instance in seen.instances])
    found = EncodedSplit(
        split=split,
        names=tuple(names),
        instances=seen.instances,
        failures=tuple(failure.study_id for failure in seen.failures),
        labels=labels,
        patients=patients,
        patient_count=count,
        embeddings=seen.embeddings,
        differences=differences_of(scorer, seen.embeddings, labels),
        mask_only=None,
        rank=effective_rank(seen.embeddings.diagnosis),
    )
    if not controls or not release.reads_crops:
        return found
    masks = seen_as(store, release, found, MASK_ONLY, config, progress)
    return replace(found, mask_only=differences_of(scorer, masks, labels))


def listed_studies(store: Store, split: str, path: Path) -> list[str]:
    """The studies of a split that a file lists, one a line.

    Raises:
        StoreError: code ``not_in_split``: a listed study is unknown, or its patient is in another split.
    """
    listed = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()))
    here = set(studies_of(store, split))
    other = [name for name in listed if name not in here]
    if other or not listed:
        raise StoreError(
            f"{len(other)} of the {len(listed)} studies that {path} lists are not in the split {split!r}"
            f"{f', for example {other[0]!r}' if other else ''}.",
            code="not_in_split",
            fix="List studies of this split; the cohort's column `split` decides which those are, patient by patient.",
        )
    return listed


def reading_view(release: Release, config: EvaluateConfig) -> View:
    """How organs are shown to a model: as they are, or as a whole radiograph or its observations if the settings say
    so."""
    read = config.cxr.read if release.cxr is not None else "organs"
    if read == "observations":
        return OBSERVATIONS
    return WHOLE_RADIOGRAPH if read == "whole" and release.model.settings.grounding != "none" else PLAIN


def _wanted(scorer: Scorer, table: LabelTable | None) -> set[str]:
    """The organs that are looked for: those of training, and those that the label table names."""
    release, organs = scorer.release, scorer.dictionaries.organs
    trained = release.provenance.get("trained", organs.names)
    asked = pairs_of(table, scorer.dictionaries.abnormalities) if table is not None else ()
    named = {pair[0] for pair in asked if pair is not None}
    return named | (set(trained) if release.cxr is None else set(trained) or set(visible_on_radiographs(organs)))


def seen_as(
    store: Store,
    release: Release,
    split: EncodedSplit,
    view: View,
    config: EvaluateConfig,
    progress: Progress | None = None,
) -> OrganEmbeddings:
    """The organs of a split, shown to the model in another way.

    Raises:
        StoreError: a study that was encoded before cannot be read any more.
    """
    study_ids = list(dict.fromkeys(instance.study_id for instance in split.instances))
    found = _features(store, release, study_ids, split.names, view, config, progress)
    if found.instances != split.instances:
        raise StoreError(
            f"{len(split.instances) - len(found.instances)} organs of {store.path} were encoded before and cannot be "
            f"now.",
            code="damaged_store",
            fix="Run: ctglip store verify STORE --repair",
        )
    return found.embeddings


def cache_folder(store: Store, config: EvaluateConfig) -> Path:
    """Where encoded organs and texts are kept."""
    return Path(config.cache) if config.cache else store.path / FOLDER


def _features(
    store: Store,
    release: Release,
    study_ids: Sequence[str],
    names: Sequence[str],
    view: View,
    config: EvaluateConfig,
    progress: Progress | None,
) -> OrganFeatures:
    folder = cache_folder(store, config)
    if config.crops and release.reads_crops and view.cut is cut_study:
        organs = load_organs(release.organ_dictionary / "organs.yaml")
        files = CropFiles(Path(config.crops), store, CropSettings.model_validate(release.crops), organs)
        view = replace(view, cut=files.cut_study)
    return organ_features_of(
        store, release, study_ids, names,
        folder=folder, view=view, batch=config.batch, threads=config.threads, progress=progress,
    )  # fmt: skip


def differences_of(scorer: Scorer, embeddings: OrganEmbeddings, labels: Labels) -> Scores:
    """Each pair's differences of similarities, over the rows where its label is known."""
    pairs = sorted(labels)
    found = scorer.differences(embeddings.diagnosis, pairs)
    return {pair: found[labels[pair].rows, column] for column, pair in enumerate(pairs)}


def _patients(store: Store, study_ids: Sequence[str]) -> tuple[Int[np.ndarray, " rows"], int]:
    patient = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    names, index = np.unique([patient[study_id] for study_id in study_ids], return_inverse=True)
    return index, len(names)


def effective_rank(vectors: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values of the centred vectors (Roy and Vetterli 2007)."""
    vectors = vectors.reshape(-1, vectors.shape[-1])
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()))
