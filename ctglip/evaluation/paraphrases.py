"""How much does an answer depend on the words it is asked in?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ctglip.evaluation.bootstrap import weighted_auroc
from ctglip.evaluation.context import Context
from ctglip.evaluation.zero_shot import question
from ctglip.inference.scoring import Pair, alike

DRAWS = 200


@dataclass(frozen=True)
class PairWordings:
    """AUROC of one pair asked with one positive and one negative wording at a time.

    Attributes:
        pair: ``organ:abnormality``.
        ensemble: with all wordings together, as everywhere else.
        mean, low, high, sd: over the combinations.
        combinations: how many.
    """

    pair: str
    ensemble: float
    mean: float
    low: float
    high: float
    sd: float
    combinations: int


@dataclass(frozen=True)
class PromptVariance:
    """Single wordings beside the ensemble.

    Attributes:
        ensemble: macro AUROC with all wordings together.
        mean, low, high, sd: of the macro AUROC when each pair is asked with one combination drawn at random
            (``draws`` times; low and high are the 2.5 and 97.5 percentiles).
        pairs: each pair, the most dependent on its words first.
    """

    ensemble: float
    mean: float
    low: float
    high: float
    sd: float
    draws: int
    pairs: tuple[PairWordings, ...]


def prompt_variance(context: Context) -> PromptVariance | None:
    """AUROC over all combinations of one positive with one negative wording; None where pairs have one wording each."""
    every = {pair: _aurocs(context, pair) for pair in sorted(context.labels)}
    if all(len(values) <= 1 for values in every.values()):
        context.notes.append("Prompt variance: no pair has more than one wording.")
        return None
    ensemble = {pair: float(_auroc(context, pair, context.judged.differences[pair])) for pair in every}
    rng = np.random.default_rng(context.config.seed)
    macro = np.mean([rng.choice(values, DRAWS) for values in every.values()], axis=0)
    low, high = np.quantile(macro, [0.025, 0.975])
    pairs = [
        PairWordings(
            ":".join(pair), ensemble[pair], float(v.mean()), float(v.min()), float(v.max()), float(v.std()), len(v)
        )
        for pair, v in every.items()
    ]
    return PromptVariance(
        ensemble=float(np.mean(list(ensemble.values()))),
        mean=float(macro.mean()),
        low=float(low),
        high=float(high),
        sd=float(macro.std()),
        draws=DRAWS,
        pairs=tuple(sorted(pairs, key=lambda one: (one.low - one.high, one.pair))),
    )


def _aurocs(context: Context, pair: Pair) -> Float[np.ndarray, " combinations"]:
    positive, negative = context.scorer.prompts(pair)
    vectors = context.scorer.directions([(text,) for text in (*positive, *negative)])
    similar = alike(context.judged.embeddings.diagnosis[context.labels[pair].rows], vectors)
    weight = context.scorer.negative_weight
    yes, no = similar[:, : len(positive)], similar[:, len(positive) :]
    return np.array([_auroc(context, pair, a - weight * b) for a in yes.T for b in no.T])


def _auroc(context: Context, pair: Pair, scores: Float[np.ndarray, " n"]) -> float:
    asked = question(scores, context.labels[pair], context.judged.patients)
    return float(weighted_auroc(asked, context.weights[:1])[0])
