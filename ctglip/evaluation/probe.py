"""How much do the frozen features hold? A logistic probe for each pair, beside the zero-shot answers."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.scoring import Pair
from ctglip.parallel import one_thread

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
LEAST = 5


def linear_probe(context: Context) -> ControlResult | None:
    """Logistic regression on the raw features of the organ, fitted on the split train, its strength chosen by AUROC on
    the validation split; pairs with fewer than five positives or negatives in train are left out.

    Returns:
        The probe's macro AUROC; ``difference`` is zero-shot minus probe over the same pairs. None without a train
        split or without a pair to fit.
    """
    train = context.split("train") if context.judged.split != "train" else None
    context.begin("Linear probe")
    if train is None:
        context.notes.append("Linear probe: there is no other split to fit it on.")
        return None
    scores: Scores = {}
    with one_thread():
        for done, (pair, known) in enumerate(context.labels.items(), start=1):
            fit = train.labels.get(pair)
            if fit is not None and fit.both(LEAST):
                asked = context.judged.embeddings.features[known.rows]
                scores[pair] = _probe(train, context.validation, pair, asked)
            if context.progress:
                context.progress(done, len(context.labels))
    if not scores:
        context.notes.append("Linear probe: no pair has enough positives and negatives in the split train.")
        return None
    text = "Logistic regression on the frozen features of each organ, fitted on the split train with its labels."
    return context.compared("Linear probe", text, scores)


def _probe(
    train: EncodedSplit, validation: EncodedSplit | None, pair: Pair, asked: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    x, y = _rows(train, pair)
    scaler = StandardScaler().fit(x)
    held = _rows(validation, pair) if validation and pair in validation.labels else None
    chooses = held is not None and validation is not None and validation.labels[pair].both()
    best: tuple[float, LogisticRegression] | None = None
    for strength in STRENGTHS if chooses else (0.01,):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300).fit(scaler.transform(x), y)
        value = roc_auc_score(held[1], _said(model, scaler, held[0])) if chooses and held is not None else 0.5
        if best is None or value > best[0]:
            best = (float(value), model)
    assert best is not None
    return _said(best[1], scaler, asked)


def _said(model: LogisticRegression, scaler: StandardScaler, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    return np.asarray(model.decision_function(scaler.transform(x)), dtype=np.float64)


def _rows(split: EncodedSplit, pair: Pair) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    known = split.labels[pair]
    return split.embeddings.features[known.rows], known.labels
