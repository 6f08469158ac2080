"""What an organ phrase can stand for, and the words for sides."""

from __future__ import annotations

from typing import NamedTuple

SIDES = {"left": "left", "right": "right", "bilateral": "both", "both": "both", "bilaterally": "both", "lt": "left",
         "rt": "right", "two": "both"}  # fmt: skip


STATION = "_station"
"""Ends the names of structures that hold lymph nodes alone."""


class Where(NamedTuple):
    """What an organ phrase can stand for.

    Attributes:
        organ: the organ without a side, None where nothing spans the two.
        left, right: the organ on a side.
        adjective: the phrase is one ("hepatic").
        near: it names what is beside the organ ("paraduodenal").
        weak: it yields to any other place of the clause ("apex").
        structure: a part that is no organ of the dictionary ("interlobular septum").
        organs: all organs that it can stand for.
    """

    organ: str | None
    left: str | None
    right: str | None
    adjective: bool = False
    near: bool = False
    weak: bool = False
    structure: str | None = None
    organs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, organ: str | None, left: str | None = None, right: str | None = None, adjective: bool = False) -> Where:
        """A phrase for these organs."""
        named = frozenset(name for name in (organ, left, right) if name)
        return cls(organ, left, right, adjective, organs=named)
