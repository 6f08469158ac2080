"""Organs: names, label numbers, parts, ROI definitions, and the words that reports use for them.

The data is ``organ_dictionary/organs.yaml``; its README explains every field. Nothing here imports TotalSegmentator:
its class names and numbers stand in the data, and a test holds the two together.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator

from ctglip.config import Settings, validate
from ctglip.errors import VocabularyError
from ctglip.files import read_yaml, value_hash
from ctglip.resources import resource
from ctglip.vocabulary.mask_names import MaskNames, Side

Version = Literal["v1", "v2", "v3"]
CodeSource = Literal["totalsegmentator", "slicer", "dicom"]
_FORMER_NAMES = {"grounding": "roi", "look": "ct_appearance", "exclusive": "mutually_exclusive"}


class Code(Settings):
    """A concept of a terminology, and the list it was read from.

    Attributes:
        scheme: coding scheme designator as DICOM writes it (``SCT`` is SNOMED CT).
        source: ``totalsegmentator`` and ``slicer`` are their published SNOMED mappings, ``dicom`` is DICOM PS3.16.
    """

    scheme: str = "SCT"
    value: str
    meaning: str
    source: CodeSource


class RoiDefinition(Settings):
    """Which voxels an organ is read from.

    Attributes:
        masks: organs whose voxels (with their parts') are read; empty where no mask comes near it.
        dilate_mm: how far the masks are grown.
        shell: only what the growth added (pleura around a lung), not the masks themselves.
        margin_mm: what a crop keeps around the box of the ROI.
    """

    masks: tuple[str, ...] = ()
    dilate_mm: float = Field(default=0.0, ge=0)
    shell: bool = False
    margin_mm: float = Field(default=10.0, ge=0)


class Organ(Settings):
    """One organ, part of an organ, or group of organs.

    Attributes:
        name: key, TotalSegmentator's class name where one exists.
        display: how a sentence names it, after "the".
        side: of a paired structure; None for the pair, and for midline organs.
        label: number in a store's ``organs`` array; None when no segmentation draws this very structure.
        group: family; an abnormality of an organ is also one of its parts of the same group.
        parts: smaller structures; their voxels are this organ's voxels too.
        roi: see :class:`RoiDefinition`; by default the organ's own voxels.
        totalsegmentator: class names by version of TotalSegmentator's main task.
        anatomy: False for a lesion that is segmented like an organ: no report means it by its name alone.
        plural: the display name takes a plural verb.
    """

    name: str
    display: str
    side: Side | None = None
    label: int | None = Field(default=None, ge=1, le=255)
    group: str | None = None
    parts: tuple[str, ...] = ()
    roi: RoiDefinition = RoiDefinition()
    totalsegmentator: dict[Version, tuple[str, ...]] = Field(default_factory=dict)
    code: Code | None = None
    synonyms: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()
    plural: bool = False
    anatomy: bool = True

    @field_validator("totalsegmentator", mode="before")
    @classmethod
    def _by_version(cls, value: Any, info: Any) -> Any:
        """``[v1, v2]`` in the data: the classes of that very name."""
        return dict.fromkeys(value, (info.data.get("name"),)) if isinstance(value, list | tuple) else value

    @property
    def phrases(self) -> tuple[str, ...]:
        """Display name and synonyms, as a report may write them (adjectives not included)."""
        return tuple(dict.fromkeys((self.display, *self.synonyms)))


class OrganDictionary:
    """All organs, and the relations between them.

    Args:
        organs: name to organ.
        source: where they were read from, for messages.

    Raises:
        VocabularyError: code ``bad_dictionary``: a part, ROI mask or label that contradicts another entry.
    """

    def __init__(self, organs: Mapping[str, Organ], source: str = "the organ dictionary") -> None:
        self.organs: Mapping[str, Organ] = MappingProxyType(dict(organs))
        self.names: tuple[str, ...] = tuple(self.organs)
        self.source = source
        self._parts: dict[str, frozenset[str]] = {}
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        """Plain data, for worker processes that are spawned."""
        return {**self.__dict__, "organs": dict(self.organs)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, organs=MappingProxyType(state["organs"]))

    @cached_property
    def hash(self) -> str:
        """Hex hash of the content."""
        return value_hash([organ.model_dump(mode="json") for organ in self.organs.values()])

    def __getitem__(self, name: str) -> Organ:
        """The organ of that name.

        Raises:
            VocabularyError: code ``unknown_organ``, with the nearest names.
        """
        if name in self.organs:
            return self.organs[name]
        near = difflib.get_close_matches(str(name).lower().replace(" ", "_"), self.names, n=3, cutoff=0.5)
        raise VocabularyError(
            f"There is no organ {name!r} in {self.source}.",
            code="unknown_organ",
            fix=f"Nearest names: {', '.join(near)}." if near else "See organ_dictionary/organs.yaml for the names.",
        )

    def __contains__(self, name: object) -> bool:
        return name in self.organs

    def parts_of(self, name: str) -> frozenset[str]:
        """Names of all parts, parts of parts included, itself not."""
        self[name]
        return self._parts[name]

    @cached_property
    def _containers(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(w for w in self.names if name in self._parts[w]) for name in self.names}

    def containing(self, name: str) -> frozenset[str]:
        """Names of everything that this organ is a part of, itself not."""
        self[name]
        return self._containers[name]

    @cached_property
    def _labels(self) -> dict[str, frozenset[int]]:
        labels = {name: organ.label for name, organ in self.organs.items()}
        return {
            name: frozenset(label for member in (name, *self._parts[name]) if (label := labels[member]))
            for name in self.names
        }

    def labels_of(self, name: str) -> frozenset[int]:
        """Label numbers of the organ's voxels: its own and its parts'. Empty when nothing segments it."""
        self[name]
        return self._labels[name]

    def roi_labels(self, name: str) -> frozenset[int]:
        """Label numbers of the masks of its ROI (before any dilation). Empty when nothing comes near it."""
        return frozenset().union(*(self.labels_of(mask) for mask in self[name].roi.masks))

    @cached_property
    def segmented(self) -> tuple[str, ...]:
        """Organs whose ROI is their own voxels, neither a neighbour's nor a shell."""
        return tuple(n for n, o in self.organs.items() if o.roi.masks == (n,) and self._labels[n])

    def label_names(self) -> dict[int, str]:
        """Label number to organ name."""
        return {organ.label: name for name, organ in self.organs.items() if organ.label is not None}

    def mirror(self, name: str) -> str:
        """The same structure on the other side, or the name itself where there is none."""
        side = self[name].side
        if side is None:
            return name
        other = "right" if side == "left" else "left"
        mirrored = re.sub(rf"(?<=_){side}(?=_|$)", other, name)
        return mirrored if mirrored in self.organs and self.organs[mirrored].side == other else name

    def on_side(self, name: str, side: Side) -> str:
        """The given side's member: of a pair (``kidneys``) its part, of a sided organ itself or its mirror."""
        organ = self[name]
        if organ.side is not None:
            return name if organ.side == side else self.mirror(name)
        members = [p for p in organ.parts if self.organs[p].side == side and self.organs[p].group == organ.group]
        return members[0] if len(members) == 1 else name

    @cached_property
    def _phrases(self) -> dict[str, str]:
        found: dict[str, str] = {}
        described = [organ for organ in self.organs.values() if organ.anatomy]
        for organ in described:
            found.setdefault(normalise(organ.name), organ.name)
            found.setdefault(normalise(organ.display), organ.name)
        for organ in described:
            for synonym in organ.synonyms:
                found.setdefault(normalise(synonym), organ.name)
        return found

    def find(self, text: str) -> Organ | None:
        """The organ of that name, display name or synonym (case, underscores and a leading "the" do not matter)."""
        name = self._phrases.get(normalise(text))
        return self.organs[name] if name else None

    @cached_property
    def mask_names(self) -> MaskNames:
        """The organs that have a label, by the names and codes that masks carry."""
        labelled = {name: organ for name, organ in self.organs.items() if organ.label is not None}
        return MaskNames(
            built_in={
                n: (n, *(c for classes in o.totalsegmentator.values() for c in classes)) for n, o in labelled.items()
            },
            sides={name: organ.side for name, organ in labelled.items()},
            codes={name: (o.code.scheme, o.code.value) for name, o in labelled.items() if o.code is not None},
            mirror=self.mirror,
        )

    def from_source(self, name: str) -> Organ | None:
        """The organ with a label that masks of that name draw (a class of TotalSegmentator, a segment), or None."""
        known = self.mask_names.find(name)
        return self.organs[known] if known else None

    def _check(self) -> None:
        self._known_names()
        for name in self.names:
            self._parts[name] = frozenset(self._collect(name, ()))
        labels: dict[int, str] = {}
        for name, organ in self.organs.items():
            if organ.label is not None and labels.setdefault(organ.label, name) != name:
                self._fault(f"{labels[organ.label]} and {name} have the same label {organ.label}")

    def _known_names(self) -> None:
        for name, organ in self.organs.items():
            for other in (*organ.parts, *organ.roi.masks):
                if other not in self.organs:
                    self._fault(f"{name} names {other!r}, which is not an organ of it")

    def _collect(self, name: str, above: tuple[str, ...]) -> set[str]:
        if name in above:
            self._fault(f"{' > '.join((*above, name))} is a part of itself")
        parts = set(self.organs[name].parts)
        return parts.union(*(self._collect(part, (*above, name)) for part in parts))

    def _fault(self, what: str) -> None:
        raise VocabularyError(f"{self.source}: {what}.", code="bad_dictionary", fix="Correct that entry.")


def normalise(text: str) -> str:
    """Lower case, underscores and runs of blanks as one blank, no leading "the" and no final full stop."""
    return re.sub(r"^the ", "", " ".join(text.lower().replace("_", " ").split()).rstrip(".")).strip()


def default_organs_path() -> Path:
    """Path of the shipped ``organs.yaml``."""
    return resource("organ_dictionary", "organs.yaml")


def load_organs(path: Path | None = None) -> OrganDictionary:
    """Read an organ dictionary; the same file, unchanged, is read once per process.

    Args:
        path: an ``organs.yaml``; the shipped one by default.

    Raises:
        ConfigError: a field is missing, unknown or of the wrong type.
        VocabularyError: entries contradict each other.

    Examples:
        >>> import ctglip
        >>> organs = ctglip.load_organs()
        >>> organs.find("left kidney").name, organs.mirror("kidney_left")
        ('kidney_left', 'kidney_right')
    """
    path = (path or default_organs_path()).resolve()
    return _load(path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> OrganDictionary:  # noqa: ARG001  (part of the cache key)
    return OrganDictionary(dict(_entries(read_yaml(path), path)), str(path))


def _entries(tree: Any, path: Path) -> Iterable[tuple[str, Organ]]:
    entries = tree.get("organs") if isinstance(tree, dict) else None
    if not isinstance(entries, dict):
        raise VocabularyError(
            f"{path} has no mapping 'organs'.", code="bad_dictionary", fix="See organ_dictionary/README.md."
        )
    for name, fields in entries.items():
        fields = current_fields(fields or {})
        roi = {"masks": [name], **(fields.get("roi") or {})}
        yield name, validate(Organ, {**fields, "name": name, "roi": roi}, f"{path}: {name}")


def current_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's fields by their names of today; dictionaries inside models of before have former ones."""
    return {_FORMER_NAMES.get(name, name): value for name, value in fields.items()}


@functools.cache
def totalsegmentator_classes() -> Mapping[int, str]:
    """TotalSegmentator v2's class number to class name (117 entries)."""
    organs = load_organs().organs.values()
    found = {o.label: o.totalsegmentator["v2"][0] for o in organs if o.label and "v2" in o.totalsegmentator}
    return MappingProxyType(dict(sorted(found.items())))
