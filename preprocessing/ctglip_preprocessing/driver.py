"""A run: the rows of a cohort become cases, the cases go through the stages, a study that was written is committed to
the journal, and the tables, splits and quality page follow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctglip.cohort import Cohort
from ctglip.files import exclusive, remove
from ctglip.modality import modality_of
from ctglip.store.format import INFO, StoreInfo, build_hash, leftovers, read_info, study_path
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.splits import assign_splits, check_given
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import Failure
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.case import Case, Plan, fingerprint
from ctglip_preprocessing.executor import CaseResults, execute
from ctglip_preprocessing.interrupt import Stop, never
from ctglip_preprocessing.lesions import CohortLesions, read_localization
from ctglip_preprocessing.organ_text import CohortOrganText, read_organ_text
from ctglip_preprocessing.quality import QUALITY_PAGE, same_images, without_masks, write_quality_page
from ctglip_preprocessing.settings import PreprocessConfig

FIRST_BATCH = 200
"""Studies after which the tables are brought up to date for the first time; later a tenth of the store's."""
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
    given = check_given((row.study_id, row.patient_id, row.split) for row in cohort.rows)
    organ_text, localization = read_organ_text(cohort), read_localization(cohort)
    notes = (*organ_text.notes, *localization.notes)
    info = store_info(config)
    chosen = is_other_choice(store_path, info)
    store = create_store(store_path, info)
    with exclusive(store.path), Journal(store) as journal:
        _remove_leftovers(store)
        journal.settle()
        cases = plan_cases(cohort, store, config, journal, retry_failed, organ_text, localization)
        written, worked, since_tables = 0, 0, 0
        try:
            results = execute(cases, workers, address, stop)
            with closing(results), closing(watch(results, len(cases))) as watched:
                for result in watched:
                    written += commit(result, store, journal)
                    worked += 1
                    since_tables += 1
                    if since_tables >= max(FIRST_BATCH, len(journal.entries) // 10):
                        compact(store, journal.committed())
                        since_tables = 0
            if worked < len(cases) and stop():
                raise KeyboardInterrupt
        finally:
            _remove_leftovers(store)
            compact(store, journal.committed())
        moved = assign_splits(store, config.splits, given)
        if cases or moved or chosen or not (store.path / QUALITY_PAGE).is_file():
            write_quality_page(store, journal.failures(), notes)
        return _summary(cohort, store, journal, notes, moved, written, len(cases), time.monotonic() - start)


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
    named = {row.study_id for row in cohort.rows} | {failure.study_id for failure in cohort.bad}
    failed = tuple(failure for failure in journal.failures() if failure.study_id in named)
    return Summary(
        store=str(store.path),
        studies=len(cohort.rows) + len(cohort.bad),
        written=written,
        up_to_date=len(named) - len(failed) - written,
        failed=failed,
        others=len(journal.committed().keys() - named),
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
) -> list[Case]:
    """The studies to work on, in the order of the cohort table: those that the journal does not know with just this
    input, and failed ones that are to be tried again. Rows that cannot be worked on are entered as failures."""
    plan = Plan(store.path, config, store.info.recipe_hash, cohort.has_reports)
    stored = journal.committed()
    journal.record(
        JournalEntry(failure.study_id, plan.recipe_hash, checksum=stored.get(failure.study_id, ""), failure=failure)
        for failure in cohort.bad
    )
    given = [organ_text.texts.get(row.study_id, ()) if organ_text else () for row in cohort.rows]
    lesions = [localization.lesions.get(row.study_id, ()) if localization else () for row in cohort.rows]
    with ThreadPoolExecutor(max_workers=16) as pool:  # a network drive answers slowly but many at a time
        fingerprints = list(pool.map(fingerprint, cohort.rows, given, lesions))
    cases: list[Case] = []
    for row, texts, findings, mark in zip(cohort.rows, given, lesions, fingerprints, strict=True):
        entry = journal.entries.get(row.study_id)
        if entry is None or entry.fingerprint != mark or (entry.failure and retry_failed):
            cases.append(Case(row, plan, texts, findings, mark, stored.get(row.study_id, "")))
    return cases


def commit(result: JournalEntry, store: Store, journal: Journal) -> bool:
    """Enter what became of a study; returns whether it was written now, and not just found to be up to date."""
    before = journal.entries.get(result.study_id)
    journal.record([result])
    if not result.checksum:
        remove(study_path(store.path, result.study_id))
    return result.status == "done" and (before is None or before.checksum != result.checksum)


def _remove_leftovers(store: Store) -> None:
    """Remove what writers that were killed, earlier or in this run, left unfinished."""
    for path in leftovers(store.path):
        remove(path)
