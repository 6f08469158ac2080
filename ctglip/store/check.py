"""One shard of a store looked at: its studies, and the rows of the tables that repeat them. Made for workers: nothing
here writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctglip.errors import StoreError
from ctglip.modality import MODALITIES
from ctglip.store.format import TABLES, study_ids, study_path
from ctglip.store.journal import Journal, JournalEntry, entry_of
from ctglip.store.parts import is_of_before, numbers, read_part, sort_table
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store, chunks, gather
from ctglip.types import LesionAnnotation

SHARD = 100
"""Studies that a worker is given at a time."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a store.

    Attributes:
        study_id: the study it is about, or None for the store as a whole.
        code: ``leftover``, ``foreign_file``, ``journal`` (it and the folder differ), ``damaged_study``,
            ``invariant``, ``other_recipe``, ``stale_table``, ``no_split`` or ``patient_in_two_splits``.
        repaired: ``verify(repair=True)`` has mended it.
    """

    study_id: str | None
    code: str
    message: str
    repaired: bool = False


@dataclass(frozen=True)
class StoreShard:
    """Some studies of a store, and the rows of the tables from the first of them to the next shard's.

    Attributes:
        part: of the tables that has them; None for studies that no part has.
        study_ids: those whose folders are there, sorted.
        unserved: those of which the tables are to hold nothing, since the journal says that they failed.
        low, high: ids between which the rows of the part are compared, half-open; None: no bound.
    """

    store: Store
    part: int | None
    study_ids: tuple[str, ...]
    unserved: frozenset[str] = frozenset()
    low: str | None = None
    high: str | None = None

    def rows(self, name: str) -> pl.DataFrame:
        """What a table holds of these studies.

        Raises:
            StoreError: ``damaged_table``.
        """
        if self.part is None:
            return pl.DataFrame(schema=TABLES[name])
        return read_part(self.store.path, name, self.part, self.low, self.high)


@dataclass(frozen=True)
class CheckedShard:
    """What was found in a shard.

    Attributes:
        problems: of its studies, by id.
        sound: the entries of the studies without any.
        stale: the tables that do not hold of them what they hold.
    """

    problems: tuple[Problem, ...]
    sound: tuple[JournalEntry, ...]
    stale: tuple[str, ...]


def plan_shards(store: Store, journal: Journal | None) -> list[StoreShard]:
    """A store's studies in shards: part by part of the tables, then those that no part has."""
    present = pl.DataFrame({"study_id": study_ids(store.path)}, schema={"study_id": pl.String})
    unserved = frozenset(() if journal is None else journal.unserved())
    found: list[StoreShard] = []
    known = [pl.DataFrame(schema={"study_id": pl.String})]
    for number, ids in _ids_by_part(store):
        new = ids.join(pl.concat(known), on="study_id", how="anti")
        there = new.join(present, on="study_id", how="semi")["study_id"].sort().to_list()
        known.append(new)
        groups = list(chunks(there, SHARD)) or [[]]
        for position, group in enumerate(groups):
            low = group[0] if position else None
            high = groups[position + 1][0] if position + 1 < len(groups) else None
            found.append(StoreShard(store, number, tuple(group), unserved.intersection(group), low, high))
    alone = present.join(pl.concat(known), on="study_id", how="anti")["study_id"].to_list()
    return found + [
        StoreShard(store, None, tuple(group), unserved.intersection(group)) for group in chunks(alone, SHARD)
    ]


def _ids_by_part(store: Store) -> Iterable[tuple[int, pl.DataFrame]]:
    """The studies of each part of the tables that can be read."""
    for number in [0] if is_of_before(store.path) else numbers(store.path):
        try:
            yield number, read_part(store.path, "studies", number).select("study_id")
        except StoreError:
            continue


def check_shard(shard: StoreShard) -> CheckedShard:
    """Look at the studies of a shard and at the rows of the tables that repeat them."""
    problems: list[Problem] = []
    sound: list[JournalEntry] = []
    served: list[str] = []
    for study_id in shard.study_ids:
        found = _check_study(shard.store, study_id)
        problems += found
        if not found:
            entry = entry_of(StudyReader(study_path(shard.store.path, study_id)))
            sound.append(entry)
            if entry.checksum and study_id not in shard.unserved:
                served.append(study_id)
    expected = gather(StudyReader(study_path(shard.store.path, study_id)) for study_id in served)
    stale = [name for name, table in expected.items() if not _same(shard, name, table)]
    return CheckedShard(tuple(problems), tuple(sound), tuple(stale))


def _same(shard: StoreShard, name: str, expected: pl.DataFrame) -> bool:
    try:
        return sort_table(name, shard.rows(name)).equals(expected)
    except StoreError:
        return False


def _check_study(store: Store, study_id: str) -> list[Problem]:
    try:
        study = StudyReader(study_path(store.path, study_id))
        if entry_of(study).recipe_hash != store.info.recipe_hash:
            return [Problem(study_id, "other_recipe", "made with another recipe, so it is not in the tables.")]
        wrong = study.damage()
        if wrong:
            return [Problem(study_id, "damaged_study", f"{'; '.join(wrong)}.")]
        return [Problem(study_id, "invariant", message) for message in _invariants(store, study, study_id)]
    except StoreError as error:
        return [Problem(study_id, "damaged_study", error.message)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return [Problem(study_id, "damaged_study", f"its metadata is not as it should be: {error!r}.")]


def _invariants(store: Store, study: StudyReader, study_id: str) -> list[str]:
    """What must hold of a study whose bytes are as written."""
    wrong: list[str] = []
    if study.study_id != study_id:
        wrong.append(f"it calls itself {study.study_id!r}.")
    image = study.image()
    kind = MODALITIES[store.info.modality].pixel_type
    if image.shape != study.shape or image.dtype != kind:
        wrong.append(f"image is {image.dtype} {image.shape}, expected {kind} {study.shape}.")
    organs = study.organs()
    if organs is not None and (organs.shape != study.shape or organs.dtype != np.uint8):
        wrong.append(f"organs is {organs.dtype} {organs.shape}, expected uint8 {study.shape}.")
    if organs is not None and store.info.labels:
        unknown = sorted({int(v) for v in np.flatnonzero(np.bincount(organs.ravel()))} - {0, *store.info.labels})
        if unknown:
            wrong.append(f"organs holds the labels {unknown}, which store.json does not know.")
    for table, name, axes in (("organs", "organ", ("x", "y", "z")), ("regions", "region", ("row", "column"))):
        for row in study.rows(table):
            edges = zip(axes, study.shape, strict=True)
            if not all(0 <= row[f"{axis}0"] < row[f"{axis}1"] <= size for axis, size in edges):
                wrong.append(f"the box of {row[name]} is empty or outside the image.")
    return wrong + [text for lesion in study.lesions() if (text := _lesion_fault(study, lesion))]


def _lesion_fault(study: StudyReader, lesion: LesionAnnotation) -> str | None:
    edges = zip(lesion.box[::2], lesion.box[1::2], study.shape, strict=True)
    if not all(0 <= low < high <= size for low, high, size in edges):
        return f"the box of a lesion ({lesion.theirs}) is empty or outside the image."
    return None if study.lesion_mask(lesion).any() else f"a lesion ({lesion.theirs}) has no voxel in its layer."
