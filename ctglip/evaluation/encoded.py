"""One split as the protocol needs it: crops, what is true of them, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int

from ctglip.data.cache import CropCache, cut_places, places_of
from ctglip.data.crops import CropSettings
from ctglip.data.organs import findings_by_study, studies_of
from ctglip.errors import StoreError
from ctglip.evaluation.labels import Labels, labels_from_findings, labels_from_table
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.scoring import Scorer
from ctglip.store.tables import Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EncodedSplit:
    """The organs of one split.

    Attributes:
        split: its name.
        cache: crops, organ by organ.
        labels: what is known of them.
        patients: index of the patient of each crop; ``patient_count`` of them.
        embeddings: of the crops as they are.
        differences: for each pair, similarity with its positive minus its negative prompts, over the pair's rows.
        mask_only: the same of crops that show the mask and the organ's mean HU alone, where controls are wanted.
        rank: effective rank of the diagnosis embeddings.
    """

    split: str
    cache: CropCache
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
    table: pl.DataFrame | None,
    config: EvaluateConfig,
    controls: bool = False,
    progress: Progress | None = None,
) -> EncodedSplit:
    """Cut and encode every trained or labelled organ of a split, each once.

    Args:
        table: the label table; None takes the store's findings.
        controls: also encode the mask-only crops.
        progress: called with (crops encoded, crops), both encodings counted.

    Raises:
        StoreError: the split is empty, or holds no such organ.
    """
    release, dictionaries = scorer.release, scorer.dictionaries
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    settings = CropSettings.model_validate(release.crops)
    study_ids = studies_of(store, split)
    wanted = {column.partition(":")[0] for column in (table.columns if table is not None else ())}
    wanted |= set(release.provenance.get("trained", organs.names))
    places = places_of(store, study_ids, [name for name in organs.names if name in wanted], settings)
    if not places:
        raise StoreError(f"The split {split!r} of {store.path} holds none of the model's organs.", code="no_organs")
    cache = cut_places(store, places, settings, organs, config.threads)
    if table is not None:
        labels = labels_from_table(table, cache.places, organs, abnormalities)
    else:
        findings = findings_by_study(store, set(study_ids))
        labels = labels_from_findings(findings, cache.places, organs, abnormalities, config.silence_is_normal)
    total = len(cache) * (2 if controls else 1)

    def encode(crops: CropSettings, done: int) -> OrganEmbeddings:
        def report(n: int, _: int) -> None:
            if progress:
                progress(done + n, total)

        return encode_crops(release.model, cache, crops, config.batch, report)

    embeddings = encode(settings, 0)
    mask_only = None
    if controls:
        filled = encode(settings.model_copy(update={"fill": "organ_mean"}), len(cache))
        mask_only = differences_of(scorer, filled, labels)
    patients, count = _patients(store, [place.study_id for place in cache.places])
    return EncodedSplit(
        split, cache, labels, patients, count, embeddings, differences_of(scorer, embeddings, labels), mask_only,
        effective_rank(embeddings.diagnosis),
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
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()))
