"""The captions of all organs of a split as arrays: a row is an object when it is drawn.

An organ of a study has a *profile*, which it shares with all organs of the same name that the same is said of: its
kind, its captions, what is false of it. A study has the abnormalities that may be in it. Parts of a split are captioned
for themselves by ``CaptionBuilder`` and joined; what depends on the whole split (which abnormalities any report
affirms) is worked out then, so that the parts give what the whole would have given at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from ctglip.data.caption_parts import ABNORMAL, KINDS, LEFT_OUT, NORMAL, SILENT, CaptionRules
from ctglip.data.captions import (
    Caption,
    FindingTexts,
    OrganCaptions,
    Paraphrases,
    false_names,
)
from ctglip.data.derived import Arrays
from ctglip.data.ragged import Ragged, TextTable, unpacked_json
from ctglip.data.sampling import Pools
from ctglip.vocabulary.negatives import related


@dataclass(frozen=True)
class Taught:
    """What a dataset teaches.

    Attributes:
        organs: organ -> the abnormalities that reports affirm in it.
        with_text: organs of studies that a text can be given of.
        abnormal: of which something is affirmed.
    """

    organs: Mapping[str, tuple[str, ...]]
    with_text: int
    abnormal: int


class CaptionTable(Sequence[OrganCaptions]):
    """The captions of all organs of a split, by row.

    Args:
        arrays: of ``join_captions``.
        rules: by which they were made.

    Attributes:
        texts: every text that can be drawn; the numbers in captions point here.
        keys: what each caption key stands for: an organ and the abnormalities that are affirmed in it.
        profile: of each row; -1 where it was left out.
    """

    def __init__(self, arrays: Arrays, rules: CaptionRules) -> None:
        self._arrays, self.rules, self.organs = arrays, rules, rules.organs
        about = unpacked_json(arrays["about"])
        self.profile: Int[np.ndarray, " n"] = arrays["profile"]
        self.texts = TextTable(arrays)
        self._names: list[str] = about["names"]
        self._positive = {(organ, name): tuple(texts) for organ, name, texts in about["positive"]}
        self._normal = [{organ: [*map(tuple, some)] for organ, some in one.items()} for one in about["normal"]]
        self._pairs = [(organ, name) for organ, name in about["pairs"]]
        lists = ("affirmed", "report", "maybe", "negated", "possible_names", "key_names")
        self._lists = {name: Ragged(arrays, name) for name in lists}
        key_organ, key_names = arrays["key_organ"].tolist(), self._lists["key_names"]
        self.keys: tuple[tuple[str, frozenset[str]], ...] = tuple(
            (self.organs.names[organ], frozenset(self._named(key_names[key]))) for key, organ in enumerate(key_organ)
        )
        self._prompts = [
            self._positive[organ, next(iter(names))] if len(names) == 1 else () for organ, names in self.keys
        ]
        self._false = lru_cache(maxsize=1 << 14)(self._false_of)
        self._possible = lru_cache(maxsize=1 << 12)(self._possible_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return CaptionTable, (self._arrays, self.rules)

    def __len__(self) -> int:
        return len(self.profile)

    @overload
    def __getitem__(self, row: int) -> OrganCaptions: ...
    @overload
    def __getitem__(self, row: slice) -> list[OrganCaptions]: ...
    def __getitem__(self, row: int | slice) -> OrganCaptions | list[OrganCaptions]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return self._captions(int(self.profile[row]), int(self._arrays["possible"][row]))

    def mirrored(self, row: int) -> OrganCaptions | None:
        """The captions of a row's mirror image; None where there are none."""
        profile = int(self._arrays["mirror_profile"][row]) if "mirror_profile" in self._arrays else LEFT_OUT
        return None if profile == LEFT_OUT else self._captions(profile, int(self._arrays["mirror_possible"][row]))

    def take(self, rows: Int[np.ndarray, " m"]) -> CaptionTable:
        """Some rows, in any order."""
        columns = ("profile", "possible", "mirror_profile", "mirror_possible")
        changed = {name: self._arrays[name][rows] for name in columns if name in self._arrays}
        return CaptionTable({**self._arrays, **changed}, self.rules)

    def permuted(self, rng: np.random.Generator) -> CaptionTable:
        """Captions exchanged between the studies of each organ."""
        order, organ = np.arange(len(self)), self.organ
        for number in dict.fromkeys(organ.tolist()):
            rows = np.flatnonzero(organ == number)
            order[rows] = rng.permutation(rows)
        return self.take(order)

    @property
    def organ(self) -> Int[np.ndarray, " n"]:
        """The organ of each row, by its place in the dictionary."""
        return self._arrays["profile_organ"][self.profile]

    @property
    def kind(self) -> Int[np.ndarray, " n"]:
        """The kind of each row, by its place in ``KINDS``."""
        return self._arrays["profile_kind"][self.profile]

    @cached_property
    def taught(self) -> Taught:
        """See ``Taught``; rows without a text teach nothing but anatomy."""
        found: dict[str, set[str]] = {}
        profiles, counts = np.unique(self.profile, return_counts=True)
        kinds = self._arrays["profile_kind"][profiles]
        for profile in profiles.tolist():
            organ = self.organs.names[self._arrays["profile_organ"][profile]]
            found.setdefault(organ, set()).update(self._named(self._lists["affirmed"][profile]))
        organs = {organ: tuple(sorted(names)) for organ, names in sorted(found.items())}
        return Taught(organs, int(counts[kinds != SILENT].sum()), int(counts[kinds == ABNORMAL].sum()))

    @cached_property
    def paraphrases(self) -> dict[tuple[str, str], Paraphrases]:
        """How every abnormality that is false of an organ is affirmed of others."""
        found: dict[tuple[str, str], list[FindingTexts]] = {}
        ends, cumulative, total = (self._arrays[name] for name in ("occurrence_ends", "cumulative", "total"))
        for key, (organ, names) in enumerate(self.keys):
            start, stop = int(ends[key]), int(ends[key + 1])
            if stop > start:
                captions = _Occurrences(self, start, stop)
                finding = FindingTexts(organ, names, captions, cumulative[start:stop], float(total[key]))
                for name in names:
                    found.setdefault((organ, name), []).append(finding)
        return {pair: Paraphrases(self._positive[pair], tuple(found.get(pair, ()))) for pair in self._pairs}

    def pools(self) -> Pools:
        """The rows of each organ, by what they are drawn for."""
        organs, organ, kind = self.organs.names, self.organ, self.kind
        present = [(number, organs[number]) for number in np.unique(organ).tolist()]
        calm = {
            which: {name: np.flatnonzero((organ == number) & (kind == which)) for number, name in present}
            for which in (NORMAL, SILENT)
        }
        abnormal: dict[str, list[np.ndarray]] = {}
        affirmed = self._lists["affirmed"]
        rows = np.flatnonzero(kind == ABNORMAL)
        counts = affirmed.counts[self.profile[rows]]
        starts = affirmed.ends[self.profile[rows]]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        names, owners = affirmed.values[np.repeat(starts, counts) + within], np.repeat(rows, counts)
        pair = organ[owners].astype(np.int64) * len(self._names) + names
        order = np.argsort(pair, kind="stable")
        distinct, first = np.unique(pair[order], return_index=True)
        groups = np.split(owners[order], first[1:]) if len(distinct) else []
        appearance = np.argsort(order[first]) if len(distinct) else []
        for number in appearance:
            name = organs[int(distinct[number]) // len(self._names)]
            abnormal.setdefault(name, []).append(groups[number])
        return Pools(sorted(name for _, name in present), abnormal, calm[NORMAL], calm[SILENT])

    def caption(self, number: int) -> Caption:
        """A caption of what is affirmed, by its number."""
        key = int(self._arrays["caption_key"][number])
        return Caption(key, tuple(self._lists["report"][number]), self._prompts[key], self.keys[key][1])

    def _captions(self, profile: int, possible: int) -> OrganCaptions:
        arrays = self._arrays
        organ, kind = self.organs.names[arrays["profile_organ"][profile]], int(arrays["profile_kind"][profile])
        start, stop = arrays["caption_ends"][profile : profile + 2].tolist()
        captions: tuple[Caption, ...] = ()
        if kind == ABNORMAL:
            captions = tuple(map(self.caption, range(start, stop)))
        elif kind == NORMAL:
            key, report = int(arrays["caption_key"][start]), tuple(self._lists["report"][start])
            prompts = self._normal[int(arrays["profile_mirrored"][profile])][organ]
            captions = tuple(Caption(key, report, texts) for texts in prompts)
        affirmed = self._named(self._lists["affirmed"][profile]) if kind == ABNORMAL else ()
        hard, others, near = self._false(int(arrays["profile_false"][profile]))
        return OrganCaptions(organ, KINDS[kind], affirmed, captions, hard, others, near, self._possible(possible))

    def _false_of(self, number: int) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        maybe, negated = (frozenset(self._named(self._lists[name][number])) for name in ("maybe", "negated"))
        organ = self.organs.names[self._arrays["false_organ"][number]]
        return false_names(organ, maybe, negated, self.organs, self.rules.abnormalities)

    def _possible_of(self, number: int) -> frozenset[str]:
        return related(self._named(self._lists["possible_names"][number]), self.rules.abnormalities)

    def _named(self, codes: Iterable[int]) -> tuple[str, ...]:
        return tuple(self._names[code] for code in codes)


class _Occurrences(Sequence[Caption]):
    """How the same is affirmed of an organ, as often as it is."""

    def __init__(self, table: CaptionTable, start: int, stop: int) -> None:
        self._table, self._range = table, range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, row: Any) -> Any:
        found = self._range[row]
        if isinstance(found, range):
            return [self[number - self._range.start] for number in found]
        return self._table.caption(int(self._table._arrays["occurrence"][found]))
