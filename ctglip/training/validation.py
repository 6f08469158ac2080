"""Zero-shot answers on the validation split, judged by its reports' findings.

Every rank reads and encodes its share of the studies, and has what all of them encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ctglip.data.organ_crops import CacheSettings, CropFiles, folder_of, resolve
from ctglip.data.organs import CropDataSettings, studies_of
from ctglip.data.reader import check_damage
from ctglip.data.samples import OrganInstance
from ctglip.data.tokens import TokenDataSettings, open_tokens
from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import Question, macro_draws
from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.encoded import differences_of
from ctglip.evaluation.labels import Labels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.ct_readers import ScanOrganReader
from ctglip.inference.encoding import OrganEmbeddings, concatenated
from ctglip.inference.model_readers import reader_of
from ctglip.inference.readers import OrganReader, image_batches
from ctglip.inference.scoring import Calibration, Dictionaries, Scorer
from ctglip.models.release import Release
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.training.distributed import DistributedContext
from ctglip.training.pretrain_config import AnyDataSettings
from ctglip.types import Failure, Finding

_BATCH = 64
NEGATIVE_WEIGHTS = (1.0, 0.5, 0.0)
"""Weights of the negative prompts that are tried; the first of the best is taken."""


@dataclass(frozen=True)
class Validation:
    """The validation split, ready to be asked again and again, by all ranks together.

    Attributes:
        release: the model in training, with its prompts.
        instances: the organs that it is asked about.
        encode: what the model makes of them now.
        labels: what the reports say.
        studies: how many studies it has, and how many the split has.
        observe: the same radiographs by their observations, of models that have some.
    """

    release: Release
    instances: Sequence[OrganInstance]
    encode: Callable[[], OrganEmbeddings]
    labels: Labels
    studies: tuple[int, int]
    observe: Callable[[], OrganEmbeddings] | None = None

    def measure(self) -> dict[str, float]:
        """Macro AUROC over pairs with both answers, and organ recognition where the model learns it."""
        scorer, embeddings = self._now()
        comparable = {pair: known for pair, known in self.labels.items() if known.both()}
        values = {"val_pairs": float(len(comparable))}
        if self.release.model.anatomy_head is not None:
            names, predicted = self.release.organs, scorer.recognise(embeddings.anatomy)
            right = [names[int(i)] == instance.organ for i, instance in zip(predicted, self.instances, strict=True)]
            values["val_organ_top1"] = float(np.mean(right))
        if comparable:
            values["val_macro_auroc"] = max(self._by_weight(scorer, embeddings, comparable).values())
        return values

    def calibration(self, learned_scale: float) -> Calibration:
        """Weight of the negative prompts, scale, bias and thresholds, fitted on this split."""
        scorer, embeddings = self._now()
        fitted = self._calibration(scorer, embeddings, learned_scale)
        if self.observe is None:
            return fitted
        of_observations = self._calibration(Scorer(self.release, observes=True), self.observe(), learned_scale)
        return fitted.model_copy(update={"observations": of_observations})

    def _calibration(self, scorer: Scorer, embeddings: OrganEmbeddings, learned_scale: float) -> Calibration:
        comparable = {pair: known for pair, known in self.labels.items() if known.both()}
        by_weight = self._by_weight(scorer, embeddings, comparable) if comparable else {1.0: 0.5}
        best = max(by_weight, key=lambda one: by_weight[one])
        fitted = Calibration()
        for weight in (best, 1.0):  # where nothing can be fitted both sides count alike, as the softmax has it
            differences = self._differences(scorer, embeddings, self.labels, weight)
            fitted = fit_calibration(self.labels, differences, learned_scale, "findings of the split val", weight)
            if fitted.fitted_on:
                break
        return fitted

    def _now(self) -> tuple[Scorer, OrganEmbeddings]:
        """The model as it is: its prompts (a text encoder may be trained along) and its organs."""
        self.release.refresh()
        return Scorer(self.release), self.encode()

    def _by_weight(self, scorer: Scorer, embeddings: OrganEmbeddings, labels: Labels) -> dict[float, float]:
        """Macro AUROC with each weight of the negative prompts."""
        return {
            weight: macro_auroc(labels, self._differences(scorer, embeddings, labels, weight))
            for weight in NEGATIVE_WEIGHTS
        }

    @staticmethod
    def _differences(scorer: Scorer, embeddings: OrganEmbeddings, labels: Labels, weight: float) -> Scores:
        scorer.calibration = scorer.calibration.model_copy(update={"negative_weight": weight})
        return differences_of(scorer, embeddings, labels)


def training_reader(store: Store, release: Release, data: AnyDataSettings) -> OrganReader[Any]:
    """Reads organs of stored studies for a model in training: from its cached tokens where its data are such."""
    if isinstance(data, TokenDataSettings):
        return ScanOrganReader(release, tokens=open_tokens(data, store))
    return reader_of(release)


def macro_auroc(labels: Labels, scores: Scores) -> float:
    """Mean AUROC over pairs, without intervals."""
    questions = [Question(known.labels, scores[p], np.zeros_like(known.rows)) for p, known in labels.items()]
    return float(macro_draws(questions, np.ones((1, 1)))[1][0])


def build_validation(
    store: Store,
    release: Release,
    dictionaries: Dictionaries,
    data: AnyDataSettings,
    most: int | None = None,
    ranks: DistributedContext | None = None,
    workers: int = 0,
) -> Validation | None:
    """Read the validation split as the model does; None where the store has no such split, or no organ in it.

    Organs that the model cannot read are not asked about.

    Args:
        most: studies that are asked about, see ``studies_of``.
        ranks: the processes that train together, all of which call this.
        workers: processes of each that read images.
    """
    try:
        every, study_ids = studies_of(store, "val"), studies_of(store, "val", most)
    except StoreError:
        return None
    ranks = ranks or DistributedContext()
    findings = findings_by_study(store, set(study_ids))
    share = _Share(store, release, dictionaries, data, findings, workers)
    read = ranks.shared(lambda: share.read(ranks.share(study_ids)))
    check_damage([one for _, failures in read for one in failures], len(study_ids), share.max_damaged)
    instances = [instance for several, _ in read for instance in several]
    if not instances:
        return None

    def encode(reading: str | None = None) -> OrganEmbeddings:
        parts = ranks.shared(lambda: share.encode(reading))
        return concatenated(release.model, [part for part in parts if len(part)])

    observes = release.model.resampler is not None and "observations" in share.reader.reads
    labels = labels_from_findings(
        findings, instances, dictionaries.organs, dictionaries.abnormalities, data.unmentioned_as_negative
    )
    observe = partial(encode, "observations") if observes else None
    return Validation(release, instances, encode, labels, (len(study_ids), len(every)), observe)


class _Share:
    """What one rank reads and encodes of the validation split."""

    def __init__(
        self,
        store: Store,
        release: Release,
        dictionaries: Dictionaries,
        data: AnyDataSettings,
        findings: Mapping[str, Sequence[Finding]],
        workers: int = 0,
    ) -> None:
        self.store, self.release, self.data, self.workers = store, release, data, workers
        self.reader = training_reader(store, release, data)
        self.names = data.organs or self.reader.trainable(store, dictionaries, chain.from_iterable(findings.values()))
        self.cache = data.cache if isinstance(data, CropDataSettings) else CacheSettings(memory_gb=data.keep_gb)
        self.max_damaged = self.cache.max_damaged
        self.organs = dictionaries.organs

    def read(self, study_ids: Sequence[str]) -> tuple[list[OrganInstance], list[Failure]]:
        """Read the images of some studies: the organs that the model can read, and studies that cannot be read."""
        keys = self.reader.keys(self.reader.instances(self.store, study_ids, self.names)) if study_ids else []
        keep = resolve(self.cache, len(keys), self.reader.item_bytes, self.store)
        if keep == "disk":
            files = CropFiles(folder_of(self.cache, self.store), self.store, self.data.crops, self.organs)
            self.reader = reader_of(self.release, files=files)
        capacity = len(keys) if keep == "memory" else 0
        self._images = self.reader.cache(self.store, keys, capacity, self.data.threads, max_damaged=1.0)
        self._regions: dict[Any, list[Any]] = {}
        for key, image in self._images.readable(workers=self.workers):
            there = self.reader.visible(image, key[1], self.reader.reading)
            self._regions[key] = [row for row, visible in zip(key[1], there, strict=True) if visible]
        instances = [OrganInstance(key[0], row) for key, several in self._regions.items() for row in several]
        return instances, self._images.failures

    def encode(self, reading: str | None) -> OrganEmbeddings:
        """What the model makes of its organs now."""
        parts = [
            self.reader.encode([image for _, image in some], [self._regions[key] for key, _ in some], reading)
            for some in image_batches(self._images.readable(list(self._regions), workers=self.workers), _BATCH)
        ]
        found = concatenated(self.release.model, parts)
        if len(found) != sum(map(len, self._regions.values())):
            check_damage(self._images.failures, 0, 0.0)
        return found
