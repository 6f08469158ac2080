"""What masks are called: the organ of a file's, a segment's or a structure's name, and of the codes of DICOM.

The data is ``organ_dictionary/mask_names.yaml``. The words of reports play no part here: a mask that is called "mass"
is not an organ.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctglip.errors import VocabularyError
from ctglip.files import read_yaml
from ctglip.resources import resource

Side = Literal["left", "right"]
CodedConcept = tuple[str, str]
"""Coding scheme designator and code value, as DICOM writes them."""

_WORD = re.compile(r"(?<![A-Za-z])[CTLSctls]\d{1,2}(?![A-Za-z0-9])|[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]|\d+")
_SIDES: dict[str, Side] = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_EMPTY = frozenset(
    {"of", "the", "and", "structure", "organ", "entire", "muscle", "bone", "mask", "masks", "seg", "segmentation"}
)
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()  # noqa: SIM905
_SAME: dict[str, str] = {"vertebrae": "vertebra", "vb": "vertebra", "clavicle": "clavicula"}
_SAME |= {word: str(number) for number, word in enumerate(_ORDINALS, start=1)}
_OLD_SCHEMES = ("SRT", "SNM3", "99SDM")
_LATERALITY: dict[str, Side] = {"7771000": "left", "24028007": "right"}

MaskKey = tuple[Side | None, tuple[str, ...]]


def key_of(name: str) -> MaskKey | None:
    """The side and the words of a mask's name, in no order; None for a name of both sides or without words."""
    words: list[str] = [word.lower() for word in _WORD.findall(name)]
    unsided = [word for word in words if word not in _SIDES]
    telling = [word for word in unsided if word not in _EMPTY] or unsided
    stems = sorted(_SAME.get(word, word.lstrip("0") or word) for word in telling)
    if len({_SIDES[word] for word in words if word in _SIDES}) > 1 or not stems:
        return None
    return (side_of(name), tuple(stems))


def side_of(name: str) -> Side | None:
    """The side that a mask's name tells; None where it tells none or both."""
    sides: set[Side] = {_SIDES[word] for word in map(str.lower, _WORD.findall(name)) if word in _SIDES}
    return next(iter(sides)) if len(sides) == 1 else None


@dataclass(frozen=True)
class CodedOrgan:
    """What codes say of a segment.

    Attributes:
        organ: the organ's name in the dictionary; None where the codes name none.
        excluded: the codes say that this is something else than an organ, so that its name does not count.
    """

    organ: str | None = None
    excluded: bool = False


@functools.cache
def _data() -> dict[str, Any]:
    return read_yaml(resource("organ_dictionary", "mask_names.yaml"))


class MaskNames:
    """The organs of a dictionary by the names and codes that masks carry.

    Args:
        built_in: names that each organ has in any case (its key, TotalSegmentator's classes).
        sides: the side of each organ that has one.
        codes: the SNOMED code of each organ that has one.
        mirror: the name of the same structure on the other side.

    Raises:
        VocabularyError: ``bad_dictionary`` when two organs have one name.
    """

    def __init__(
        self,
        built_in: Mapping[str, Iterable[str]],
        sides: Mapping[str, Side | None],
        codes: Mapping[str, CodedConcept],
        mirror: Callable[[str], str],
    ) -> None:
        self._sides = sides
        self._organs: dict[MaskKey, str] = {}
        for organ, names in built_in.items():
            for name in (*names, *_data()["names"].get(organ, ())):
                self._add(organ, name)
                key, other = key_of(name), mirror(organ)
                if key is not None and key[0] is not None and other != organ and other in built_in:
                    self._add(other, f"{'right' if key[0] == 'left' else 'left'} {' '.join(key[1])}")
        self._codes: dict[CodedConcept, list[str]] = {}
        for organ, code in codes.items():
            self._codes.setdefault(code, []).append(organ)
        for scheme, values in _data()["codes"].items():
            for value, organ in values.items():
                if organ in built_in and organ not in self._codes.get((scheme, value), ()):
                    self._codes.setdefault((scheme, value), []).append(organ)

    def _add(self, organ: str, name: str) -> None:
        key = key_of(name)
        if key is not None and self._organs.setdefault(key, organ) != organ:
            raise VocabularyError(
                f"Masks of {self._organs[key]} and of {organ} are both called {name!r}.", code="bad_dictionary"
            )

    def find(self, name: str) -> str | None:
        """The organ that a mask of this name draws, or None."""
        key = key_of(name)
        return self._organs.get(key) if key is not None else None

    def of_codes(
        self,
        category: Iterable[CodedConcept],
        types: Iterable[CodedConcept],
        regions: Iterable[CodedConcept],
        modifiers: Iterable[CodedConcept],
    ) -> CodedOrgan:
        """The organ that a segment's codes mean.

        Args:
            category: of the property.
            types: of the property; they come before the region.
            regions: anatomic regions; they count where the type says nothing by itself.
            modifiers: of type and region; left and right are looked for.
        """
        kinds = [translated(code) for code in (*category, *types)]
        if any(code[1] in _data()["not_organs"] for code in kinds):
            return CodedOrgan(excluded=True)
        laterality: set[Side] = {_LATERALITY[code[1]] for code in map(translated, modifiers) if code[1] in _LATERALITY}
        side = next(iter(laterality)) if len(laterality) == 1 else None
        specific = [code for code in map(translated, types) if code[1] not in _data()["unspecific"]]
        for group in (specific, [] if specific else [translated(code) for code in regions]):
            for code in group:
                if (organ := self._sided(self._codes.get(code, []), side)) is not None:
                    return CodedOrgan(organ)
        return CodedOrgan()

    def _sided(self, found: list[str], side: Side | None) -> str | None:
        fitting = [organ for organ in found if self._side(organ) == side]
        if not fitting and side is None and len(found) == 1:
            fitting = found  # the code itself tells the side
        return fitting[0] if len(fitting) == 1 else None

    def _side(self, organ: str) -> Side | None:
        return self._sides.get(organ) or side_of(organ)


def translated(code: CodedConcept) -> CodedConcept:
    """A code of SNOMED RT as one of SNOMED CT; other schemes by their usual designator."""
    scheme, value = code[0].strip(), code[1].strip()
    if scheme in _OLD_SCHEMES:
        from pydicom.sr._snomed_dict import mapping

        return "SCT", mapping["SRT"].get(value, value)
    if scheme.startswith("FMA"):
        return "FMA", value.removeprefix("FMA").lstrip(":_")
    return scheme, value
