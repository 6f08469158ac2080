"""One split as the protocol needs it: crops, what is true of them, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ctglip.data.organs import studies_of
from ctglip.data.samples import OrganInstance
from ctglip.errors import StoreError
from ctglip.evaluation.labels import Labels, labels_from_findings, labels_from_table, pairs_of
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Scores
from ctglip.features.text_bank import TextBank
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.feature_cache import FOLDER, MASK_ONLY, VIEWS, FeatureView, OrganFeatures, organ_features_of
from ctglip.inference.model_readers import reader_of
from ctglip.inference.readers import OrganReader
from ctglip.inference.scoring import Scorer
from ctglip.labels import LabelTable
from ctglip.modality import MODALITIES
from ctglip.models.release import Release
from ctglip.models.text import TextEncoder
from ctglip.places import cache_of
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import Progress

Stage = Callable[[str], None]
"""Called with what begins, in a few words; ``Progress`` then counts in it."""


@dataclass(frozen=True)
class EncodedSplit:
    """The organs of one split.

    Attributes:
        name: of the split.
        organs: names of the organs looked for.
        instances: the organs found, study by study.
        failures: studies that could not be read.
        labels: what is known of them.
        patients: index of the patient of each organ; ``patient_count`` of them.
        embeddings: of the organs as they are.
        differences: for each pair, similarity with its positive minus its negative prompts, over the pair's rows.
        mask_only: the same of crops that show the mask and the organ's mean HU alone, where controls are evaluated.
    """

    name: str
    organs: tuple[str, ...]
    instances: tuple[OrganInstance, ...]
    failures: tuple[str, ...]
    labels: Labels
    patients: Int[np.ndarray, " rows"]
    patient_count: int
    embeddings: OrganEmbeddings
    differences: Scores
    mask_only: Scores | None = None

    @cached_property
    def patient_of(self) -> dict[str, int]:
        """Each study and the index of its patient, in the order of the rows."""
        return {instance.study_id: int(n) for instance, n in zip(self.instances, self.patients, strict=True)}


@dataclass
class _LazyTextEncoder:
    """A release's text encoder, loaded when a text is not yet in the bank (loading takes seconds)."""

    release: Release

    @property
    def hash(self) -> str:
        """That of the release's text encoder."""
        return self.release.text_hash

    @property
    def dim(self) -> int:
        """Width of a text's embedding."""
        return self.release.model.inputs.text_dim

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Embeddings ``[texts, dim]``; the first call loads the encoder."""
        return self.release.encoder().encode(list(texts), progress=progress)


@dataclass(kw_only=True)
class SplitEncoder:
    """Encodes splits of a store with one model, each organ and each text once and for all.

    Attributes:
        store, scorer, config: as ``run.evaluate`` was given them.
        table: the label table; None takes the store's findings.
        progress: called with (done, of) as a stage goes on; stage: with the name of each that begins.
        notes: what the reader must bear in mind.
    """

    store: Store
    scorer: Scorer
    config: EvaluateConfig
    table: LabelTable | None = None
    progress: Progress | None = None
    stage: Stage | None = None
    notes: list[str] = field(default_factory=list)

    def begin(self, name: str) -> None:
        """Say that a stage begins."""
        if self.stage is not None:
            self.stage(name)

    @property
    def release(self) -> Release:
        """The model."""
        return self.scorer.release

    @cached_property
    def reader(self) -> OrganReader[Any]:
        """How the model reads organs."""
        return reader_of(self.release, self.config.cxr.read)

    @property
    def cache_folder(self) -> Path:
        """Where encoded organs and texts are kept."""
        return Path(self.config.cache) if self.config.cache else cache_of(self.store.path, FOLDER)

    def embed_texts(self, texts: Sequence[str]) -> None:
        """Embed texts once and for all, in a text bank next to the cached features."""
        release = self.release
        missing = [text for text in dict.fromkeys(texts) if text not in release.prompts]
        if not missing:
            return
        bank = TextBank(self.cache_folder / "texts", cast(TextEncoder, _LazyTextEncoder(release)))
        vectors = bank.vectors(bank.ids(missing, self.progress))
        too_long = release.encoder().describe_long(missing, "texts")
        release.prompts |= dict(zip(missing, vectors, strict=True))
        if too_long and too_long not in self.notes:
            self.notes.append(too_long)

    def encode(self, name: str, controls: bool = False, study_list: Path | None = None) -> EncodedSplit:
        """Encode every trained or labelled organ of a split.

        Args:
            controls: also encode the mask-only crops, of a model that reads crops.
            study_list: as ``EvaluateConfig.studies``.

        Raises:
            StoreError: the split is empty, or holds no such organ.
        """
        self.begin(f"Encoding the split {name}")
        store, release, dictionaries = self.store, self.release, self.scorer.dictionaries
        study_ids = studies_of(store, name) if study_list is None else listed_studies(store, name, study_list)
        sought = self._organs_to_encode()
        organs = [organ for organ in dictionaries.organs.names if organ in sought]
        features = self._features(study_ids, organs, VIEWS[self.config.cxr.read])
        instances = features.instances
        if not instances:
            raise StoreError(
                f"The split {name!r} of {store.path} holds none of the model's organs.",
                code="no_organs",
                fix=MODALITIES[release.modality].without_organs,
            )
        if self.table is not None:
            labels = labels_from_table(self.table, instances, dictionaries.abnormalities)
        else:
            findings = findings_by_study(store, set(study_ids))
            labels = labels_from_findings(
                findings,
                instances,
                dictionaries.organs,
                dictionaries.abnormalities,
                self.config.unmentioned_as_negative,
            )
        patient = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
        patients, rows = np.unique([patient[instance.study_id] for instance in instances], return_inverse=True)
        split = EncodedSplit(
            name=name,
            organs=tuple(organs),
            instances=instances,
            failures=tuple(failure.study_id for failure in features.failures),
            labels=labels,
            patients=rows,
            patient_count=len(patients),
            embeddings=features.embeddings,
            differences=differences_of(self.scorer, features.embeddings, labels),
        )
        if not controls or not release.reads_crops:
            return split
        masks = self.encode_view(split, MASK_ONLY)
        return replace(split, mask_only=differences_of(self.scorer, masks, labels))

    def _organs_to_encode(self) -> set[str]:
        """The organs of training, and those that the label table names."""
        dictionaries = self.scorer.dictionaries
        trained = set(self.release.provenance.get("trained", dictionaries.organs.names)) or set(self.reader.known)
        pairs = pairs_of(self.table, dictionaries.abnormalities) if self.table is not None else ()
        return trained | {pair[0] for pair in pairs if pair is not None}

    def encode_if_any(self, name: str) -> EncodedSplit | None:
        """A split, encoded; None where the store has no such split, or none of the organs in it."""
        try:
            return self.encode(name)
        except StoreError as error:
            if error.code in ("empty_split", "no_organs"):
                return None
            raise

    def encode_view(self, split: EncodedSplit, view: FeatureView) -> OrganEmbeddings:
        """The organs of a split, shown to the model in another way.

        Raises:
            StoreError: a study that was encoded before cannot be read any more.
        """
        study_ids = list(dict.fromkeys(instance.study_id for instance in split.instances))
        features = self._features(study_ids, split.organs, view)
        if features.instances != split.instances:
            raise StoreError(
                f"{len(split.instances) - len(features.instances)} organs of {self.store.path} were encoded before and "
                "cannot be now.",
                code="damaged_store",
                fix="Run: ctglip store verify STORE --repair",
            )
        return features.embeddings

    def _features(self, study_ids: Sequence[str], organs: Sequence[str], view: FeatureView) -> OrganFeatures:
        config = self.config
        return organ_features_of(
            self.store, self.release, study_ids, organs, folder=self.cache_folder, view=view, batch=config.batch,
            crop_folder=Path(config.crops) if config.crops else None, threads=config.threads, progress=self.progress,
        )  # fmt: skip


def listed_studies(store: Store, split: str, path: Path) -> list[str]:
    """The studies of a split that a file lists, one a line.

    Raises:
        StoreError: code ``not_in_split``: a listed study is unknown, or its patient is in another split.
    """
    listed = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()))
    in_split = set(studies_of(store, split))
    other = [name for name in listed if name not in in_split]
    if other or not listed:
        raise StoreError(
            f"{len(other)} of the {len(listed)} studies that {path} lists are not in the split {split!r}"
            f"{f', for example {other[0]!r}' if other else ''}.",
            code="not_in_split",
            fix="List studies of this split; the cohort's column `split` decides which those are, patient by patient.",
        )
    return listed


def differences_of(scorer: Scorer, embeddings: OrganEmbeddings, labels: Labels) -> Scores:
    """Each pair's differences of similarities, over the rows where its label is known."""
    pairs = sorted(labels)
    found = scorer.differences(embeddings.diagnosis, pairs)
    return {pair: found[labels[pair].rows, column] for column, pair in enumerate(pairs)}


def effective_rank(vectors: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values of the centred vectors (Roy and Vetterli 2007)."""
    vectors = vectors.reshape(-1, vectors.shape[-1])
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()))
