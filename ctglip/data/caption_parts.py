"""Captions of parts of a split as numbers, and all parts joined to the arrays of a ``CaptionTable``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int

from ctglip.data.captions import (
    Caption,
    CaptionBuilder,
    CaptionKind,
    false_names,
)
from ctglip.data.derived import Arrays
from ctglip.data.mirror import Mirror
from ctglip.data.ragged import packed_json, ragged, text_arrays, unpacked_json
from ctglip.reports.parser import get_parser
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, ReportEvidence, organ_evidence
from ctglip.vocabulary.organs import OrganDictionary

KINDS: tuple[CaptionKind, ...] = ("abnormal", "normal", "silent")
ABNORMAL, NORMAL, SILENT = range(3)
LEFT_OUT = -1
Reports = Sequence[tuple[Sequence[Finding], str]]
"""For each organ the findings of its study's report, and its name."""


@dataclass(frozen=True)
class CaptionRules:
    """What captions depend on beside the reports.

    Attributes:
        organs, abnormalities: the dictionaries.
        unmentioned_as_negative: see ``DataSettings``.
        mirrored: captions of mirror images are made, too.
        held_out: organs of which a report affirms one of these are left out.
    """

    organs: OrganDictionary
    abnormalities: AbnormalityDictionary
    unmentioned_as_negative: bool = False
    mirrored: bool = False
    held_out: frozenset[str] = frozenset()

    def builder(self) -> CaptionBuilder:
        """Makes captions, and numbers texts."""
        return CaptionBuilder(self.organs, self.abnormalities, self.unmentioned_as_negative)


# ---- a part


def caption_part(reports: Reports, rules: CaptionRules) -> dict[str, np.ndarray]:
    """The captions of some organs: numbers for each, and what they number as plain data."""
    builder, entries = rules.builder(), _Profiles()
    rows = np.arange(len(reports))
    if rules.held_out:
        affirmed = (organ_evidence(*report, rules.organs, rules.abnormalities).affirmed for report in reports)
        rows = np.flatnonzero([rules.held_out.isdisjoint(names) for names in affirmed])
    used = [reports[row] for row in rows.tolist()]
    found = _spread(rows, len(reports), list(_numbered(used, rules, builder, entries, False)))
    arrays = {"profile": found[:, 0], "possible": found[:, 1]}
    first = len(entries.profiles)
    if rules.mirrored:
        mirror = Mirror(rules.organs, get_parser())
        turned = [(row, mirror.findings(*report)) for row, report in zip(rows.tolist(), used, strict=True)]
        there = [(row, findings) for row, findings in turned if findings is not None]
        others = [(findings, rules.organs.mirror(reports[row][1])) for row, findings in there]
        numbers = np.array([row for row, _ in there], dtype=np.int64)
        found = _spread(numbers, len(reports), list(_numbered(others, rules, builder, entries, True)))
        arrays |= {"mirror_profile": found[:, 0], "mirror_possible": found[:, 1]}
    return arrays | {"entries": packed_json(entries.plain(first, builder.texts))}


def _numbered(
    reports: Reports, rules: CaptionRules, builder: CaptionBuilder, entries: _Profiles, mirrored: bool
) -> Iterator[tuple[int, int]]:
    """The numbers of each organ's profile, and of the abnormalities that may be in its study."""
    evidence, last, silent = None, None, {}
    for findings, organ in reports:
        if evidence is None or last is not findings:
            evidence, last = ReportEvidence(findings, rules.organs, rules.abnormalities), findings
        if evidence.mentions(organ) or rules.unmentioned_as_negative:
            found = evidence.of(organ)
            profile = entries.add(found, *builder.statements(found, findings), mirrored)
        else:  # most organs of most reports
            if organ not in silent:
                silent[organ] = entries.add(OrganEvidence(organ), "silent", (), mirrored)
            profile = silent[organ]
        yield profile, entries.possible.setdefault(evidence.possible, len(entries.possible))


def _spread(rows: Int[np.ndarray, " k"], count: int, numbers: list[tuple[int, int]]) -> Int[np.ndarray, "n 2"]:
    """Numbers of some of so many rows, ``LEFT_OUT`` for the others."""
    found = np.full((count, 2), LEFT_OUT, dtype=np.int32)
    found[rows] = np.array(numbers, dtype=np.int32).reshape(-1, 2)
    return found


