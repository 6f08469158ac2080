"""How much does an answer depend on the words it is asked in?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ctglip.evaluation.bootstrap import weighted_auroc
from ctglip.evaluation.context import Context
from ctglip.evaluation.results import PartResult
from ctglip.evaluation.zero_shot import pair_question
from ctglip.inference.scoring import Dictionaries, Pair, alike
from ctglip.pages.parts import Table
from ctglip.pages.wording import number

DRAWS = 200
_ROWS = 12


@dataclass(frozen=True)
class PairPrompts:
    """AUROC of one pair asked with one positive and one negative prompt at a time.

    Attributes:
        pair: ``organ:abnormality``.
        ensemble: with all prompts together, as everywhere else.
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
class PromptVariance(PartResult):
    """Single prompts beside the ensemble.

    Attributes:
        ensemble: macro AUROC with all prompts together.
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
    pairs: tuple[PairPrompts, ...]

    def tables(self, dictionaries: Dictionaries, /) -> tuple[Table, ...]:
        """The pairs whose AUROC depends most on their words."""
        rows = []
        for p in self.pairs[:_ROWS]:
            organ, name = p.pair.split(":")
            display = f"{dictionaries.organs[organ].display} · {dictionaries.abnormalities[name].display}"
            rows.append((display, *map(number, (p.ensemble, p.mean, p.low, p.high)), f"{p.combinations}"))
        table = Table(
            "wordings",
            "Other words",
            f"Asked with one positive and one negative wording drawn at random, the macro AUROC is {number(self.mean)} "
            f"({number(self.low)} to {number(self.high)} over {self.draws} draws); with all wordings together it is "
            f"{number(self.ensemble)}. The pairs that depend most on their words:",
            ("Organ and abnormality", "All wordings", "Single, mean", "Worst", "Best", "Wordings"),
            tuple(rows),
        )
        return (table,)


def prompt_variance(context: Context) -> PromptVariance | None:
    """AUROC over all combinations of one positive with one negative prompt; None where pairs have one prompt each."""
    combinations = {pair: _combinations(context, pair) for pair in sorted(context.labels)}
    if all(len(values) <= 1 for values in combinations.values()):
        context.notes.append("Prompt variance: no pair has more than one wording.")
        return None
    ensemble = {pair: _auroc(context, pair, context.split.differences[pair]) for pair in combinations}
    rng = np.random.default_rng(context.config.seed)
    macro = np.mean([rng.choice(values, DRAWS) for values in combinations.values()], axis=0)
    low, high = np.quantile(macro, [0.025, 0.975])
    pairs = [
        PairPrompts(
            ":".join(pair), ensemble[pair], float(v.mean()), float(v.min()), float(v.max()), float(v.std()), len(v)
        )
        for pair, v in combinations.items()
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


def _combinations(context: Context, pair: Pair) -> Float[np.ndarray, " combinations"]:
    positive, negative = context.scorer.prompts(pair)
    vectors = context.scorer.directions([(text,) for text in (*positive, *negative)])
    similar = alike(context.split.embeddings.diagnosis[context.labels[pair].rows], vectors)
    weight = context.scorer.negative_weight
    yes, no = similar[:, : len(positive)], similar[:, len(positive) :]
    return np.array([_auroc(context, pair, a - weight * b) for a in yes.T for b in no.T])


def _auroc(context: Context, pair: Pair, scores: Float[np.ndarray, " n"]) -> float:
    question = pair_question(scores, context.labels[pair], context.split.patients)
    return float(weighted_auroc(question, context.weights[:1])[0])
