"""What a split of a store is trained from, derived once (see ``derived``): its organ instances and their captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from ctglip.data.caption_parts import CaptionRules, caption_part, join_captions
from ctglip.data.caption_tables import CaptionTable
from ctglip.data.crops import CropSettings
from ctglip.data.derived import Arrays, derived
from ctglip.data.instances import InstanceTable, instance_arrays
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import Progress
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs
from ctglip.vocabulary.prompts import load_abnormality_templates

VERSION = 1
"""Raised when the same tables, dictionaries and settings give others than before."""
STUDIES = 5_000
"""Of a part of the captions."""


def split_instances(
    store: Store, study_ids: Sequence[str], organs: Sequence[str], settings: CropSettings
) -> InstanceTable:
    """The wanted organs that are present in some studies, see ``instance_arrays``."""
    key = [VERSION, store.version("organs"), list(organs), settings.truncated, _hash(study_ids)]
    make = partial(instance_arrays, store, study_ids, organs, settings)
    return InstanceTable(study_ids, organs, derived(store, "instances", key, [make], _only))


def present_organs(store: Store) -> set[str]:
    """Organs that any study of a store has."""
    key = [VERSION, store.version("organs")]

    def make() -> dict[str, np.ndarray]:
        found = store.scan("organs").select(pl.col("organ").unique().sort()).collect()
        return {"organs": np.array(found["organ"].to_list(), dtype=np.str_)}

    return set(derived(store, "organs", key, [make], _only)["organs"].tolist())


class OrganSlots:
    """The place of each organ of a study among its rows of the organ table."""

    def __init__(self, store: Store) -> None:
        arrays = derived(store, "slots", [VERSION, store.version("organs")], [partial(_slots, store)], _only)
        self._starts = dict(zip(arrays["studies"].tolist(), arrays["starts"].tolist(), strict=True))
        self._numbers = {name: number for number, name in enumerate(arrays["names"].tolist())}
        self._organs = arrays["organs"]

    def __call__(self, study_id: str, organ: str) -> int:
        start, number = self._starts[study_id], self._numbers[organ]
        return int(np.argmax(self._organs[start : start + len(self._numbers)] == number))


def _slots(store: Store) -> dict[str, np.ndarray]:
    table = store.scan("organs").select("study_id", "organ").collect().sort("study_id", maintain_order=True)
    names = table["organ"].unique().sort()
    numbers = pl.DataFrame({"organ": names, "number": np.arange(len(names), dtype=np.int16)})
    studies = table["study_id"].rle_id().to_numpy() if len(table) else np.zeros(0, np.int64)
    starts = np.flatnonzero(np.diff(studies, prepend=-1))
    return {
        "names": np.array(names.to_list(), dtype=np.str_),
        "studies": np.array(table["study_id"].gather(starts).to_list(), dtype=np.str_),
        "starts": starts,
        "organs": table.join(numbers, on="organ", maintain_order="left")["number"].to_numpy(),
    }


@dataclass(frozen=True)
class Organs:
    """The organs of studies that get captions, study by study.

    Attributes:
        study_ids, names: what ``study`` and ``organ`` count through.
    """

    study_ids: Sequence[str]
    names: Sequence[str]
    study: Int[np.ndarray, " n"]
    organ: Int[np.ndarray, " n"]

    @property
    def hash(self) -> str:
        """Of all of them."""
        return _hash(self.study_ids, self.names, self.study, self.organ)


def organs_of_studies(study_ids: Sequence[str], names: Sequence[str], pairs: Sequence[tuple[int, str]]) -> Organs:
    """Pairs of a study's number and an organ, study by study."""
    numbers = {name: number for number, name in enumerate(names)}
    study, organ = (np.fromiter((pair[n] if n == 0 else numbers[pair[1]] for pair in pairs), np.int32) for n in (0, 1))
    return Organs(study_ids, names, study, organ)


def split_captions(store: Store, organs: Organs, rules: CaptionRules, progress: Progress | None = None) -> CaptionTable:
    """The captions of some organs of a store's studies, in order.

    Args:
        progress: called with (parts done, parts) while they are derived.
    """
    settings = [rules.unmentioned_as_negative, rules.mirrored, sorted(rules.held_out)]
    key = [VERSION, version("ctglip"), store.version("findings"), _dictionaries(rules), settings, organs.hash]
    starts = range(0, max(len(organs.study_ids), 1), STUDIES)
    parts = [partial(_captions_of, store, organs, range(start, start + STUDIES), rules) for start in starts]
    joined = partial(join_captions, rules=rules)
    return CaptionTable(derived(store, "captions", key, parts, joined, progress), rules)


def _dictionaries(rules: CaptionRules) -> list[Any]:
    """All that captions depend on of the dictionaries: those of the rules, the sentences that are filled with their
    names, and the shipped ones, which decide what findings count (``counting``) and read mirrored texts."""
    pairs = [(rules.organs, rules.abnormalities), (load_organs(), load_abnormalities())]
    return [[[one.hash, other.hash] for one, other in pairs], load_abnormality_templates().model_dump(mode="json")]


def _captions_of(store: Store, organs: Organs, studies: range, rules: CaptionRules) -> dict[str, np.ndarray]:
    """The captions of some studies, by their numbers."""
    ids = organs.study_ids[studies.start : studies.stop]
    first, last = np.searchsorted(organs.study, (studies.start, studies.stop))
    findings = findings_by_study(store, set(ids))
    rows: list[tuple[int, int]] = np.column_stack([organs.study[first:last], organs.organ[first:last]]).tolist()
    reports = [(findings.get(organs.study_ids[study], ()), organs.names[organ]) for study, organ in rows]
    return caption_part(reports, rules)


def caption_rules(
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    unmentioned_as_negative: bool,
    mirrored: bool = False,
    held_out: Sequence[str] = (),
) -> CaptionRules:
    """See ``CaptionRules``; what is held out may be named by a synonym."""
    names = frozenset(abnormalities[name].name for name in held_out)
    return CaptionRules(organs, abnormalities, unmentioned_as_negative, mirrored, names)


def _only(parts: Sequence[Arrays]) -> Arrays:
    return parts[0]


def _hash(*columns: Sequence[str] | np.ndarray) -> str:
    digest = hashlib.sha256()
    for column in columns:
        data = np.ascontiguousarray(column).tobytes() if isinstance(column, np.ndarray) else "\n".join(column).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]
