"""What the same questions score when something is taken away: volume alone, the mask alone, plain numbers of HU."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression

from ctglip.data.samples import OrganInstance
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit, differences_of
from ctglip.evaluation.hand_features import fitted_scores, hand_features, report_labels, training_organs
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.scoring import dictionaries_of
from ctglip.modality import MODALITIES
from ctglip.types import OrganRegion, OrganRow

MASK_ONLY = "Mask only"
HAND_FEATURES = "Hand features"
IN_FULL = "Negative prompts in full"


def controls_of(context: Context) -> tuple[ControlResult, ...]:
    """The mask alone, of a model that reads crops; and the volume alone (on radiographs: the area of the box)."""
    found, masks = [], context.split.mask_only
    if masks is not None:
        text = "The same model, shown crops in which the organ has its mean HU throughout and everything else is air."
        found.append(context.control(MASK_ONLY, text, {pair: masks[pair] for pair in context.labels}))
    if context.validation and not context.one_vector_per_study:
        scores, unfitted = _volume_scores(context, context.validation)
        modality = MODALITIES[context.release.modality]
        name, what = modality.size_control, modality.organ_size
        text = f"A logistic score of log {what} and its square, fitted for each pair on the validation split."
        found.append(context.control(name, text, scores))
        if unfitted:
            context.notes.append(f"{name}: {unfitted} pairs could not be fitted on the split val and count as 0.5.")
    if masks is not None and (hand := _hand_scores(context)):
        text = (
            "Volume, mean, deviation and percentiles of HU of each organ; for each pair a logistic regression on the "
            "labels that the reports of the training split give."
        )
        found.append(context.control(HAND_FEATURES, text, hand))
    if context.scorer.negative_weight != 1:
        found.append(_in_full(context))
    return tuple(found)


def _in_full(context: Context) -> ControlResult:
    """The same answers without the weight of the negative prompts that was fitted on the validation split."""
    scorer = copy(context.scorer)
    fitted = scorer.negative_weight
    scorer.calibration = scorer.calibration.model_copy(update={"negative_weight": 1.0})
    text = f"The same answers with negative prompts at a weight of 1; the model's {fitted:g} was fitted on validation."
    return context.control(IN_FULL, text, differences_of(scorer, context.split.embeddings, context.labels))


def _hand_scores(context: Context) -> Scores | None:
    """Scores of the evaluated pairs; None where the store has no training split, or no reports in it."""
    store, dictionaries = context.store, dictionaries_of(context.release)
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    splits = store.table("splits")
    studies = splits.filter(splits["split"] == "train")["study_id"].sort().to_list()
    instances = training_organs(store, studies, sorted({organ for organ, _ in context.labels}))
    taught = report_labels(store, instances, organs, abnormalities)
    if not taught:
        return None
    context.begin("Hand features")
    used, numbers = np.unique(np.concatenate([known.rows for known in context.labels.values()]), return_inverse=True)
    ends = np.cumsum([len(known.rows) for known in context.labels.values()])[:-1]
    asked = dict(zip(context.labels, np.split(numbers, ends), strict=True))
    features = hand_features(store, [context.split.instances[row] for row in used], organs)
    scores, unfitted = fitted_scores((hand_features(store, instances, organs), taught), (features, asked))
    if unfitted:
        context.notes.append(f"{HAND_FEATURES}: {unfitted} pairs have no labels of both kinds and count as 0.5.")
    return scores


def _volume_scores(context: Context, validation: EncodedSplit) -> tuple[Scores, int]:
    """A logistic score of log volume and its square for each evaluated pair, fitted on the validation split; and the
    number of pairs that lack an answer there and score 0 everywhere."""
    scores: Scores = {}
    unfitted = 0
    for pair, known in context.labels.items():
        fit = validation.labels.get(pair)
        if fit is None or not fit.both():
            scores[pair] = np.zeros(len(known.rows))
            unfitted += 1
            continue
        x = _log_volume([validation.instances[row] for row in fit.rows])
        mean, sd = x.mean(), x.std() + 1e-6
        model = LogisticRegression(class_weight="balanced").fit(_powers((x - mean) / sd), fit.labels)
        z = (_log_volume([context.split.instances[row] for row in known.rows]) - mean) / sd
        scores[pair] = np.asarray(model.decision_function(_powers(z)), dtype=np.float64)
    return scores, unfitted


def _log_volume(instances: Sequence[OrganInstance]) -> Float[np.ndarray, " n"]:
    return np.log(np.array([_extent(instance.row) for instance in instances]) + 1e-3)


def _extent(region: OrganRegion) -> float:
    """An organ's volume in ml; the pixels of its box on a radiograph, where it has none."""
    if isinstance(region, OrganRow):
        return region.volume_ml
    return float(np.prod(np.subtract(region.box[1::2], region.box[::2]))) if len(region.box) == 4 else 0.0


def _powers(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return np.stack([z, z**2], axis=1)