class _Profiles:
    """Profiles and sets of abnormalities, each once, numbered in the order in which they come."""

    def __init__(self) -> None:
        self.profiles: dict[Any, int] = {}
        self.possible: dict[frozenset[str], int] = {}

    def add(self, evidence: OrganEvidence, kind: CaptionKind, captions: Sequence[Caption], mirrored: bool) -> int:
        """The number of an organ's profile."""
        used = captions[:1] if kind == "normal" else captions  # the dictionary's words come when all is known
        entries = tuple((tuple(sorted(one.names)), one.report) for one in used)
        affirmed, maybe = tuple(evidence.affirmed), evidence.uncertain.union(evidence.affirmed)
        variant = mirrored and kind == "normal"
        profile = (evidence.organ, KINDS.index(kind), variant, affirmed, entries, maybe, evidence.negated)
        return self.profiles.setdefault(profile, len(self.profiles))

    def plain(self, first_mirrored: int, texts: list[str]) -> dict[str, Any]:
        """As plain data."""
        return {
            "profiles": [(*one, sorted(maybe), sorted(negated)) for *one, maybe, negated in self.profiles],
            "first_mirrored": first_mirrored,
            "possible": [sorted(names) for names in self.possible],
            "texts": texts,
        }


# ---- all parts


def join_captions(parts: Sequence[Arrays], rules: CaptionRules) -> dict[str, np.ndarray]:
    """The arrays of a ``CaptionTable`` from those of parts, in order."""
    return _Join(parts, rules).arrays()


