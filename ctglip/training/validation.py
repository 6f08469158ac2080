"""Zero-shot answers on the validation split, judged by its reports' findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctglip.data.cache import CropCache, Place, cut_places, places_of
from ctglip.data.organs import DataSettings, findings_by_study, studies_of, trainable_organs
from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import Question, macro_draws
from ctglip.evaluation.calibration import fit_calibration
from ctglip.evaluation.labels import Labels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.scoring import Calibration, Dictionaries, Scorer
from ctglip.models.release import Release
from ctglip.store.tables import Store


@dataclass(frozen=True)
class Validation:
    """The validation split, ready to be asked again and again.

    Attributes:
        release: the model in training, with its prompts.
        cache: crops.
        labels: what the reports say.
        data: settings of the crops.
    """

    release: Release
    cache: CropCache
    labels: Labels
    data: DataSettings

    def measure(self) -> dict[str, float]:
        """Macro AUROC over pairs with both answers, and organ recognition."""
        scorer = Scorer(self.release)
        embeddings = encode_crops(self.release.model, self.cache, self.data.crops)
        judged = {pair: known for pair, known in self.labels.items() if known.both()}
        said = scorer.recognise(embeddings.anatomy)
        names = self.release.organs
        right = [names[int(i)] == place.organ for i, place in zip(said, self.cache.places, strict=True)]
        values = {"val_organ_top1": float(np.mean(right)), "val_pairs": float(len(judged))}
        if judged:
            values["val_macro_auroc"] = macro_auroc(judged, self._differences(scorer, embeddings, judged))
        return values

    def calibration(self, learned_scale: float) -> Calibration:
        """Scale, bias and thresholds fitted on this split."""
        scorer = Scorer(self.release)
        embeddings = encode_crops(self.release.model, self.cache, self.data.crops)
        differences = self._differences(scorer, embeddings, self.labels)
        return fit_calibration(self.labels, differences, learned_scale, "findings of the split val")

    @staticmethod
    def _differences(scorer: Scorer, embeddings: OrganEmbeddings, labels: Labels) -> Scores:
        pairs = sorted(labels)
        table = scorer.differences(embeddings.diagnosis, pairs)
        return {pair: table[labels[pair].rows, column] for column, pair in enumerate(pairs)}


def macro_auroc(labels: Labels, scores: Scores) -> float:
    """Mean AUROC over pairs, without intervals."""
    questions = [Question(known.labels, scores[p], np.zeros_like(known.rows)) for p, known in labels.items()]
    return float(macro_draws(questions, np.ones((1, 1)))[1][0])


def build_validation(
    store: Store, release: Release, dictionaries: Dictionaries, data: DataSettings
) -> Validation | None:
    """Cut the validation split's crops; None where the store has no such split."""
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    try:
        study_ids = studies_of(store, "val")
    except StoreError:
        return None
    names = data.organs or trainable_organs(store, organs, abnormalities)
    places: list[Place] = places_of(store, study_ids, names, data.crops)
    if not places:
        return None
    cache = cut_places(store, places, data.crops, organs, data.threads)
    findings = findings_by_study(store, set(study_ids))
    labels = labels_from_findings(findings, cache.places, organs, abnormalities, data.silence_is_normal)
    return Validation(release, cache, labels, data)
