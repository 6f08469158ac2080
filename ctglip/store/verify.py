"""Is a store what it says it is? Every checksum, every invariant, every table; and the repair of what can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import polars as pl

from ctglip.errors import StoreError
from ctglip.files import exclusive, remove
from ctglip.parallel import spread
from ctglip.store.check import CheckedShard, Problem, check_shard, plan_shards
from ctglip.store.format import JOURNAL, STUDIES, SUFFIX, TABLES, leftovers, study_path
from ctglip.store.journal import Journal
from ctglip.store.parts import numbers, table_path
from ctglip.store.tables import Store, compact, ensure_parts
from ctglip.types import Progress


def verify(
    store: Store,
    repair: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
    address: str | None = None,
) -> list[Problem]:
    """Check a store: the journal, then shard by shard the studies and the rows of the tables that repeat them.

    Args:
        repair: remove what an interrupted writer left, bring journal and studies in line, remove studies that are
            damaged or of another recipe (the next ``ctglip preprocess`` makes them anew), and rebuild the tables from
            the studies.
        progress: called with (done, total).
        workers: processes that look at the studies, on this machine.
        address: of a Ray cluster that does it instead.

    Returns:
        The problems found; empty for a sound store.

    Raises:
        OutputError: ``in_use`` when it is to be repaired while preprocessing writes to it.
        CTGLIPError: ``no_cluster`` when no Ray cluster answers.
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
        problems += _check_studies(store, journal, repair, progress, workers, address)
    return problems + (_check_splits(store) if is_preprocessed or table_path(store.path, "splits").is_file() else [])


def _check_studies(
    store: Store, journal: Journal | None, repair: bool, progress: Progress | None, workers: int, address: str | None
) -> list[Problem]:
    """The problems of studies and tables, found by workers and mended here."""
    if repair:
        ensure_parts(store)
    shards, found, stale = plan_shards(store, journal), list[Problem](), set[str]()
    total, done = sum(len(shard.study_ids) for shard in shards), 0
    again = set(numbers(store.path)) - {shard.part for shard in shards}  # they cannot be read
    committed: dict[str, str] = {}
    for shard, checked in zip(shards, spread(check_shard, shards, workers, address), strict=True):
        stale.update(checked.stale)
        if checked.stale and shard.part is not None:
            again.add(shard.part)
        if repair:
            committed |= {one.study_id: one.checksum for one in checked.sound if one.study_id not in shard.unserved}
        found += _entered(store, checked, journal, repair)
        done += len(shard.study_ids)
        if progress is not None and shard.study_ids:
            progress(done, total)
    if again and not stale:
        stale.add("studies")
    if repair and (stale or again):
        compact(store, committed, again)
    return found + [
        Problem(None, "stale_table", f"{name}.parquet does not hold what the studies hold.", repair)
        for name in TABLES
        if name in stale
    ]


def _entered(store: Store, checked: CheckedShard, journal: Journal | None, repair: bool) -> Iterator[Problem]:
    """The problems of a shard's studies, and what the journal says otherwise; mended where they are to be."""
    gone = {one.study_id for one in checked.problems if one.study_id} if repair else set[str]()
    for study_id in sorted(gone):
        remove(study_path(store.path, study_id))
    yield from (replace(problem, repaired=problem.study_id in gone) for problem in checked.problems)
    if journal is None:
        return
    journal.forget(gone)
    for entry in checked.sound:
        known = journal.entries.get(entry.study_id, entry)
        if known.checksum not in ("", entry.checksum):
            yield Problem(entry.study_id, "journal", "it was made from another input than the journal says.", repair)
            if repair:
                journal.record([entry])


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


def _check_splits(store: Store) -> list[Problem]:
    try:
        splits = store.all_splits()
        studies = store.scan("studies").select("study_id").collect().sort("study_id")
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
