"""Zero-shot answers on the validation split, judged by its reports' findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctglip.data.cache import instances_of
from ctglip.data.cxr import cxr_input
from ctglip.data.organs import CropDataSettings, findings_by_study, studies_of, trainable_organs
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import ScanCut, ScanSettings, scan_reader
from ctglip.data.stored import open_crops
from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import Question, macro_draws
from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.encoded import differences_of
from ctglip.evaluation.labels import Labels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.cxr_encoding import (
    cxr_instances,
    cxr_settings,
    encode_radiographs,
    on_window,
    queries_of,
    reading_of,
    visible_on_radiographs,
)
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.scans import encode_scan, readable
from ctglip.inference.scoring import Calibration, Dictionaries, Scorer
from ctglip.models.release import Release
from ctglip.parallel import worker_threads
from ctglip.store.tables import Store
from ctglip.training.recipe import AnyDataSettings
from ctglip.types import OrganRegion
from ctglip.vocabulary.organs import OrganDictionary

NEGATIVE_WEIGHTS = (1.0, 0.5, 0.0)
"""Weights of the negative prompts that are tried; the first of the best is taken."""


@dataclass(frozen=True)
class Validation:
    """The validation split, ready to be asked again and again.

    Attributes:
        release: the model in training, with its prompts.
        instances: the organs that it is asked about.
        encode: what the model makes of them now.
        labels: what the reports say.
        observe: the same radiographs by their observations, of models that have some.
    """

    release: Release
    instances: Sequence[OrganInstance]
    encode: Callable[[], OrganEmbeddings]
    labels: Labels
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


def macro_auroc(labels: Labels, scores: Scores) -> float:
    """Mean AUROC over pairs, without intervals."""
    questions = [Question(known.labels, scores[p], np.zeros_like(known.rows)) for p, known in labels.items()]
    return float(macro_draws(questions, np.ones((1, 1)))[1][0])


def build_validation(
    store: Store, release: Release, dictionaries: Dictionaries, data: AnyDataSettings
) -> Validation | None:
    """Cut the validation split's crops, or read its scans or radiographs; None where the store has no such split."""
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    try:
        study_ids = studies_of(store, "val")
    except StoreError:
        return None
    findings = findings_by_study(store, set(study_ids))
    observe = None
    if release.cxr is not None:
        spoken = {row.organ for rows in findings.values() for row in rows if row.abnormality is not None}
        names = data.organs or [name for name in visible_on_radiographs(organs) if name in spoken]
        instances, encode, observe = _radiographs(store, release, study_ids, names, data, organs)
    else:
        instances = instances_of(
            store, study_ids, data.organs or trainable_organs(store, organs, abnormalities), data.crops
        )
        if isinstance(data, CropDataSettings) and release.reads_crops:
            instances, encode = _crops(store, release, instances, data, organs)
        else:
            instances, encode = _scans(store, release, instances, data, organs)
    if not instances:
        return None
    labels = labels_from_findings(findings, instances, organs, abnormalities, data.unmentioned_as_negative)
    return Validation(release, instances, encode, labels, observe)


OrgansToEncode = tuple[Sequence[OrganInstance], Callable[[], OrganEmbeddings]]


def _crops(
    store: Store, release: Release, instances: list[OrganInstance], data: CropDataSettings, organs: OrganDictionary
) -> OrgansToEncode:
    cache = open_crops(store, instances, data.crops, organs, data.cache, data.threads).readable()
    return cache.instances, lambda: encode_crops(release.model, cache, data.crops)


def _radiographs(
    store: Store,
    release: Release,
    study_ids: Sequence[str],
    names: Sequence[str],
    data: AnyDataSettings,
    organs: OrganDictionary,
) -> tuple[Sequence[OrganInstance], Callable[[], OrganEmbeddings], Callable[[], OrganEmbeddings] | None]:
    """Radiographs are kept as the model reads them; organs that its window leaves out are not asked about."""
    settings, reading = cxr_settings(release), reading_of(release.model)
    by_study: dict[str, list[OrganRegion]] = {}
    for instance in cxr_instances(store, study_ids, names, reading, release):
        by_study.setdefault(instance.study_id, []).append(instance.row)
    with worker_threads(data.threads) as pool:
        radiographs = list(pool.map(lambda name: cxr_input(store.study(name).image(), settings), by_study))
    rows = [
        [row for row, there in zip(several, on_window(radiograph, several, reading), strict=True) if there]
        for radiograph, several in zip(radiographs, by_study.values(), strict=True)
    ]
    queries = queries_of(release.organs, organs)
    instances = [
        OrganInstance(study_id, row) for study_id, several in zip(by_study, rows, strict=True) for row in several
    ]
    model = release.model

    def observe() -> OrganEmbeddings:
        return encode_radiographs(model, radiographs, rows, queries, "observations")

    found = observe if model.resampler is not None else None
    return instances, lambda: encode_radiographs(model, radiographs, rows, queries, reading), found


def _scans(
    store: Store, release: Release, instances: list[OrganInstance], data: AnyDataSettings, organs: OrganDictionary
) -> OrgansToEncode:
    """Scans are kept on the model's grid; organs too small for it are not asked about."""
    settings = ScanSettings.model_validate(release.scans)
    by_study: dict[str, list[OrganInstance]] = {}
    for instance in instances:
        by_study.setdefault(instance.study_id, []).append(instance)
    reader = scan_reader(store, settings, len(by_study), 0.0, data.threads)
    encoded_scans: list[tuple[ScanCut, list[OrganInstance]]] = []
    for (_, some), cut in zip(by_study.items(), reader.read(list(by_study)), strict=True):
        if cut is not None:
            keep = readable(cut, [instance.row for instance in some], release.model, organs)
            encoded_scans.append((cut, [instance for instance, there in zip(some, keep, strict=True) if there]))
    encoded_scans = [(cut, some) for cut, some in encoded_scans if some]

    def encode() -> OrganEmbeddings:
        found = [
            encode_scan(release.model, cut, [instance.row for instance in some], release.organs, settings)
            for cut, some in encoded_scans
        ]
        parts = ("features", "anatomy", "diagnosis")
        return OrganEmbeddings(*(np.concatenate([getattr(one, part) for one in found]) for part in parts))

    return [instance for _, some in encoded_scans for instance in some], encode
