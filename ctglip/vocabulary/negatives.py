"""Which abnormalities are false for an organ of a study.

Never one that the report affirms or leaves uncertain in the organ, nor an ancestor or descendant of one; a synonym is
the same entry of the dictionary, and so never another negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence
from ctglip.vocabulary.organs import OrganDictionary

Strategy = Literal["none", "batch", "random", "same_organ", "confusable"]
CONFUSABLE_WEIGHT = 4.0
"""How much likelier than the rest the strategy ``confusable`` draws a sibling or rival of an affirmed finding."""


def related(names: Iterable[str], abnormalities: AbnormalityDictionary) -> frozenset[str]:
    """Abnormalities with all their kin; names that the dictionary does not know are passed over."""
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
    blocked = related((*evidence.affirmed, *evidence.uncertain), abnormalities)
    return tuple(entry.name for entry in abnormalities.of_organ(organ) if entry.name not in blocked)


def confusable(evidence: OrganEvidence, abnormalities: AbnormalityDictionary) -> frozenset[str]:
    """Siblings and rivals of what the report affirms or suspects in the organ."""
    near: set[str] = set()
    for name in (*evidence.affirmed, *evidence.uncertain):
        if name in abnormalities:
            entry = abnormalities[name]
            near.update(entry.mutually_exclusive)
            near.update(*(abnormalities.descendants(parent) for parent in entry.parents))
    return frozenset(near)
