"""Which organ a segment is: by its codes before its name, and what to say where they contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctglip.errors import MaskError
from ctglip.types import QualityCheck
from ctglip.vocabulary.mask_names import CodedConcept, side_of
from ctglip.vocabulary.organs import Organ, OrganDictionary


@dataclass(frozen=True)
class SegmentCodes:
    """The codes of one segment: property category, property types, anatomic regions, and modifiers of both."""

    category: tuple[CodedConcept, ...] = ()
    types: tuple[CodedConcept, ...] = ()
    regions: tuple[CodedConcept, ...] = ()
    modifiers: tuple[CodedConcept, ...] = ()


def organ_of(
    where: str,
    names: Sequence[str],
    codes: SegmentCodes,
    organs: OrganDictionary,
    checks: list[QualityCheck],
    meanings: Sequence[str] = (),
) -> Organ | None:
    """The organ of a segment, or None.

    Args:
        where: how the segment is called in messages; its own name may hold anything.
        names: its label and description; the first that is known counts.
        codes: its codes; they count before the names.
        checks: receives a warning where codes and name contradict each other.
        meanings: what its codes say in words, for codes and names that are not known.

    Raises:
        MaskError: ``side_contradicts`` when one says left and the other right.
    """
    found = (organs.from_source(str(name)) for name in (*names, *meanings) if name)
    called = next((organ for organ in found if organ is not None), None)
    coded = organs.mask_names.of_codes(codes.category, codes.types, codes.regions, codes.modifiers)
    if coded.excluded:
        return called if called is not None and not called.anatomy else None
    if coded.organ is None:
        return called
    organ = organs[coded.organ]
    sides = {side for side in (side_of(str(name)) for name in names if name) if side is not None}
    organ_side = organ.side or side_of(organ.name)
    if organ_side is not None and sides and organ_side not in sides:
        raise MaskError(
            f"The masks' {where} is {organ.display} by its code and on the {'/'.join(sorted(sides))} by its name.",
            code="side_contradicts",
            fix="Correct the one that is wrong in the segmentation.",
        )
    if called is None or called.name == organ.name or called.name in organs.containing(organ.name):
        return organ
    if called.name in organs.parts_of(organ.name):
        return called
    message = f"The masks' {where} is {organ.name} by its code and {called.name} by its name; the code counts."
    checks.append(QualityCheck("name_contradicts_code", "warning", message))
    return organ
