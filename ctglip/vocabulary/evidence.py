"""What a report says of one organ: its findings gathered over parts, containers and sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import Abnormality, AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

OrganRelation = Literal["same", "part", "container"]
POSSIBLE = ("affirmed", "uncertain", "historical")


@dataclass(frozen=True)
class OrganEvidence:
    """What a report says of one organ.

    Attributes:
        organ: the organ.
        affirmed: abnormality to the first sentence that affirms it, here or in a part.
        negated: abnormalities that are said to be absent, with all their subtypes; never one that is affirmed or
            uncertain, nor anything such a one is a kind of.
        uncertain: abnormalities that may be there: hedged, historical, or affirmed of a container without saying where.
        elsewhere: abnormalities that are affirmed of or suspected in other organs, or nowhere in particular.
        normal: a sentence finds the organ (or what holds it) normal, and nothing affirms or suspects otherwise.
        mentioned: any sentence speaks of it, of a part, or of what holds it.
        sentences: sentences that affirm something here or in a part, verbatim, each once.
    """

    organ: str
    affirmed: dict[str, str] = field(default_factory=dict)
    negated: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    normal: bool = False
    mentioned: bool = False
    sentences: tuple[str, ...] = ()


def organ_evidence(
    findings: Sequence[Finding], organ: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> OrganEvidence:
    """What one report's findings say of one organ; of many organs ``ReportEvidence`` is faster."""
    return ReportEvidence(findings, organs, abnormalities).of(organ)


class ReportEvidence:
    """One report's findings, sorted by the organs that they say something of.

    Affirmed or uncertain in a part counts for its container. Negated or normal of a container counts for its parts;
    negated on both sides counts for the pair. Affirmed in a container that does not say where leaves its parts
    uncertain. What organs share ("hiatal hernia") is affirmed of one as of the other.

    Args:
        findings: rows of one report; those that speak of no organ are passed over.
        organs, abnormalities: the dictionaries.

    Attributes:
        possible: abnormalities that are affirmed of or suspected in any organ, or nowhere in particular.
    """

    def __init__(
        self, findings: Sequence[Finding], organs: OrganDictionary, abnormalities: AbnormalityDictionary
    ) -> None:
        self._organs, self._abnormalities = organs, abnormalities
        self._related: dict[str, list[tuple[OrganRelation, Finding]]] = {}
        self._negated: dict[str, set[str]] = {}
        for row in findings:
            for organ, relation in related_organs(row, organs, abnormalities).items():
                self._related.setdefault(organ, []).append((relation, row))
            if row.abnormality and row.status == "negated":
                for organ in organs_named(row, organs):
                    self._negated.setdefault(organ, set()).add(row.abnormality)
        self.possible = frozenset(r.abnormality for r in findings if r.abnormality and r.status in POSSIBLE)

    def mentions(self, organ: str) -> bool:
        """Whether any row says something of an organ."""
        return organ in self._related

    def of(self, organ: str) -> OrganEvidence:
        """What the report says of an organ, by its name in the dictionary."""
        abnormalities, related = self._abnormalities, self._related.get(organ, [])
        affirmed, suspected = _affirmed(related)
        uncertain = suspected - affirmed.keys()
        denied = {
            r.abnormality for relation, r in related if r.abnormality and r.status == "negated" and relation != "part"
        }
        denied |= self._denied_on_both_sides(organ)
        negated = {kind for name in denied for kind in (name, *_kinds(abnormalities, name, organ))}
        for name in (*affirmed, *uncertain):
            negated -= {name, *(abnormalities.ancestors(name) if name in abnormalities else ())}
        affirming = (r.sentence for relation, r in related if relation != "container" and _affirms(r))
        sentences = tuple(dict.fromkeys(affirming))
        calm = any(r.status == "normal" and relation != "part" for relation, r in related)
        return OrganEvidence(
            organ=organ,
            affirmed=affirmed,
            negated=frozenset(negated),
            uncertain=frozenset(uncertain),
            elsewhere=self.possible.difference(affirmed),
            normal=calm and not affirmed and not uncertain and not sentences,
            mentioned=bool(related),
            sentences=sentences,
        )

    def _denied_on_both_sides(self, organ: str) -> set[str]:
        """What is negated in the left and in the right member of a pair."""
        left, right = _sides(organ, self._organs)
        if organ in (left, right) or left not in self._negated or right not in self._negated:
            return set()
        return self._negated[left] & self._negated[right]


