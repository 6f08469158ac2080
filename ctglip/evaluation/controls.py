"""What the same questions score when something is taken away: volume alone, and the mask alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from ctglip.data.cache import OrganInstance
from ctglip.evaluation.labels import Labels
from ctglip.evaluation.zero_shot import Scores


def volume_scores(
    fit_instances: Sequence[OrganInstance], fit_labels: Labels, instances: Sequence[OrganInstance], labels: Labels
) -> tuple[Scores, int]:
    """A logistic score of log volume (on radiographs, of the box's area) and its square, fitted for each pair on the
    validation split.

    Returns:
        Scores of ``labels``, and the number of pairs that could not be fitted because the validation split lacks one
        of the two answers; those score 0 everywhere (an AUROC of 0.5).
    """
    scores: Scores = {}
    unfitted = 0
    for pair, known in labels.items():
        fit = fit_labels.get(pair)
        if fit is None or not fit.both():
            scores[pair] = np.zeros(len(known.rows))
            unfitted += 1
            continue
        x = _log_volume([fit_instances[row] for row in fit.rows])
        mean, spread = x.mean(), x.std() + 1e-6
        model = LogisticRegression(class_weight="balanced").fit(_features(x, mean, spread), fit.labels)
        asked = _log_volume([instances[row] for row in known.rows])
        scores[pair] = np.asarray(model.decision_function(_features(asked, mean, spread)), dtype=np.float64)
    return scores, unfitted


def _log_volume(instances: Sequence[OrganInstance]) -> np.ndarray:
    return np.log(np.array([instance.row.volume_ml or _area(instance) for instance in instances]) + 1e-3)


def _area(instance: OrganInstance) -> float:
    """Pixels of an organ's box on a radiograph, which has no volume."""
    row0, row1, column0, column1, _, depth = instance.row.box
    return float((row1 - row0) * (column1 - column0)) if depth == 1 else 0.0


def _features(x: np.ndarray, mean: float, spread: float) -> np.ndarray:
    z = (x - mean) / spread
    return np.stack([z, z**2], axis=1)
