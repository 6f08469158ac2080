"""The zero-shot protocol over encoded organs: which organ is this, and what does it show?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ctglip.data.cache import OrganInstance
from ctglip.evaluation.bootstrap import Interval, Question, interval_of, macro_draws, weighted_mean
from ctglip.evaluation.labels import Labels, Pair, PairLabels
from ctglip.evaluation.metrics import PairMetrics, at_threshold, auprc, best_f1_threshold

Scores = dict[Pair, Float[np.ndarray, " n"]]
"""For each pair a score for each of its labels' rows."""
Chooser = Callable[[Int[np.ndarray, " n"], Float[np.ndarray, " n"]], float | None]


@dataclass(frozen=True)
class Recognition:
    """How often an organ is named right among all organ names.

    Attributes:
        top1, macro: share of organs, and mean over organs of that share, with intervals over patients.
        n: organs judged.
        names: names to choose from.
        sides: share of organs of a pair that were given the right side, among those taken for either of the two.
        confusions: (true, said, how often), most frequent first.
    """

    top1: Interval
    macro: Interval
    n: int
    names: int
    sides: float | None
    confusions: tuple[tuple[str, str, int], ...]


def question(scores: np.ndarray, known: PairLabels, patients: Int[np.ndarray, " rows"]) -> Question:
    """One pair as a question to the bootstrap."""
    return Question(known.labels, scores, patients[known.rows])


def judge(
    labels: Labels,
    scores: Scores,
    patients: Int[np.ndarray, " rows"],
    weights: Float[np.ndarray, "draws patients"],
    thresholds: Mapping[Pair, float],
) -> tuple[list[PairMetrics], Float[np.ndarray, " draws"]]:
    """Metrics of each pair, and the draws of the macro AUROC.

    Args:
        labels: what is true; every pair needs both answers.
        scores: what was said, higher means yes.
        patients: patient of each place.
        weights: bootstrap draws.
        thresholds: chosen on another split.
    """
    pairs = sorted(labels)
    each, macro = macro_draws([question(scores[p], labels[p], patients) for p in pairs], weights)
    found = []
    for pair, draws in zip(pairs, each, strict=True):
        known = labels[pair]
        at = at_threshold(known.labels, scores[pair], thresholds[pair]) if pair in thresholds else None
        found.append(
            PairMetrics(
                organ=pair[0],
                abnormality=pair[1],
                auroc=interval_of(draws),
                auprc=auprc(known.labels, scores[pair]),
                positives=int(known.labels.sum()),
                n=len(known.labels),
                at=at,
            )
        )
    return found, macro


def thresholds_of(labels: Labels, scores: Scores, choose: Chooser = best_f1_threshold) -> dict[Pair, float]:
    """The threshold of each pair that has both answers, by default the one with the best F1."""
    found = {pair: choose(known.labels, scores[pair]) for pair, known in labels.items()}
    return {pair: value for pair, value in found.items() if value is not None}


def recognition(
    said: Int[np.ndarray, " rows"],
    instances: Sequence[OrganInstance],
    names: Sequence[str],
    mirror: Mapping[str, str],
    patients: Int[np.ndarray, " rows"],
    weights: Float[np.ndarray, "draws patients"],
) -> Recognition:
    """Organ recognition.

    Args:
        said: index in ``names`` of the nearest name, one for each place.
        mirror: organ -> the same organ of the other side, for paired organs.
    """
    truth = np.array([instance.organ for instance in instances])
    answer = np.array([names[int(i)] for i in said])
    right = (truth == answer).astype(np.float64)
    shares = [
        weighted_mean(right[here], patients[here], weights) for here in (truth == organ for organ in np.unique(truth))
    ]
    wrong: dict[tuple[str, str], int] = {}
    for a, b in zip(truth[right == 0].tolist(), answer[right == 0].tolist(), strict=True):
        wrong[a, b] = wrong.get((a, b), 0) + 1
    swapped = sum(count for (a, b), count in wrong.items() if mirror.get(a) == b)
    paired = sum(1 for a, b in zip(truth.tolist(), answer.tolist(), strict=True) if a in mirror and b in (a, mirror[a]))
    return Recognition(
        top1=interval_of(weighted_mean(right, patients, weights)),
        macro=interval_of(np.nanmean(np.stack(shares), axis=0)),
        n=len(instances),
        names=len(names),
        sides=(paired - swapped) / paired if paired else None,
        confusions=tuple((a, b, n) for (a, b), n in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:12]),
    )
