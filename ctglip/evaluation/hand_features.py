"""What plain numbers of an organ answer without any network: its volume, mean, deviation and percentiles of HU.

A logistic regression for each (organ, abnormality), fitted on the training split to the labels that its reports give,
asked the same questions about the same organs as the model. What it answers as well needs no pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from ctglip.data.crops import CropSettings, crop_region
from ctglip.data.organ_crops import instances_of
from ctglip.data.samples import OrganInstance
from ctglip.evaluation.labels import Labels, PairLabels, labels_from_findings
from ctglip.evaluation.zero_shot import Scores
from ctglip.store.findings import findings_by_study
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, OrganRow, spacing_of
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
    member = np.zeros(256, bool)
    member[list(organs.roi_labels(organ.name))] = True
    inside = member[labels]
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
    rows = [
        row
        for study_id, some in groupby(instances, key=lambda one: one.study_id)
        for row in _measured(store.study(study_id), [one.row for one in some], organs)
    ]
    return np.array(rows, np.float64).reshape(-1, len(NAMES))


def _measured(study: StudyReader, rows: Sequence[OrganRegion], organs: OrganDictionary) -> Iterator[list[float]]:
    """The numbers of some organs of one study, which is read once."""
    image, labels = study.image(), study.organs()
    for row in rows:
        assert isinstance(row, OrganRow)
        volume, organ = float(np.log(row.volume_ml + 1e-3)), organs[row.organ]
        if labels is None:
            yield [volume, *[np.nan] * (len(NAMES) - 1)]
            continue
        x0, x1, y0, y1, z0, z1 = crop_region(study.shape, study.affine, organ, row, CropSettings())
        part = (slice(x0, x1), slice(y0, y1), slice(z0, z1))
        yield [volume, *_intensities(image[part][organ_voxels(labels[part], organ, organs, spacing_of(study.affine))])]


def _intensities(hu: Int16[np.ndarray, " n"]) -> list[float]:
    if not len(hu):
        return [np.nan] * (len(NAMES) - 1)
    return [float(hu.mean()), float(hu.std()), *np.percentile(hu, PERCENTILES).tolist()]


def report_labels(
    store: Store, instances: Sequence[OrganInstance], organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Labels:
    """What the reports say of some organs.

    What is not mentioned counts as normal; what is of a kind affirms the kind (an aneurysm of the abdominal aorta).
    """
    findings = findings_by_study(store, {one.study_id for one in instances})
    told = labels_from_findings(findings, instances, organs, abnormalities, unmentioned_as_negative=True)
    found: dict[tuple[str, str], dict[int, int]] = {}
    for (organ, name), known in told.items():
        for kind in {name} | (abnormalities.ancestors(name) if name in abnormalities else set()):
            labels = found.setdefault((organ, kind), {})
            for row, label in zip(known.rows.tolist(), known.labels.tolist(), strict=True):
                labels[row] = max(label, labels.get(row, 0))
    return {
        pair: PairLabels(np.array(list(labels), np.int64), np.array([*labels.values()], np.int64))
        for pair, labels in found.items()
    }


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
