"""Abnormalities: their organs, which are subtypes of which, and how reports word their presence and absence.

The data is ``abnormality_dictionary/abnormalities.yaml``; its README explains every field.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ctglip.config import Settings, validate
from ctglip.errors import VocabularyError
from ctglip.files import read_yaml, value_hash
from ctglip.resources import resource
from ctglip.vocabulary.organs import Code, OrganDictionary, current_fields, load_organs, normalise


class Implied(Settings):
    """When a more general word means an entry: "a cyst in the left kidney" is a renal cyst.

    Attributes:
        by: the general entries whose word alone means this one.
        organs: said of these organs (their parts of the same group included); of all that the entry lists by default.
    """

    by: tuple[str, ...]
    organs: tuple[str, ...] = ()


class Abnormality(Settings):
    """One abnormality.

    Attributes:
        name: key, snake_case, singular.
        display: noun phrase for a sentence.
        organs: every organ it is an abnormality of, the default organ first. Loaded from the dictionary, this holds
            the listed organs, their parts of the same group, and the organs of its subtypes.
        parent: what it is a kind of.
        also: what else it is a kind of.
        implied: which more general words mean it, and in which organs; see :class:`Implied`.
        synonyms: other words for it, as reports write them.
        shared: it lies across its organs: seen in one of them, it is seen in all ("hiatal hernia").
        mutually_exclusive: abnormalities that one and the same organ cannot have together with it.
        positive: sentences that affirm it. Placeholders are listed in :mod:`ctglip.vocabulary.prompts`.
        negative: sentences that deny it.
        ct_appearance: its typical appearance on CT, one sentence.
    """

    name: str
    display: str
    organs: tuple[str, ...] = ()
    parent: str | None = None
    also: tuple[str, ...] = ()
    implied: Implied | None = None
    shared: bool = False
    synonyms: tuple[str, ...] = ()
    mutually_exclusive: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    ct_appearance: str = ""
    code: Code | None = None

    @property
    def default_organ(self) -> str:
        """Where a sentence means it that names no organ ("cholelithiasis")."""
        return self.organs[0]

    @property
    def parents(self) -> tuple[str, ...]:
        """Everything it is directly a kind of."""
        return ((self.parent,) if self.parent else ()) + self.also

    @property
    def phrases(self) -> tuple[str, ...]:
        """Display name and synonyms."""
        return tuple(dict.fromkeys((self.display, *self.synonyms)))


class AbnormalityDictionary:
    """All abnormalities, and the relations between them and to organs.

    Args:
        abnormalities: name to abnormality, as the data lists them.
        organs: the organ dictionary they refer to.
        source: where they were read from, for messages.

    Raises:
        VocabularyError: code ``bad_dictionary``: an unknown organ, parent or other entry, a cycle, or no organ.
    """

    def __init__(
        self,
        abnormalities: Mapping[str, Abnormality],
        organs: OrganDictionary,
        source: str = "the abnormality dictionary",
    ) -> None:
        self.source = source
        self._listed = dict(abnormalities)
        self._check_names(organs)
        self._ancestors = {name: frozenset(self._climb(name, ())) for name in self._listed}
        self._implied = self._implications(organs)
        found = {name: self._complete(entry, organs) for name, entry in self._listed.items()}
        self.abnormalities: Mapping[str, Abnormality] = MappingProxyType(found)
        self.names: tuple[str, ...] = tuple(found)

    def __getstate__(self) -> dict[str, Any]:
        """Plain data, for worker processes that are spawned."""
        return {**self.__dict__, "abnormalities": dict(self.abnormalities)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, abnormalities=MappingProxyType(state["abnormalities"]))

    @cached_property
    def hash(self) -> str:
        """Hex hash of the content."""
        return value_hash([entry.model_dump(mode="json") for entry in self.abnormalities.values()])

    def __getitem__(self, name: str) -> Abnormality:
        """The abnormality of that name.

        Raises:
            VocabularyError: code ``unknown_abnormality``, with the nearest names.
        """
        if name in self.abnormalities:
            return self.abnormalities[name]
        near = difflib.get_close_matches(str(name).lower().replace(" ", "_"), self.names, n=3, cutoff=0.5)
        raise VocabularyError(
            f"There is no abnormality {name!r} in {self.source}.",
            code="unknown_abnormality",
            fix=f"Nearest names: {', '.join(near)}."
            if near
            else "See abnormality_dictionary/abnormalities.yaml for the names.",
        )

    def __contains__(self, name: object) -> bool:
        return name in self.abnormalities

    @cached_property
    def _by_organ(self) -> dict[str, tuple[Abnormality, ...]]:
        found: dict[str, list[Abnormality]] = {}
        for entry in self.abnormalities.values():
            for organ in entry.organs:
                if self.specialise(entry.name, organ) == entry.name:
                    found.setdefault(organ, []).append(entry)
        return {organ: tuple(entries) for organ, entries in found.items()}

    def of_organ(self, organ: str) -> tuple[Abnormality, ...]:
        """The abnormalities that an organ can have, in dictionary order, each by its own name there.

        A general word that means another entry in the organ is left out: a liver's cysts are liver cysts.
        """
        return self._by_organ.get(organ, ())

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (organ, abnormality) that can be asked about."""
        named = ((organ, entry) for entry in self.abnormalities.values() for organ in entry.organs)
        return tuple((organ, e.name) for organ, e in named if self.specialise(e.name, organ) == e.name)

    def ancestors(self, name: str) -> frozenset[str]:
        """Everything it is a kind of, directly or not, itself not."""
        self[name]
        return self._ancestors[name]

    @cached_property
    def _descendants(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(n for n in self.names if name in self._ancestors[n]) for name in self.names}

    def descendants(self, name: str) -> frozenset[str]:
        """All its subtypes and theirs, itself not."""
        self[name]
        return self._descendants[name]

    @cached_property
    def _related(self) -> dict[str, frozenset[str]]:
        return {name: self._ancestors[name] | self._descendants[name] | {name} for name in self.names}

    def related(self, name: str) -> frozenset[str]:
        """Itself, its ancestors and its descendants: where one is affirmed, none of them may be called false."""
        self[name]
        return self._related[name]

    def specialise(self, name: str, organ: str) -> str:
        """What a general word means in an organ: "cyst" in a kidney is a renal cyst; the name itself otherwise."""
        name_there = self[name].name
        while (name_there, organ) in self._implied:
            name_there = self._implied[name_there, organ]
        return name_there

    @cached_property
    def _phrases(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in self.abnormalities.values():
            for text in entry.phrases:
                found.setdefault(normalise(text), entry.name)
        for name in self.names:
            found.setdefault(normalise(name), name)
        return found

    def find(self, text: str) -> Abnormality | None:
        """The abnormality of that name, display name or synonym (case and underscores do not matter).

        Words that one entry lists and another has for its name mean the first; the name with its underscores, the
        second: "chest tube" is medical material, ``chest_tube`` the entry.
        """
        name = text if "_" in text and text in self.abnormalities else self._phrases.get(normalise(text))
        return self.abnormalities[name] if name else None

    def _check_names(self, organs: OrganDictionary) -> None:
        for name, entry in self._listed.items():
            for organ in (*entry.organs, *(entry.implied.organs if entry.implied else ())):
                if organ not in organs:
                    self._fault(f"{name} names the organ {organ!r}, which the organ dictionary does not hold")
            for other in (*entry.parents, *entry.mutually_exclusive, *(entry.implied.by if entry.implied else ())):
                if other not in self._listed:
                    self._fault(f"{name} names the abnormality {other!r}, which is not in it")

    def _climb(self, name: str, below: tuple[str, ...]) -> set[str]:
        if name in below:
            self._fault(f"{' > '.join((*below, name))} is a kind of itself")
        parents = set(self._listed[name].parents)
        return parents.union(*(self._climb(parent, (*below, name)) for parent in parents))

    def _implications(self, organs: OrganDictionary) -> dict[tuple[str, str], str]:
        """(general abnormality, organ) to the entry that it means there."""
        found: dict[tuple[str, str], str] = {}
        for name, entry in self._listed.items():
            if entry.implied is None:
                continue
            listed = entry.implied.organs or entry.organs
            for organ in dict.fromkeys(
                m for organ_listed in listed for m in (organ_listed, *_same_group(organs, organ_listed))
            ):
                for general in entry.implied.by:
                    if general not in self._ancestors[name]:
                        self._fault(f"{name} is implied by {general}, but is not a kind of it")
                    rival = found.setdefault((general, organ), name)
                    if rival != name:
                        self._fault(f"{general} in {organ} implies both {rival} and {name}")
        return found

    def _complete(self, entry: Abnormality, organs: OrganDictionary) -> Abnormality:
        """The entry with all its organs, and with what it excludes on both sides."""
        subtypes = [other for other in self._listed.values() if entry.name in self._ancestors[other.name]]
        listed = [organ for source in (entry, *subtypes) for organ in source.organs]
        complete = dict.fromkeys(member for organ in listed for member in (organ, *_same_group(organs, organ)))
        if not complete:
            self._fault(f"{entry.name} has no organ, and neither has any subtype of it")
        excluding = [other.name for other in self._listed.values() if entry.name in other.mutually_exclusive]
        exclusive = tuple(dict.fromkeys((*entry.mutually_exclusive, *excluding)))
        return entry.model_copy(update={"organs": tuple(complete), "mutually_exclusive": exclusive})

    def _fault(self, what: str) -> None:
        raise VocabularyError(f"{self.source}: {what}.", code="bad_dictionary", fix="Correct that entry.")


def _same_group(organs: OrganDictionary, name: str) -> Iterator[str]:
    """Parts of an organ that can have its abnormalities: those of its own group."""
    parts, group = organs.parts_of(name), organs[name].group
    return (part for part in organs.names if part in parts and organs[part].group == group)


def load_abnormalities(path: Path | None = None, organs: OrganDictionary | None = None) -> AbnormalityDictionary:
    """Read an abnormality dictionary; the same file, unchanged, is read once per process.

    Args:
        path: an ``abnormalities.yaml``; the shipped one by default.
        organs: the organ dictionary it refers to; the shipped one by default.

    Raises:
        ConfigError: a field is missing, unknown or of the wrong type.
        VocabularyError: entries contradict each other or the organ dictionary.

    Examples:
        >>> import ctglip
        >>> abnormalities = ctglip.load_abnormalities()
        >>> abnormalities.find("fatty liver").name
        'hepatic_steatosis'
        >>> "gallstone" in {one.name for one in abnormalities.of_organ("gallbladder")}
        True
    """
    path = (path or resource("abnormality_dictionary", "abnormalities.yaml")).resolve()
    return _load(path, path.stat().st_mtime_ns if path.is_file() else 0, organs or load_organs())


@functools.lru_cache(maxsize=8)
def _load(path: Path, changed: int, organs: OrganDictionary) -> AbnormalityDictionary:  # noqa: ARG001  (cache key)
    return AbnormalityDictionary(dict(_entries(read_yaml(path), path)), organs, str(path))


def _entries(tree: Any, path: Path) -> Iterable[tuple[str, Abnormality]]:
    entries = tree.get("abnormalities") if isinstance(tree, dict) else None
    if not isinstance(entries, dict):
        raise VocabularyError(
            f"{path} has no mapping 'abnormalities'.",
            code="bad_dictionary",
            fix="See abnormality_dictionary/README.md.",
        )
    for name, fields in entries.items():
        yield name, validate(Abnormality, {**current_fields(fields or {}), "name": name}, f"{path}: {name}")
