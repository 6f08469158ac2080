"""What every part of an evaluation may look at, and how a part asks for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.encoded import (
    EncodedSplit,
    Progress,
    Stage,
    begin,
    cache_folder,
    differences_of,
    encode_split,
    seen_as,
)
from ctglip.evaluation.labels import Labels
from ctglip.evaluation.metrics import PairMetrics
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.evaluation.zero_shot import Scores, judge
from ctglip.features.text_bank import TextBank
from ctglip.inference.cxr_encoding import reading_of
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.feature_cache import View
from ctglip.inference.scoring import Pair, Scorer
from ctglip.labels import LabelTable
from ctglip.models.release import Release
from ctglip.models.text import TextEncoder
from ctglip.store.tables import Store


@dataclass
class _WhenNeeded:
    """A release's text encoder, loaded when a text is not yet in the bank (loading takes seconds)."""

    release: Release

    @property
    def hash(self) -> str:
        return self.release.text_hash

    @property
    def dim(self) -> int:
        return self.release.model.settings.text_dim

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        return self.release.encoder().encode(list(texts), progress=progress)


@dataclass
class Context:
    """One evaluation under way.

    Attributes:
        store, scorer, config, table: as ``run.evaluate`` was given them.
        judged: the split judged; validation: where thresholds come from, if the store has it.
        labels: the pairs judged.
        scores: probabilities of the judged pairs.
        thresholds: of the pairs that have one.
        weights: bootstrap draws of the judged patients.
        pairs: what was found of each pair.
        macro: draws of the macro AUROC.
        progress: called with (done, of) as a stage goes on; stage: with the name of each that begins.
        notes: what the reader must bear in mind; parts may add to it.
        problems: what of the label table could not be used.
    """

    store: Store
    scorer: Scorer
    config: EvaluateConfig
    table: LabelTable | None
    judged: EncodedSplit
    validation: EncodedSplit | None
    labels: Labels
    scores: Scores
    thresholds: Mapping[Pair, float]
    weights: Float[np.ndarray, "draws patients"]
    pairs: list[PairMetrics]
    macro: Float[np.ndarray, " draws"]
    progress: Progress | None = None
    stage: Stage | None = None
    notes: list[str] = field(default_factory=list)
    problems: tuple[str, ...] = ()

    @property
    def radiographs(self) -> bool:
        """Radiographs are judged, not scans."""
        return self.scorer.release.cxr is not None

    @property
    def whole_radiographs(self) -> bool:
        """Every organ is read from the whole radiograph, so that all organs of a radiograph look alike."""
        release = self.scorer.release
        read = reading_of(release.model, self.config.cxr.read) if self.radiographs else "box"
        return read in ("whole", "observations")

    def split(self, name: str) -> EncodedSplit | None:
        """Another split, encoded; None where the store has no such split."""
        known = {self.judged.split: self.judged, **({"val": self.validation} if self.validation else {})}
        if name in known:
            return known[name]
        self.begin(f"Encoding the split {name}")
        try:
            return encode_split(self.store, self.scorer, name, self.table, self.config, progress=self.progress)
        except StoreError as error:
            if error.code in ("empty_split", "no_organs"):
                return None
            raise

    def begin(self, name: str) -> None:
        """Say that a stage begins."""
        begin(self.stage, name)

    def seen_as(self, view: View) -> OrganEmbeddings:
        """The judged organs, shown to the model in another way."""
        return seen_as(self.store, self.scorer.release, self.judged, view, self.config, self.progress)

    def compared(self, name: str, explanation: str, scores: Scores) -> ControlResult:
        """The macro AUROC of other scores of the judged pairs beside the model's own, draw by draw."""
        labels = {pair: self.labels[pair] for pair in scores}
        pairs, own = judge(labels, scores, self.judged.patients, self.weights, {})
        macro = self.macro
        if len(labels) < len(self.labels):
            macro = judge(labels, self.scores, self.judged.patients, self.weights, {})[1]
        values = {f"{pair.organ}:{pair.abnormality}": pair.auroc.value for pair in pairs}
        return ControlResult(name, explanation, interval_of(own), interval_of(macro - own), values)

    def differences(self, embeddings: OrganEmbeddings) -> Scores:
        """Similarity differences of the judged pairs under other embeddings of the same organs."""
        return differences_of(self.scorer, embeddings, self.labels)

    def remember(self, texts: Sequence[str]) -> None:
        """Have texts embedded once and for all, in a text bank beside the cached features."""
        said = remember(self.scorer.release, texts, self.store, self.config, self.progress)
        if said and said not in self.notes:
            self.notes.append(said)


def remember(
    release: Release, texts: Sequence[str], store: Store, config: EvaluateConfig, progress: Progress | None = None
) -> str | None:
    """Have texts embedded once and for all, in a text bank beside a store's cached features.

    Returns:
        What becomes of those that are too long to be read at once; None where there are none.
    """
    missing = [text for text in dict.fromkeys(texts) if text not in release.prompts]
    if not missing:
        return None
    bank = TextBank(cache_folder(store, config) / "texts", cast(TextEncoder, _WhenNeeded(release)))
    vectors = bank.vectors(bank.ids(missing, progress))
    said = release.encoder().told_long(missing, "texts")
    release.prompts |= dict(zip(missing, vectors, strict=True))
    return said
