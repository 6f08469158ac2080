"""A run: the rows of a cohort become cases, the cases go through the stages, a study that was written is committed to
the journal, and the tables, splits and quality page follow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.cohort import Cohort
from ctglip.files import exclusive, remove
from ctglip.modality import modality_of
from ctglip.store.format import INFO, StoreInfo, build_hash, leftovers, read_info
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.splits import assign_splits, check_given
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import Failure
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.bookkeeping import Cases, Commits
from ctglip_preprocessing.case import Plan, fingerprint
from ctglip_preprocessing.executor import CaseResults, execute
from ctglip_preprocessing.interrupt import Stop, never
from ctglip_preprocessing.lesions import CohortLesions, read_localization
from ctglip_preprocessing.organ_text import CohortOrganText, read_organ_text
from ctglip_preprocessing.quality import QUALITY_PAGE, same_images, without_masks, write_quality_page
from ctglip_preprocessing.settings import PreprocessConfig

PLANNED = 5000
"""Rows of a cohort that are looked at together before the run."""
Watch = Callable[[CaseResults, int], CaseResults]
"""Passes a run's results on, and says how it goes; is told how many there will be."""


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
        notes: what of the cohort's organ text and drawn findings is not as it could be: unknown names, unknown studies.
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
    notes: tuple[str, ...]
    worked: int
    seconds: float

    @property
    def reasons(self) -> dict[str, int]:
        """Failures by code, the commonest first."""
        return dict(Counter(failure.code for failure in self.failed).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-able data."""
        return asdict(self) | {"reasons": self.reasons}


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
        findings_from=config.findings_from,
    )


def preprocess_cohort(
    cohort: Cohort,
    store_path: Path,
    config: PreprocessConfig,
    workers: int = 1,
    address: str | None = None,
    retry_failed: bool = False,
    watch: Watch = lambda results, total: results,  # noqa: ARG005
    stop: Stop = never,
) -> Summary:
    """Bring a store up to date with a cohort.

    Only what is new, changed, or was made with another recipe is worked on. Studies of earlier cohorts that this one
    does not name stay in the store, as long as the recipe is the same.

    Args:
        stop: looked at between results; once it is true nothing more is begun.

    Raises:
        KeyboardInterrupt: it was stopped with studies left to do. What was finished is in the store and its tables.
        CohortError: an organ text or a localization table that is not there or malformed, see
            ``organ_text.read_organ_text``, ``lesions.read_localization``.
        StoreError: not a store, in use by another process, or a patient given two splits.
    """
    start = time.monotonic()
    given = check_given(_given_splits(cohort.rows.table))
    organ_text, localization = read_organ_text(cohort), read_localization(cohort)
    notes = (*organ_text.notes, *localization.notes)
    info = store_info(config)
    chosen = is_other_choice(store_path, info)
    store = create_store(store_path, info)
    with exclusive(store.path), Journal(store) as journal:
        _remove_leftovers(store)
        journal.settle()
        compact(store, journal.committed_table())
        cases = plan_cases(cohort, store, config, journal, retry_failed, organ_text, localization)
        commits, worked = Commits(store, journal), 0
        try:
            results = execute(cases, workers, address, stop)
            with closing(results), closing(watch(results, len(cases))) as watched:
                for result in watched:
                    commits.add(result)
                    worked += 1
            if worked < len(cases) and stop():
                raise KeyboardInterrupt
        finally:
            _remove_leftovers(store)
            commits.finish()
        moved = assign_splits(store, config.splits, given)
        if cases or moved or chosen or not (store.path / QUALITY_PAGE).is_file():
            write_quality_page(store, journal.failures(), notes)
        seconds = time.monotonic() - start
        return _summary(cohort, store, journal, notes, moved, commits.written, len(cases), seconds)


def _given_splits(table: pl.DataFrame) -> Iterator[tuple[str, str, str | None]]:
    """Study, patient and split of the rows of a cohort that have one."""
    given = table.drop_nulls("split") if "split" in table.columns else table.clear().with_columns(split=None)
    return given.select("study_id", "patient_id", "split").iter_rows()


def _summary(
    cohort: Cohort,
    store: Store,
    journal: Journal,
    notes: tuple[str, ...],
    moved: dict[str, tuple[str, str]],
    written: int,
    worked: int,
    seconds: float,
) -> Summary:
    """What came of a cohort, by what the journal knows."""
    named = set(cohort.rows.table["study_id"]) | {failure.study_id for failure in cohort.bad}
    failed = tuple(failure for failure in journal.failures() if failure.study_id in named)
    return Summary(
        store=str(store.path),
        studies=len(cohort.rows) + len(cohort.bad),
        written=written,
        up_to_date=len(named) - len(failed) - written,
        failed=failed,
        others=sum(study_id not in named for study_id in journal.committed_table()["study_id"]),
        moved=moved,
        without_masks=tuple(i for i in without_masks(store) if i in named),
        same_images=same_images(store),
        notes=notes,
        worked=worked,
        seconds=round(seconds, 2),
    )


def is_other_choice(path: Path, info: StoreInfo) -> bool:
    """Whether a store is there in which other findings counted until now."""
    return (path / INFO).is_file() and read_info(path).findings_from != info.findings_from


def plan_cases(
    cohort: Cohort,
    store: Store,
    config: PreprocessConfig,
    journal: Journal,
    retry_failed: bool,
    organ_text: CohortOrganText | None = None,
    localization: CohortLesions | None = None,
) -> Cases:
    """The studies to work on, in the order of the cohort table: those that the journal does not know with just this
    input, and failed ones that are to be tried again. Rows that cannot be worked on are entered as failures."""
    plan = Plan(store.path, config, store.info.recipe_hash, cohort.has_reports)
    journal.record(
        JournalEntry(failure.study_id, plan.recipe_hash, checksum=_stored(journal, failure.study_id), failure=failure)
        for failure in cohort.bad
    )
    texts, annotated = organ_text.texts if organ_text else {}, localization.lesions if localization else {}
    cases = Cases(cohort.rows, plan, texts, annotated)
    with ThreadPoolExecutor(max_workers=16) as pool:  # a network drive answers slowly but many at a time
        for start in range(0, len(cohort.rows), PLANNED):
            rows = cohort.rows[start : start + PLANNED]
            given, lesions = zip(*map(cases.given, rows), strict=True)
            for number, mark in enumerate(pool.map(fingerprint, rows, given, lesions), start):
                entry = journal.entries.get(rows[number - start].study_id)
                if entry is None or entry.fingerprint != mark or (entry.failure and retry_failed):
                    cases.plan(number, mark, entry.checksum if entry else "")
    return cases


def _stored(journal: Journal, study_id: str) -> str:
    """The checksum of the input that the store's study was made from; empty where there is none."""
    entry = journal.entries.get(study_id)
    return entry.checksum if entry else ""


def _remove_leftovers(store: Store) -> None:
    """Remove what writers that were killed, earlier or in this run, left unfinished."""
    for path in leftovers(store.path):
        remove(path)
