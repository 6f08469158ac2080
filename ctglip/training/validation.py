"""Zero-shot answers on the validation split, judged by its reports' findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctglip.data.cache import Place, places_of
from ctglip.data.film_input import film_input
from ctglip.data.organs import DataSettings, findings_by_study, studies_of, trainable_organs
from ctglip.data.scans import ScanCut, ScanReader, ScanSettings
from ctglip.data.stored import open_crops
from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import Question, macro_draws
from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.encoded import differences_of
from ctglip.evaluation.labels import Labels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.film_encoding import (
    encode_films,
    film_places,
    film_settings,
    on_window,
    queries_of,
    reading_of,
    shown_on_films,
)
from ctglip.inference.scans import encode_scan, readable
from ctglip.inference.scoring import Calibration, Dictionaries, Scorer
from ctglip.models.release import Release
from ctglip.parallel import worker_threads
from ctglip.store.tables import Store
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import OrganDictionary

NEGATIVE_WEIGHTS = (1.0, 0.5, 0.0)
"""Weights of the negative prompts that are tried; the first of the best is taken."""


@dataclass(frozen=True)
class Validation:
    """The validation split, ready to be asked again and again.

    Attributes:
        release: the model in training, with its prompts.
        places: the organs that it is asked about.
        encode: what the model makes of them now.
        labels: what the reports say.
        observe: the same films by their observations, of models that have some.
    """

    release: Release
    places: Sequence[Place]
    encode: Callable[[], OrganEmbeddings]
    labels: Labels
    observe: Callable[[], OrganEmbeddings] | None = None

    def measure(self) -> dict[str, float]:
        """Macro AUROC over pairs with both answers, and organ recognition where the model learns it."""
        scorer, embeddings = self._now()
        judged = {pair: known for pair, known in self.labels.items() if known.both()}
        values = {"val_pairs": float(len(judged))}
        if self.release.model.settings.anatomy:
            names, said = self.release.organs, scorer.recognise(embeddings.anatomy)
            right = [names[int(i)] == place.organ for i, place in zip(said, self.places, strict=True)]
            values["val_organ_top1"] = float(np.mean(right))
        if judged:
            values["val_macro_auroc"] = max(self._by_weight(scorer, embeddings, judged).values())
        return values

    def calibration(self, learned_scale: float) -> Calibration:
        """Weight of the negative prompts, scale, bias and thresholds, fitted on this split."""
        scorer, embeddings = self._now()
        fitted = self._calibration(scorer, embeddings, learned_scale)
        if self.observe is None:
            return fitted
        own = self._calibration(Scorer(self.release, observes=True), self.observe(), learned_scale)
        return fitted.model_copy(update={"observations": own})

    def _calibration(self, scorer: Scorer, embeddings: OrganEmbeddings, learned_scale: float) -> Calibration:
        judged = {pair: known for pair, known in self.labels.items() if known.both()}
        by_weight = self._by_weight(scorer, embeddings, judged) if judged else {1.0: 0.5}
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
    store: Store, release: Release, dictionaries: Dictionaries, data: DataSettings
) -> Validation | None:
    """Cut the validation split's crops, or read its scans or films; None where the store has no such split."""
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    try:
        study_ids = studies_of(store, "val")
    except StoreError:
        return None
    findings = findings_by_study(store, set(study_ids))
    observe = None
    if release.films is not None:
        spoken = {row.organ for rows in findings.values() for row in rows if row.abnormality is not None}
        names = data.organs or [name for name in shown_on_films(organs) if name in spoken]
        places, encode, observe = _films(store, release, study_ids, names, data, organs)
    else:
        places = places_of(store, study_ids, data.organs or trainable_organs(store, organs, abnormalities), data.crops)
        crops = release.model.settings.grounding == "crop"
        cut = _crops if crops else _scans
        places, encode = cut(store, release, places, data, organs)
    if not places:
        return None
    labels = labels_from_findings(findings, places, organs, abnormalities, data.silence_is_normal)
    return Validation(release, places, encode, labels, observe)


Asked = tuple[Sequence[Place], Callable[[], OrganEmbeddings]]


def _crops(store: Store, release: Release, places: list[Place], data: DataSettings, organs: OrganDictionary) -> Asked:
    cache = open_crops(store, places, data.crops, organs, data.cache, data.threads).readable()
    return cache.places, lambda: encode_crops(release.model, cache, data.crops, organs=release.organs)


def _films(
    store: Store,
    release: Release,
    study_ids: Sequence[str],
    names: Sequence[str],
    data: DataSettings,
    organs: OrganDictionary,
) -> tuple[Sequence[Place], Callable[[], OrganEmbeddings], Callable[[], OrganEmbeddings] | None]:
    """Films are kept as the model reads them; organs that its window leaves out are not asked about."""
    settings, reading = film_settings(release), reading_of(release.model)
    by_study: dict[str, list[OrganRow]] = {}
    for place in film_places(store, study_ids, names, reading, release):
        by_study.setdefault(place.study_id, []).append(place.row)
    with worker_threads(data.threads) as pool:
        films = list(pool.map(lambda name: film_input(store.study(name).image(), settings), by_study))
    rows = [
        [row for row, there in zip(several, on_window(film, several, reading), strict=True) if there]
        for film, several in zip(films, by_study.values(), strict=True)
    ]
    queries = queries_of(release.organs, organs)
    places = [Place(study_id, row) for study_id, several in zip(by_study, rows, strict=True) for row in several]
    model = release.model

    def observe() -> OrganEmbeddings:
        return encode_films(model, films, rows, queries, "observations")

    found = observe if model.settings.observations is not None else None
    return places, lambda: encode_films(model, films, rows, queries, reading), found


def _scans(store: Store, release: Release, places: list[Place], data: DataSettings, organs: OrganDictionary) -> Asked:
    """Scans are kept on the model's grid; organs too small for it are not asked about."""
    settings = ScanSettings.model_validate(release.scans)
    by_study: dict[str, list[Place]] = {}
    for place in places:
        by_study.setdefault(place.study_id, []).append(place)
    reader = ScanReader(store, settings, len(by_study), 0.0, data.threads)
    asked: list[tuple[ScanCut, list[Place]]] = []
    for (_, some), cut in zip(by_study.items(), reader.read(list(by_study)), strict=True):
        if cut is not None:
            keep = readable(cut, [place.row for place in some], release.model, organs)
            asked.append((cut, [place for place, there in zip(some, keep, strict=True) if there]))
    asked = [(cut, some) for cut, some in asked if some]

    def encode() -> OrganEmbeddings:
        found = [
            encode_scan(release.model, cut, [place.row for place in some], organs, release.organs, settings)
            for cut, some in asked
        ]
        parts = ("features", "anatomy", "diagnosis")
        return OrganEmbeddings(*(np.concatenate([getattr(one, part) for one in found]) for part in parts))

    return [place for _, some in asked for place in some], encode
