"""What plain numbers of an organ answer without any network: its volume, mean, deviation and percentiles of HU.

A logistic regression for each (organ, abnormality), fitted on the training split to the labels that its reports give,
asked the same questions about the same organs as the model. What it answers as well needs no pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from ctglip.data.crops import CropSettings, crop_region
from ctglip.data.organ_crops import instances_of
from ctglip.data.samples import OrganInstance
from ctglip.evaluation.labels import Labels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import OrganRow, spacing_of
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import Organ, OrganDictionary

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
NAMES = ("log volume", "mean HU", "deviation of HU", *(f"percentile {share} of HU" for share in PERCENTILES))
VOLUME = (0,)
"""Of ``NAMES``: the volume alone."""


def organ_voxels(
    labels: UInt8[np.ndarray, "x y z"], organ: Organ, organs: OrganDictionary, spacing_mm: Sequence[float]
) -> Bool[np.ndarray, "x y z"]:
    """Where an organ is read from: its masks, grown or the shell around them as its definition says."""
    inside = np.isin(labels, list(organs.roi_labels(organ.name)))
    if organ.roi.dilate_mm <= 0 or not inside.any():
        return inside
    near = np.asarray(ndimage.distance_transform_edt(~inside, sampling=spacing_mm)) <= organ.roi.dilate_mm
    return near & ~inside if organ.roi.shell else near


def hand_features(
    store: Store, instances: Sequence[OrganInstance], organs: OrganDictionary
) -> Float[np.ndarray, "n f"]:
    """``NAMES`` of some organs at the store's own resolution; NaN where an organ has no voxel.

    Raises:
        StoreError: a study is damaged.
    """
    return np.array([_measured(store, one, organs) for one in instances], np.float64).reshape(-1, len(NAMES))


def _measured(store: Store, instance: OrganInstance, organs: OrganDictionary) -> list[float]:
    assert isinstance(instance.row, OrganRow)
    study, organ = store.study(instance.study_id), organs[instance.organ]
    region = crop_region(study.shape, study.affine, organ, instance.row, CropSettings())
    image, labels = study.image(region), study.organs(region)
    volume = float(np.log(instance.row.volume_ml + 1e-3))
    if labels is None:
        return [volume, *[np.nan] * (len(NAMES) - 1)]
    return [volume, *_intensities(image[organ_voxels(labels, organ, organs, spacing_of(study.affine))])]


def _intensities(hu: Int16[np.ndarray, " n"]) -> list[float]:
    if not len(hu):
        return [np.nan] * (len(NAMES) - 1)
    return [float(hu.mean()), float(hu.std()), *np.percentile(hu, PERCENTILES).tolist()]


def report_labels(
    store: Store, instances: Sequence[OrganInstance], organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Labels:
    """What the reports say of some organs; what they do not mention counts as normal, as in training."""
    findings = findings_by_study(store, {one.study_id for one in instances})
    return labels_from_findings(findings, instances, organs, abnormalities, unmentioned_as_negative=True)


def training_organs(store: Store, studies: Sequence[str], organs: Sequence[str]) -> list[OrganInstance]:
    """The wanted organs of some studies, cut off or not."""
    return instances_of(store, studies, organs, CropSettings())


def fitted_scores(
    training: tuple[Float[np.ndarray, "n f"], Labels],
    asked: tuple[Float[np.ndarray, "m f"], Mapping[tuple[str, str], np.ndarray]],
    columns: Sequence[int] = tuple(range(len(NAMES))),
) -> tuple[Scores, int]:
    """Scores of each asked pair, and how many pairs could not be fitted (they score 0 everywhere).

    Args:
        training: features of organs, and their labels.
        asked: features of other organs, and the rows of each pair among them.
        columns: which features.
    """
    scores: Scores = {}
    unfitted = 0
    for pair, rows in asked[1].items():
        known = training[1].get(pair)
        if known is None or not known.both():
            scores[pair], unfitted = np.zeros(len(rows)), unfitted + 1
            continue
        x = training[0][known.rows][:, columns]
        middle = np.nan_to_num(np.nanmean(x, axis=0))
        spread = np.nan_to_num(np.nanstd(x, axis=0)) + 1e-6
        x, z = (np.nan_to_num((values - middle) / spread) for values in (x, asked[0][np.asarray(rows)][:, columns]))
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, known.labels)
        scores[pair] = np.asarray(model.decision_function(z), np.float64)
    return scores, unfitted
