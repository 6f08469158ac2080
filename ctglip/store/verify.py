"""Is a store what it says it is? Every checksum, every invariant, every table; and the repair of what can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from ctglip.errors import StoreError
from ctglip.files import exclusive, remove
from ctglip.modality import MODALITIES
from ctglip.store.format import JOURNAL, LATER, STUDIES, SUFFIX, leftovers, study_ids, study_path
from ctglip.store.journal import Journal, entry_of
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store, gather, table_path, write_tables
from ctglip.types import LesionAnnotation, Progress


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


def verify(store: Store, repair: bool = False, progress: Progress | None = None) -> list[Problem]:
    """Check a store: the journal, study by study, and then the tables.

    Args:
        repair: remove what an interrupted writer left, bring journal and studies in line, remove studies that are
            damaged or of another recipe (the next ``ctglip preprocess`` makes them anew), and rebuild the tables from
            the studies.
        progress: called with (done, total).

    Returns:
        The problems found; empty for a sound store.

    Raises:
        OutputError: ``in_use`` when it is to be repaired while preprocessing writes to it.
    """
    with ExitStack() as stack:
        if repair:
            stack.enter_context(exclusive(store.path))
        is_preprocessed = (store.path / JOURNAL).is_file()
        journal = stack.enter_context(Journal(store)) if is_preprocessed else None
        problems = _strays(store.path, repair)
        if journal is not None:
            problems += [Problem(i, "journal", text, repair) for i, text in sorted(journal.disagreements().items())]
            if repair:
                journal.settle()
        tables = gather(_sound_studies(store, journal, repair, progress, problems))
        stale = [name for name, table in tables.items() if not _same(store, name, table)]
        if repair and stale:
            write_tables(store, tables.__getitem__)
    problems += [
        Problem(None, "stale_table", f"{name}.parquet does not hold what the studies hold.", repair) for name in stale
    ]
    return problems + (
        _check_splits(store, tables["studies"]) if is_preprocessed or table_path(store.path, "splits").is_file() else []
    )


def _sound_studies(
    store: Store, journal: Journal | None, repair: bool, progress: Progress | None, problems: list[Problem]
) -> Iterator[StudyReader]:
    """The studies whose rows belong into the tables; what is wrong with any of them is added to ``problems``."""
    present = study_ids(store.path)
    for done, study_id in enumerate(present, start=1):
        found = _check_study(store, study_id)
        if found and repair:
            remove(study_path(store.path, study_id))
            if journal is not None:
                journal.forget([study_id])
            found = [replace(problem, repaired=True) for problem in found]
        elif not found:
            study = StudyReader(study_path(store.path, study_id))
            entry = entry_of(study) if journal is None else journal.entries.get(study_id, entry_of(study))
            if entry.checksum:
                yield study
            if journal is not None and entry.checksum not in ("", entry_of(study).checksum):
                found = [Problem(study_id, "journal", "it was made from another input than the journal says.", repair)]
                if repair:
                    journal.record([entry_of(study)])
        problems += found
        if progress is not None:
            progress(done, len(present))


def _strays(root: Path, repair: bool) -> list[Problem]:
    """Unfinished files, and things in ``studies/`` that are no studies."""
    problems: list[Problem] = []
    for path in leftovers(root):
        if repair:
            remove(path)
        problems.append(Problem(None, "leftover", f"{path.name} was left by an interrupted writer.", repair))
    name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}" + re.escape(SUFFIX))
    entries = sorted(path for path in (root / STUDIES).glob("*") if not path.name.startswith("."))
    return problems + [
        Problem(None, "foreign_file", f"{STUDIES}/{path.name} is no study; move it away.")
        for path in entries
        if not (name.fullmatch(path.name) and path.is_dir())
    ]


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


def _same(store: Store, name: str, expected: pl.DataFrame) -> bool:
    try:
        if name in LATER and expected.is_empty() and not table_path(store.path, name).is_file():
            return True
        return table_path(store.path, name).is_file() and store.table(name).equals(expected)
    except StoreError:
        return False


def _check_splits(store: Store, studies: pl.DataFrame) -> list[Problem]:
    try:
        splits = store.all_splits()
    except StoreError as error:
        return [Problem(None, "no_split", error.message)]
    problems = [
        Problem(study_id, "no_split", "has no split; run ctglip preprocess again to draw one.")
        for study_id in studies.join(splits, on="study_id", how="anti")["study_id"]
    ]
    several = splits.group_by("patient_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    return problems + [
        Problem(None, "patient_in_two_splits", f"patient {patient} is in several splits.")
        for patient in several["patient_id"].sort()
    ]
