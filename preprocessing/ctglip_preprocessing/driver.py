"""The driver of a run: decides what is to be done, keeps the journal, brings the tables up to date."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ctglip.cohort import Cohort, CohortRow
from ctglip.errors import StoreError
from ctglip.files import remove
from ctglip.modality import modality_of
from ctglip.store.format import (
    JOURNAL,
    TABLES,
    StoreInfo,
    build_hash,
    leftovers,
    study_ids,
    study_path,
)
from ctglip.store.lock import exclusive
from ctglip.store.splits import assign_splits, check_given
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store, compact, create_store, extend, table_path
from ctglip.types import Failure
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.case import Case, CaseResult, Plan
from ctglip_preprocessing.executor import execute
from ctglip_preprocessing.interrupt import Stop, never
from ctglip_preprocessing.journal import Journal, JournalEntry
from ctglip_preprocessing.quality import QUALITY_PAGE, same_images, without_masks, write_quality_page
from ctglip_preprocessing.settings import PreprocessConfig
from ctglip_preprocessing.stages.ingest import fingerprint

FIRST_BATCH = 200


class Watch(Protocol):
    """Who is told how a run goes."""

    def begin(self, total: int, up_to_date: int) -> None: ...

    def advance(self, result: CaseResult) -> None: ...


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        studies: rows of the cohort table, bad ones included.
        written: studies written in this run.
        up_to_date: studies that the store held already.
        failed: the cohort's studies that are not in the store, with their reasons; earlier failures too.
        others: studies in the store that this cohort does not name; they stay.
        moved: patients whom the cohort's own split column moved, patient_id -> (old, new).
        without_masks: the cohort's studies in the store that have no organ masks; always empty for radiographs.
        same_images: ids of the store's studies that share one image though they are of different patients, group by
            group: such an image may stand in training and in test.
        worked: cases that were looked into in this run, that is whose input had to be read.
    """

    store: str
    studies: int
    written: int
    up_to_date: int
    failed: tuple[Failure, ...]
    others: int
    moved: dict[str, tuple[str, str]]
    without_masks: tuple[str, ...]
    same_images: tuple[tuple[str, ...], ...]
    worked: int
    seconds: float

    @property
    def reasons(self) -> dict[str, int]:
        """Failures by code, the commonest first."""
        return dict(Counter(failure.code for failure in self.failed).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-able data."""
        return asdict(self) | {"failed": [asdict(failure) for failure in self.failed], "reasons": self.reasons}


def store_info(config: PreprocessConfig) -> StoreInfo:
    """What a store made with these settings says of itself."""
    organs = load_organs()
    recipe = config.recipe.stored()
    dictionaries = {"organs": organs.hash, "abnormalities": load_abnormalities().hash}
    unions = {name: tuple(sorted(organs.labels_of(name))) for name in organs.names if organs[name].parts}
    return StoreInfo(
        modality=modality_of(config.recipe).name,
        recipe=recipe,
        recipe_hash=build_hash(recipe, dictionaries),
        dictionaries=dictionaries,
        labels=dict(organs.label_names()),
        unions={name: labels for name, labels in unions.items() if labels},
    )


def preprocess_cohort(
    cohort: Cohort,
    store_path: Path,
    config: PreprocessConfig,
    workers: int = 1,
    address: str | None = None,
    retry_failed: bool = False,
    watch: Watch | None = None,
    stop: Stop = never,
) -> Summary:
    """Bring a store up to date with a cohort.

    Only what is new, changed, or was made with another recipe is worked on. Studies of earlier cohorts that this one
    does not name stay in the store, as long as the recipe is the same.

    Args:
        stop: looked at between results; once it is true nothing more is begun.

    Raises:
        KeyboardInterrupt: it was stopped with studies left to do. What was finished is in the store and its tables.
        StoreError: not a store, in use by another process, or a patient given two splits.
    """
    start = time.monotonic()
    given = check_given((row.study_id, row.patient_id, row.split) for row in cohort.rows)
    store = create_store(store_path, store_info(config))
    with exclusive(store.path):
        _tidy(store.path)
        run = _Run(store, config, cohort)
        try:
            cases = run.plan_cases(retry_failed)
            left = len(cases)
            if watch is not None:
                watch.begin(len(cases), run.up_to_date)
            try:
                with closing(execute(cases, run.plan, workers, address, stop)) as results:
                    for done, result in enumerate(results, start=1):
                        run.take(result)
                        left = len(cases) - done
                        if watch is not None:
                            watch.advance(result)
                if left and stop():
                    raise KeyboardInterrupt
            finally:
                _tidy(store.path)
                run.bring_tables_up_to_date()
            moved = run.assign_splits(given)
            run.write_quality_page(changed=bool(cases or moved))
            return run.summary(len(cases), moved, time.monotonic() - start)
        finally:
            run.journal.close()


def _tidy(store: Path) -> None:
    """Remove what writers that were killed, earlier or in this run, left unfinished."""
    for path in leftovers(store):
        remove(path)


@dataclass
class _Run:
    """One run of the driver over one cohort, the store held."""

    store: Store
    config: PreprocessConfig
    cohort: Cohort
    entries: dict[str, JournalEntry] = field(default_factory=dict)
    tabled: dict[str, str] = field(default_factory=dict)
    written: int = 0
    up_to_date: int = 0
    pending: int = 0

    def __post_init__(self) -> None:
        self.plan = Plan(
            store=self.store.path,
            config=self.config,
            recipe_hash=self.store.info.recipe_hash,
            requires_report=self.cohort.has_reports,
        )
        self.journal = Journal(self.store.path / JOURNAL)
        self.entries = self.journal.entries()
        stale = [i for i, entry in self.entries.items() if entry.stage == "cohort"]
        self.journal.forget(stale)
        for study_id in stale:
            del self.entries[study_id]
        self._adopt()
        self._record([self._of_failure(failure) for failure in self.cohort.bad])
        self._drop_outdated()
        self.tabled = self._read_tabled()

    # -- what is there

    def _adopt(self) -> None:
        """Take studies into the journal that were written whole but not entered before the driver died."""
        found: list[JournalEntry] = []
        for study_id in study_ids(self.store.path):
            if study_id in self.entries:
                continue
            path = study_path(self.store.path, study_id)
            try:
                written = StudyReader(path).attributes
                found.append(
                    JournalEntry(study_id, "done", written["recipe_hash"], checksum=written["source_checksum"])
                )
            except (StoreError, KeyError):
                remove(path)
        self._record(found)

    def _drop_outdated(self) -> None:
        """Remove studies that the journal does not stand for: the store never serves what is outdated."""
        for study_id in study_ids(self.store.path):
            if not self.entries[study_id].checksum:
                remove(study_path(self.store.path, study_id))

    def _read_tabled(self) -> dict[str, str]:
        """Checksums of the studies that the tables hold; none when a table is missing or damaged."""
        try:
            if not all(table_path(self.store.path, name).is_file() for name in TABLES):
                return {}
            for name in TABLES:
                self.store.table(name)
            studies = self.store.table("studies").filter(recipe_hash=self.plan.recipe_hash)
            return dict(studies.select("study_id", "source_checksum").iter_rows())
        except StoreError:
            return {}

    # -- what is to be done

    def plan_cases(self, retry_failed: bool) -> list[Case]:
        """The studies to work on, in the order of the cohort table."""
        present = set(study_ids(self.store.path))
        cases: list[Case] = []
        for row, mark in zip(self.cohort.rows, _fingerprints(self.cohort.rows), strict=True):
            entry = self.entries.get(row.study_id)
            known = entry is not None and (entry.recipe_hash, entry.fingerprint) == (self.plan.recipe_hash, mark)
            if known and entry is not None and entry.status == "done" and row.study_id in present:
                self.up_to_date += 1
            elif not (known and entry is not None and entry.status == "failed" and not retry_failed):
                cases.append(Case(row, mark))
        return cases

    # -- what was done

    def take(self, result: CaseResult) -> None:
        """Enter a result; this commits the study."""
        if result.failure is not None:
            entry = self._of_failure(result.failure, result)
        else:
            entry = JournalEntry(
                result.study_id, "done", self.plan.recipe_hash, result.fingerprint, result.checksum,
                seconds=result.seconds,
            )  # fmt: skip
        self._record([entry])
        if not entry.checksum:
            remove(study_path(self.store.path, result.study_id))
        self.written += result.status == "done"
        self.up_to_date += result.status == "unchanged"
        self.pending += 1
        if self.pending >= max(FIRST_BATCH, len(self.tabled) // 10):
            self.bring_tables_up_to_date()

    def _record(self, entries: Sequence[JournalEntry]) -> None:
        if entries:
            self.journal.record(entries)
            self.entries |= {entry.study_id: entry for entry in entries}

    def _of_failure(self, failure: Failure, result: CaseResult | None = None) -> JournalEntry:
        """A failure's entry. What the store holds of the study stays only while its input could not even be read:
        a drive that is away must not empty the store, but input that changed must not be served as it was."""
        before = self.entries.get(failure.study_id)
        same_recipe = before is not None and before.recipe_hash == self.plan.recipe_hash
        readable = result is not None and result.checksum != ""
        return JournalEntry(
            failure.study_id,
            "failed",
            self.plan.recipe_hash,
            result.fingerprint if result else "",
            before.checksum if before is not None and same_recipe and not readable else "",
            failure.stage,
            failure.code,
            failure.message,
            failure.details,
            result.seconds if result else {},
        )

    def bring_tables_up_to_date(self) -> None:
        """Make the tables hold just the studies that the journal stands for, reading only those they lack."""
        self.pending = 0
        present = set(study_ids(self.store.path))
        checksums = {
            i: entry.checksum
            for i, entry in self.entries.items()
            if entry.checksum and entry.recipe_hash == self.plan.recipe_hash and i in present
        }
        if checksums == self.tabled and table_path(self.store.path, "studies").is_file():
            return
        if self.tabled:
            added = [i for i, checksum in checksums.items() if self.tabled.get(i) != checksum]
            extend(self.store, added, keep=checksums)
        else:
            compact(self.store, checksums)
        self.tabled = checksums

    def assign_splits(self, given: dict[str, str]) -> dict[str, tuple[str, str]]:
        """Give every study a split; does nothing when all have the one they should have."""
        splits = dict(self.store.table("splits").select("study_id", "split").iter_rows())
        patients = dict(self.store.table("studies").select("study_id", "patient_id").iter_rows())
        if splits.keys() == patients.keys() and all(given.get(p, splits[i]) == splits[i] for i, p in patients.items()):
            return {}
        return assign_splits(self.store, self.config.splits, given)

    def write_quality_page(self, changed: bool) -> None:
        """Write ``quality.html``, where it is missing or no longer true."""
        if changed or not (self.store.path / QUALITY_PAGE).is_file():
            failures = (entry.failure for entry in self.entries.values() if entry.status == "failed")
            write_quality_page(self.store, sorted(failures, key=lambda failure: failure.study_id))

    def summary(self, worked: int, moved: dict[str, tuple[str, str]], seconds: float) -> Summary:
        """The run in numbers."""
        named = {row.study_id for row in self.cohort.rows} | {failure.study_id for failure in self.cohort.bad}
        failed = (self.entries[i] for i in sorted(named) if self.entries[i].status == "failed")
        return Summary(
            store=str(self.store.path),
            studies=len(self.cohort.rows) + len(self.cohort.bad),
            written=self.written,
            up_to_date=self.up_to_date,
            failed=tuple(entry.failure for entry in failed),
            others=len(self.tabled.keys() - named),
            moved=moved,
            without_masks=tuple(i for i in without_masks(self.store) if i in named),
            same_images=same_images(self.store),
            worked=worked,
            seconds=round(seconds, 2),
        )


def _fingerprints(rows: Iterable[CohortRow]) -> Iterable[str]:
    """Fingerprints in order; threads, since a network drive answers slowly but many at a time."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(fingerprint, rows, chunksize=1))
