"""The zero-shot protocol over encoded organs: which organ is this, and what does it show?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ctglip.data.samples import OrganInstance
from ctglip.evaluation.bootstrap import Question, interval_of, macro_draws, weighted_mean
from ctglip.evaluation.labels import Labels, PairLabels
from ctglip.evaluation.metrics import PairMetrics, ThresholdChooser, best_f1_threshold, binary_metrics
from ctglip.inference.scoring import Pair
from ctglip.types import Interval

Scores = dict[Pair, Float[np.ndarray, " n"]]
"""For each pair a score for each of its labels' rows."""
_CONFUSIONS = 12


@dataclass(frozen=True)
class Recognition:
    """How often an organ is named right among all organ names.

    Attributes:
        top1, macro: share of organs, and mean over organs of that share, with intervals over patients.
        n: organs evaluated.
        names: names to choose from.
        sides: share of organs of a pair that were given the right side, among those taken for either of the two.
        confusions: (truth, answer, how often), most frequent first.
    """

    top1: Interval
    macro: Interval
    n: int
    names: int
    sides: float | None
    confusions: tuple[tuple[str, str, int], ...]


def pair_question(scores: np.ndarray, labels: PairLabels, patients: Int[np.ndarray, " rows"]) -> Question:
    """One pair as a question to the bootstrap."""
    return Question(labels.labels, scores, patients[labels.rows])


def evaluate_pairs(
    labels: Labels,
    scores: Scores,
    patients: Int[np.ndarray, " rows"],
    weights: Float[np.ndarray, "draws patients"],
    thresholds: Mapping[Pair, float],
) -> tuple[list[PairMetrics], Float[np.ndarray, " draws"]]:
    """Metrics of each pair, and the draws of the macro AUROC.

    Args:
        labels: what is true; every pair needs both answers.
        scores: higher means yes.
        patients: patient of each organ instance.
        weights: bootstrap draws.
        thresholds: chosen on another split.
    """
    pairs = sorted(labels)
    questions = [pair_question(scores[pair], labels[pair], patients) for pair in pairs]
    each, macro = macro_draws(questions, weights)
    metrics = [
        PairMetrics(
            organ=pair[0], abnormality=pair[1], **vars(binary_metrics(question, draws, thresholds.get(pair)))
        )
        for pair, question, draws in zip(pairs, questions, each, strict=True)
    ]  # fmt: skip
    return metrics, macro


def thresholds_of(labels: Labels, scores: Scores, choose: ThresholdChooser = best_f1_threshold) -> dict[Pair, float]:
    """The threshold of each pair that has both answers, by default the one with the best F1."""
    found = {pair: choose(known.labels, scores[pair]) for pair, known in labels.items()}
    return {pair: value for pair, value in found.items() if value is not None}


def recognition(
    nearest: Int[np.ndarray, " rows"],
    instances: Sequence[OrganInstance],
    names: Sequence[str],
    mirror: Mapping[str, str],
    patients: Int[np.ndarray, " rows"],
    weights: Float[np.ndarray, "draws patients"],
) -> Recognition:
    """Organ recognition.

    Args:
        nearest: index in ``names`` of the nearest name, one for each organ instance.
        mirror: organ -> the same organ of the other side, for paired organs.
    """
    truth = np.array([instance.organ for instance in instances])
    answer = np.array([names[int(number)] for number in nearest])
    right = (truth == answer).astype(np.float64)
    shares = [
        weighted_mean(right[rows], patients[rows], weights) for rows in (truth == organ for organ in np.unique(truth))
    ]
    counts = Counter(zip(truth.tolist(), answer.tolist(), strict=True))
    paired = sum(n for (a, b), n in counts.items() if a in mirror and b in (a, mirror[a]))
    swapped = sum(n for (a, b), n in counts.items() if mirror.get(a) == b)
    wrong = sorted(((a, b, n) for (a, b), n in counts.items() if a != b), key=lambda row: (-row[2], row[:2]))
    return Recognition(
        top1=interval_of(weighted_mean(right, patients, weights)),
        macro=interval_of(np.nanmean(np.stack(shares), axis=0)),
        n=len(instances),
        names=len(names),
        sides=(paired - swapped) / paired if paired else None,
        confusions=tuple(wrong[:_CONFUSIONS]),
    )
