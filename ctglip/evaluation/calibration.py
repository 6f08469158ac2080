"""From differences of similarities to probabilities, fitted on the validation split."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from ctglip.evaluation.labels import Labels
from ctglip.evaluation.zero_shot import Scores, thresholds_of
from ctglip.inference.scoring import Calibration

MIN_ANSWERS = 20


def fit_calibration(
    labels: Labels, differences: Scores, learned_scale: float, what: str, negative_weight: float = 1.0
) -> Calibration:
    """Scale and bias by maximum likelihood over the answers of all pairs, and a threshold for each pair.

    Args:
        labels: what is true on the validation split.
        differences: similarity with the positive minus with the negative prompts.
        learned_scale: the inverse temperature of training: kept, with bias 0, where there is too little to fit on.
        what: where the labels come from, e.g. ``"findings of the split val"``.
        negative_weight: of the negative prompts in the differences.
    """
    pairs = sorted(labels)
    x = np.concatenate([differences[pair] for pair in pairs]) if pairs else np.zeros(0)
    y = np.concatenate([labels[pair].labels for pair in pairs]) if pairs else np.zeros(0, dtype=int)
    uncalibrated = Calibration(scale=learned_scale, learned_scale=learned_scale, negative_weight=negative_weight)
    if len(y) < MIN_ANSWERS or not 0 < y.sum() < len(y):
        return uncalibrated
    model = LogisticRegression(C=1e4).fit(x[:, None], y)
    scale, bias = float(model.coef_[0, 0]), float(model.intercept_[0])
    if scale <= 0:
        return uncalibrated
    fitted = uncalibrated.model_copy(update={"scale": scale, "bias": bias, "fitted_on": what, "answers": len(y)})
    probabilities = {pair: fitted.probabilities(differences[pair]) for pair in pairs}
    thresholds = {f"{organ}:{name}": t for (organ, name), t in thresholds_of(labels, probabilities).items()}
    return fitted.model_copy(update={"thresholds": thresholds})