@lru_cache(maxsize=1 << 12)
def _sides(organ: str, organs: OrganDictionary) -> tuple[str, str]:
    """The left and the right member of a pair; of other organs both are the organ, or the two of its kind."""
    return organs.on_side(organ, "left"), organs.on_side(organ, "right")


def _affirms(row: Finding) -> bool:
    return row.status == "affirmed"


def _affirmed(related: Iterable[tuple[OrganRelation, Finding]]) -> tuple[dict[str, str], set[str]]:
    """Affirmed abnormalities with their sentences, and those that are merely possible."""
    affirmed: dict[str, str] = {}
    suspected: set[str] = set()
    for relation, row in related:
        if row.abnormality is None:
            continue
        if _affirms(row) and relation != "container":
            affirmed.setdefault(row.abnormality, row.sentence)
        elif row.status in POSSIBLE:
            suspected.add(row.abnormality)
    return affirmed, suspected


@lru_cache(maxsize=1 << 14)
def _kinds(abnormalities: AbnormalityDictionary, name: str, organ: str) -> tuple[str, ...]:
    """Kinds of an abnormality that the organ can have: none of them is there when it is not."""
    if name not in abnormalities:
        return ()
    kinds = abnormalities.descendants(name)
    return tuple(entry.name for entry in abnormalities.of_organ(organ) if entry.name in kinds)


def related_organs(
    row: Finding, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Mapping[str, OrganRelation]:
    """The organs that a row says something of: it speaks of the ``same``, of a ``part``, or of what holds it
    (``container``). What organs share is said of each of them."""
    targets, abnormality = organs_named(row, organs), row.abnormality
    known = abnormality is not None and abnormality in abnormalities and abnormalities[abnormality].shared
    return _relations_by_organ(targets, abnormality if known else None, organs, abnormalities) if targets else {}


@lru_cache(maxsize=1 << 12)
def _relations_by_organ(
    targets: tuple[str, ...], shared: str | None, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Mapping[str, OrganRelation]:
    entry = None if shared is None else abnormalities[shared]
    found: dict[str, OrganRelation] = {}
    for organ in organs.names:
        relation = _relation(targets, organ, entry, organs)
        if relation is not None:
            found[organ] = relation
    return found


def _relation(
    targets: tuple[str, ...], organ: str, shared: Abnormality | None, organs: OrganDictionary
) -> OrganRelation | None:
    for target in targets:
        if target == organ:
            return "same"
        if target in organs.parts_of(organ):
            return "part"
        if organ in organs.parts_of(target):
            return "container"
        if shared is not None:
            return _relation_of_shared(target, organ, shared, organs)
    return None


def _relation_of_shared(target: str, organ: str, shared: Abnormality, organs: OrganDictionary) -> OrganRelation | None:
    """How two organs stand to each other that share an abnormality: as one organ, as far as their sides agree."""
    if not {target, organ} <= set(shared.organs):
        return None
    theirs, ours = organs[target].side, organs[organ].side
    if ours is not None and ours != theirs:
        return "container" if theirs is None else None
    return "same" if organs.containing(target).isdisjoint(shared.organs) else "part"


def organs_named(row: Finding, organs: OrganDictionary) -> tuple[str, ...]:
    """The organs of the dictionary that a row speaks of, its side taken into account."""
    if row.organ is None or row.organ not in organs:
        return ()
    if row.laterality in ("left", "right"):
        return (organs.on_side(row.organ, row.laterality),)
    if row.laterality == "bilateral":
        sides = (organs.on_side(row.organ, "left"), organs.on_side(row.organ, "right"))
        return sides if organs[row.organ].side is None else (row.organ,)
    return (row.organ,)
