"""What a report says of one organ: its findings gathered over parts, containers and sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import Abnormality, AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

_Relation = Literal["same", "part", "container"]
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
    """Gather a report's findings for one organ.

    Affirmed or uncertain in a part counts for its container. Negated or normal of a container counts for its parts;
    negated on both sides counts for the pair. Affirmed in a container that does not say where leaves its parts
    uncertain. What organs share ("hiatal hernia") is affirmed of one as of the other.

    Args:
        findings: rows of one report; those that speak of no organ, or of unrelated ones, are passed over.
        organ: name in the organ dictionary.
    """
    related: list[tuple[_Relation, Finding]] = [
        (relation, row) for row in findings for relation in _relations(row, organ, organs, abnormalities)
    ]
    affirmed, suspected = _affirmed(related)
    uncertain = suspected - affirmed.keys()
    denied = {
        r.abnormality for relation, r in related if r.abnormality and r.status == "negated" and relation != "part"
    }
    denied |= _denied_on_both_sides(findings, organ, organs)
    negated = {kind for name in denied for kind in (name, *_kinds(abnormalities, name, organ))}
    for name in (*affirmed, *uncertain):
        negated -= {name, *(abnormalities.ancestors(name) if name in abnormalities else ())}
    sentences = tuple(dict.fromkeys(r.sentence for relation, r in related if relation != "container" and _affirms(r)))
    calm = any(r.status == "normal" and relation != "part" for relation, r in related)
    return OrganEvidence(
        organ=organ,
        affirmed=affirmed,
        negated=frozenset(negated),
        uncertain=frozenset(uncertain),
        elsewhere=frozenset(r.abnormality for r in findings if r.abnormality and r.status in POSSIBLE)
        - affirmed.keys(),
        normal=calm and not affirmed and not uncertain and not sentences,
        mentioned=bool(related),
        sentences=sentences,
    )


def _affirms(row: Finding) -> bool:
    return row.status == "affirmed"


def _affirmed(related: Iterable[tuple[_Relation, Finding]]) -> tuple[dict[str, str], set[str]]:
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


def _kinds(abnormalities: AbnormalityDictionary, name: str, organ: str) -> tuple[str, ...]:
    """Kinds of an abnormality that the organ can have: none of them is there when it is not."""
    if name not in abnormalities:
        return ()
    kinds = abnormalities.descendants(name)
    return tuple(entry.name for entry in abnormalities.of_organ(organ) if entry.name in kinds)


def _relations(
    row: Finding, organ: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> tuple[_Relation, ...]:
    """How the organ that a row speaks of stands to this one; nothing where the two are strangers."""
    for target in organs_named(row, organs):
        if target == organ:
            return ("same",)
        if target in organs.parts_of(organ):
            return ("part",)
        if organ in organs.parts_of(target):
            return ("container",)
        name = row.abnormality
        if name is not None and name in abnormalities and abnormalities[name].shared:
            return _relations_of_shared(target, organ, abnormalities[name], organs)
    return ()


def _relations_of_shared(
    target: str, organ: str, shared: Abnormality, organs: OrganDictionary
) -> tuple[_Relation, ...]:
    """How two organs stand to each other that share an abnormality: as one organ, as far as their sides agree."""
    if not {target, organ} <= set(shared.organs):
        return ()
    theirs, ours = organs[target].side, organs[organ].side
    if ours is not None and ours != theirs:
        return ("container",) if theirs is None else ()
    return ("same",) if organs.containing(target).isdisjoint(shared.organs) else ("part",)


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


def _denied_on_both_sides(findings: Sequence[Finding], organ: str, organs: OrganDictionary) -> set[str]:
    """What is negated in the left and in the right member of a pair."""
    left, right = organs.on_side(organ, "left"), organs.on_side(organ, "right")
    if organ in (left, right):
        return set()
    negated = [row for row in findings if row.abnormality and row.status == "negated"]
    on_left, on_right = (
        {row.abnormality for row in negated if side in organs_named(row, organs)} for side in (left, right)
    )
    return {name for name in on_left & on_right if name}
