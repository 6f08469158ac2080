"""How much do the frozen features hold? A logistic probe for each pair, beside the zero-shot answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.parts.protocol import load_protocol
from ctglip.evaluation.published_tables import published_tables
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.scoring import Dictionaries, Pair
from ctglip.pages.parts import Table
from ctglip.pages.wording import number
from ctglip.parallel import one_thread

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
FEWEST = 5


@dataclass(frozen=True)
class ProbeResult(ControlResult):
    """The probe's macro AUROC; ``difference`` is zero-shot minus probe over the same pairs.

    Attributes:
        published: table of ``published_tables`` and its column that are about the labels of the protocol, if any.
    """

    published: tuple[str, str] | None

    def tables(self, dictionaries: Dictionaries, /) -> tuple[Table, ...]:
        """Zero-shot against the probe, and published probes on the same labels."""
        return super().tables(dictionaries) if self.published is None else (
            *super().tables(dictionaries), self._published(*self.published)
        )  # fmt: skip

    def _published(self, name: str, column: str) -> Table:
        table = published_tables()[name]
        shares = tuple(f"{share} %" for share in table.shares)
        blank = ("",) * (len(shares) - 1)
        return Table(
            "published_probe",
            f"{table.name}: {table.columns[column]}",
            "As published, by the share of the labels that was used. Other patients and other training: beside yours, "
            "not against it.",
            ("Model", *shares, "Source"),
            (
                ("This model (organ features, this store)", *blank, number(self.macro_auroc.value), ""),
                *(
                    (row.model, *(number(value / 100) for value in row.values[column]), table.source_of(row))
                    for row in table.rows
                ),
            ),
        )


def linear_probe(context: Context) -> ProbeResult | None:
    """Logistic regression on the raw features of the organ, fitted on the split train, its strength chosen by AUROC on
    the validation split; pairs with fewer than five positives or negatives in train are left out. None without a train
    split or without a pair to fit."""
    train = context.other_split("train") if context.split.name != "train" else None
    context.begin("Linear probe")
    if train is None:
        context.notes.append("Linear probe: there is no other split to fit it on.")
        return None
    scores: Scores = {}
    with one_thread():
        for done, (pair, known) in enumerate(context.labels.items(), start=1):
            fit = train.labels.get(pair)
            if fit is not None and fit.both(FEWEST):
                probe = _fit(train, context.validation, pair)
                scores[pair] = probe.decision_function(context.split.embeddings.features[known.rows]).astype(np.float64)
            if context.progress:
                context.progress(done, len(context.labels))
    if not scores:
        context.notes.append("Linear probe: no pair has enough positives and negatives in the split train.")
        return None
    text = "Logistic regression on the frozen features of each organ, fitted on the split train with its labels."
    tables = load_protocol(context.config.protocol).tables if context.config.protocol else {}
    return ProbeResult(
        **vars(context.control("Linear probe", text, scores)), published=next(iter(tables.items()), None)
    )


def _fit(train: EncodedSplit, validation: EncodedSplit | None, pair: Pair):
    """The probe of the strength that is best on the validation split, or of 0.01 without both answers there."""
    x, y = train.embeddings.features[train.labels[pair].rows], train.labels[pair].labels

    def fitted(strength: float):
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
        return make_pipeline(StandardScaler(), regression).fit(x, y)

    known = validation.labels.get(pair) if validation is not None else None
    if validation is None or known is None or not known.both():
        return fitted(0.01)
    features: Float[np.ndarray, "n d"] = validation.embeddings.features[known.rows]
    return max(map(fitted, STRENGTHS), key=lambda probe: roc_auc_score(known.labels, probe.decision_function(features)))
