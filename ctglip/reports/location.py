"""One organ named in a sentence, with its side and level."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctglip.reports.where import Where
from ctglip.types import Laterality


@dataclass(slots=True)
class Location:
    """One organ named by the words ``start`` to ``end``.

    Attributes:
        where: the organ by side.
        sides: sides that the words around give it.
        level: the part inside the organ, as written.
        elliptic: a side alone, that stands for an organ named before.
    """

    start: int
    end: int
    where: Where
    sides: set[str] = field(default_factory=set)
    level: str | None = None
    elliptic: bool = False

    def members(self, organs_on_side: set[str] | None = None) -> tuple[tuple[str | None, Laterality | None], ...]:
        """(organ, laterality) for each organ meant: two rows when both sides are."""
        sides = self.sides or organs_on_side or set()
        left, right = self.where.left, self.where.right
        if not (left or right):
            return ((self.where.organ, None),)
        if "both" in sides or {"left", "right"} <= sides:
            return tuple((organ, "bilateral") for organ in dict.fromkeys((left, right)) if organ)
        if "left" in sides and left:
            return ((left, "left"),)
        if "right" in sides and right:
            return ((right, "right"),)
        return ((self.where.organ, None),)

    @property
    def sidable(self) -> bool:
        """Whether a side would make it more specific."""
        return bool(self.where.left or self.where.right)
