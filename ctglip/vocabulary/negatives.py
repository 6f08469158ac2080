"""Descriptions that are false for a study: what a small 3D batch cannot supply by itself.

Never an abnormality that the report affirms or leaves uncertain in the organ, nor an ancestor or descendant of one; a
synonym is the same entry of the dictionary, and so never another negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.prompts import positive_prompts

Strategy = Literal["none", "batch", "random", "same_organ", "hierarchy"]
CONFUSABLE_WEIGHT = 4.0
"""How much likelier than the rest the strategy ``hierarchy`` draws a sibling or rival of an affirmed finding."""


@dataclass(frozen=True)
class Negative:
    """A description that is false for the study.

    Attributes:
        abnormality: what it describes.
        text: a positive phrasing of it.
        hard: the report itself says that it is absent.
    """

    abnormality: str
    text: str
    hard: bool


def _related(names: Iterable[str], abnormalities: AbnormalityDictionary) -> frozenset[str]:
    return frozenset().union(*(abnormalities.related(name) for name in names if name in abnormalities))


def allowed_negatives(
    evidence: OrganEvidence,
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
) -> tuple[str, ...]:
    """Abnormalities of the organ that the report neither affirms nor leaves open, in dictionary order.

    Raises:
        VocabularyError: the organ is unknown.
    """
    organ = organs[evidence.organ].name
    blocked = _related((*evidence.affirmed, *evidence.uncertain), abnormalities)
    return tuple(entry.name for entry in abnormalities.of_organ(organ) if entry.name not in blocked)


def sample_negatives(
    evidence: OrganEvidence,
    k: int,
    rng: np.random.Generator,
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    strategy: Strategy = "same_organ",
) -> list[Negative]:
    """Draw at most ``k`` different abnormalities that are false for the study, explicitly negated ones first.

    Args:
        evidence: what the report says of the organ.
        k: how many; fewer come back where the organ has fewer.
        rng: seeded generator; the same state gives the same negatives.
        strategy: where those come from that the report does not negate: ``none`` draws no negatives at all, ``batch``
            leaves them to the other texts of a batch and draws none either, ``random``
            from all abnormalities of all organs that the report affirms or suspects in none, ``same_organ`` from this
            organ's, ``hierarchy`` from this organ's, weighted towards what is easily mistaken: those that share a
            parent with an affirmed or uncertain one, or exclude it.
    """
    if strategy in ("none", "batch") or k <= 0:
        return []
    own = allowed_negatives(evidence, organs, abnormalities)
    hard = [name for name in own if name in evidence.negated]
    rest = own if strategy != "random" else _from_everywhere(evidence, abnormalities)
    rest = [name for name in rest if name not in evidence.negated]
    weights = _weights(rest, evidence, abnormalities) if strategy == "hierarchy" else np.ones(len(rest))
    chosen = _draw(hard, np.ones(len(hard)), k, rng)
    chosen += _draw(rest, weights, k - len(chosen), rng)
    return [
        Negative(name, _wording(name, evidence.organ, rng, organs, abnormalities), name in evidence.negated)
        for name in chosen
    ]


def _from_everywhere(evidence: OrganEvidence, abnormalities: AbnormalityDictionary) -> list[str]:
    blocked = _related((*evidence.affirmed, *evidence.uncertain, *evidence.elsewhere), abnormalities)
    return [name for name in abnormalities.names if name not in blocked]


def _draw(names: list[str] | tuple[str, ...], weights: np.ndarray, k: int, rng: np.random.Generator) -> list[str]:
    if not len(names) or k <= 0:
        return []
    picked = rng.choice(len(names), size=min(k, len(names)), replace=False, p=weights / weights.sum())
    return [names[index] for index in picked]


def confusable(evidence: OrganEvidence, abnormalities: AbnormalityDictionary) -> frozenset[str]:
    """Siblings and rivals of what the report affirms or suspects in the organ."""
    near: set[str] = set()
    for name in (*evidence.affirmed, *evidence.uncertain):
        if name in abnormalities:
            entry = abnormalities[name]
            near.update(entry.exclusive)
            near.update(*(abnormalities.descendants(parent) for parent in entry.parents))
    return frozenset(near)


def _weights(names: list[str], evidence: OrganEvidence, abnormalities: AbnormalityDictionary) -> np.ndarray:
    near = confusable(evidence, abnormalities)
    return np.array([CONFUSABLE_WEIGHT if name in near else 1.0 for name in names])


def _wording(
    name: str, organ: str, rng: np.random.Generator, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> str:
    entry = abnormalities[name]
    prompts = positive_prompts(entry, organs[organ if organ in entry.organs else entry.default_organ])
    return prompts[int(rng.integers(len(prompts)))]