class _Join:
    """Numbers the entries of all parts anew: those of organs as they are first, then those of mirror images."""

    def __init__(self, parts: Sequence[Arrays], rules: CaptionRules) -> None:
        self.parts, self.rules, self.builder = parts, rules, rules.builder()
        self.profiles: dict[Any, int] = {}
        self.false: dict[Any, int] = {}
        self.possible: dict[Any, int] = {}
        self.texts: dict[str, int] = {}
        self.keys: dict[Any, int] = {}
        self.names: dict[str, int] = {}
        self.affirmed: dict[bool, dict[str, set[str]]] = {False: defaultdict(set), True: defaultdict(set)}

    def arrays(self) -> dict[str, np.ndarray]:
        """See ``join_captions``."""
        maps: list[np.ndarray] = []
        possible: list[np.ndarray] = []
        for part in self.parts:  # one at a time: as Python objects they are large
            entries = unpacked_json(part["entries"])
            maps.append(np.zeros(len(entries["profiles"]), dtype=np.int32))
            self._add_profiles(entries, maps[-1], mirrored=False)
            possible.append(self._numbered(self.possible, [tuple(self._codes(n)) for n in entries["possible"]]))
        for part, numbers in zip(self.parts, maps, strict=True) if self.rules.mirrored else ():
            self._add_profiles(unpacked_json(part["entries"]), numbers, mirrored=True)
        arrays = {}
        for column in self.parts[0]:
            if column != "entries":
                several = maps if column.endswith("profile") else possible
                arrays[column] = np.concatenate(
                    [_renumbered(part[column], m) for part, m in zip(self.parts, several, strict=True)]
                )
        return arrays | self._entry_arrays() | self._occurrences(arrays)

    def _add_profiles(self, entries: dict[str, Any], numbers: np.ndarray, mirrored: bool) -> None:
        first, texts = entries["first_mirrored"], entries["texts"]
        for local in range(first, len(numbers)) if mirrored else range(first):
            organ, kind, variant, affirmed, captions, maybe, negated = entries["profiles"][local]
            self.affirmed[mirrored][organ].update(affirmed)
            numbered = tuple(
                (self._key(organ, names), tuple(self._text(texts[one]) for one in report)) for names, report in captions
            )
            false = (organ, tuple(self._codes(maybe)), tuple(self._codes(negated)))
            number = self.false.setdefault(false, len(self.false))
            profile = (organ, kind, variant, tuple(self._codes(affirmed)), numbered, number)
            numbers[local] = self.profiles.setdefault(profile, len(self.profiles))

    @staticmethod
    def _numbered(known: dict[Any, int], values: Iterable[Any]) -> np.ndarray:
        return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)

    def _codes(self, names: Iterable[str]) -> list[int]:
        return [self.names.setdefault(name, len(self.names)) for name in names]

    def _key(self, organ: str, names: Sequence[str]) -> int:
        return self.keys.setdefault((organ, tuple(self._codes(sorted(names)))), len(self.keys))

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def _entry_arrays(self) -> dict[str, np.ndarray]:
        """All that rows number."""
        number = {name: position for position, name in enumerate(self.rules.organs.names)}
        profiles = list(self.profiles)
        captions = [one for profile in profiles for one in profile[4]]
        about = self._prompts(profiles)  # adds texts
        return {
            "profile_organ": np.array([number[p[0]] for p in profiles], dtype=np.int16),
            "profile_kind": np.array([p[1] for p in profiles], dtype=np.int8),
            "profile_mirrored": np.array([bool(p[2]) for p in profiles], dtype=bool),
            "false_organ": np.array([number[one[0]] for one in self.false], dtype=np.int16),
            "profile_false": np.array([p[5] for p in profiles], dtype=np.int32),
            **ragged("affirmed", [p[3] for p in profiles]),
            "caption_ends": np.cumsum([0, *(len(p[4]) for p in profiles)], dtype=np.int64),
            "caption_key": np.array([key for key, _ in captions], dtype=np.int32),
            **ragged("report", [report for _, report in captions]),
            **{k: v for n, name in enumerate(("maybe", "negated"), 1)
               for k, v in ragged(name, [one[n] for one in self.false]).items()},
            **ragged("possible_names", list(self.possible)),
            **ragged("key_names", [names for _, names in self.keys]),
            "key_organ": np.array([number[organ] for organ, _ in self.keys], dtype=np.int16),
            "about": packed_json({**about, "names": list(self.names)}),
            **text_arrays(list(self.texts)),
        }  # fmt: skip

    def _prompts(self, profiles: list[Any]) -> dict[str, Any]:
        """The dictionary's words for what is affirmed or false of any organ, and for normal ones: their texts."""
        builder, names = self.builder, list(self.names)
        pairs = self._pairs()
        affirmed = dict.fromkeys((p[0], names[code]) for p in profiles for code in p[3])
        positive = [
            (organ, name, [self._text(text) for text in builder.positive_prompts(organ, name)])
            for organ, name in {**pairs, **affirmed}
        ]
        normal: list[dict[str, list[list[int]]]] = []
        for mirrored in (False, True):  # of mirror images all that is affirmed of any organ counts
            builder.affirm(self.affirmed[mirrored])
            organs = dict.fromkeys(p[0] for p in profiles if p[1] == NORMAL and bool(p[2]) == mirrored)
            prompts = {organ: builder.prompts_of_normal(organ) for organ in organs}
            normal.append({o: [[self._text(t) for t in texts] for texts in some] for o, some in prompts.items()})
        return {"positive": positive, "pairs": list(pairs), "normal": normal}

    def _pairs(self) -> dict[tuple[str, str], None]:
        """What is false of some organ, in the order of the organs that it is false of first."""
        pairs: dict[tuple[str, str], None] = {}
        names, dictionary = list(self.names), self.rules.abnormalities
        organs = {organ for organ, _, _ in self.false}
        missing = {organ: {one.name for one in dictionary.of_organ(organ)} for organ in organs}
        for organ, *codes in self.false:
            if missing[organ]:
                maybe, negated = (frozenset(names[code] for code in some) for some in codes)
                hard, others, _ = false_names(organ, maybe, negated, self.rules.organs, dictionary)
                pairs |= dict.fromkeys((organ, name) for name in (*hard, *others))
                missing[organ].difference_update(hard, others)
        return pairs

    def _occurrences(self, rows: Arrays) -> dict[str, np.ndarray]:
        """By key, how what is affirmed is said, as often as it is, with the chance of each added up."""
        profiles = list(self.profiles)
        starts = np.cumsum([0, *(len(p[4]) for p in profiles)])
        counts = np.array([len(p[4]) if p[1] == ABNORMAL else 0 for p in profiles], dtype=np.int64)
        keys = np.array([key for p in profiles for key, _ in p[4]], dtype=np.int64)
        used = np.concatenate([rows[name] for name in ("profile", "mirror_profile") if name in rows])
        used = used[used >= 0]
        used = used[counts[used] > 0]
        several = counts[used]
        within = np.arange(several.sum()) - np.repeat(np.cumsum(several) - several, several)
        captions = np.repeat(starts[used], several) + within
        weights = np.repeat(1 / several, several) if len(several) else np.zeros(0)
        order = np.argsort(keys[captions], kind="stable")
        ends = np.searchsorted(keys[captions][order], np.arange(len(self.keys) + 1))
        weights = weights[order]
        sums = [weights[a:b] for a, b in pairwise(ends)]
        cumulative = [np.cumsum(some) for some in sums]
        return {
            "occurrence": captions[order].astype(np.int32),
            "occurrence_ends": ends.astype(np.int64),
            "cumulative": np.concatenate([c / c[-1] for c in cumulative if len(c)] or [np.zeros(0)]),
            "total": np.array([float(some.sum()) for some in sums]),
        }


def _renumbered(column: Int[np.ndarray, " n"], numbers: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    found = np.append(numbers, np.int32(LEFT_OUT))[column]
    return found.astype(np.int32)
