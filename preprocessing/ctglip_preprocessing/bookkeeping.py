"""What the driver keeps of a run: the cases yet to come and the results yet to be entered, little of each, however many
studies there are."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from typing import overload

from ctglip.cohort import CohortRow
from ctglip.files import remove
from ctglip.store.format import study_path
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.parts import FULL
from ctglip.store.tables import Store, add_studies, compact
from ctglip_preprocessing.case import Case, Plan
from ctglip_preprocessing.lesions import GivenLesion
from ctglip_preprocessing.organ_text import GivenText

FIRST_BATCH = 200
"""New studies after which the tables get them for the first time; later a full part of them."""
BATCH = FULL
ENTERED = 100
"""Results that are entered in the journal together, where they come faster than one in ``ENTER_EVERY_S``."""
ENTER_EVERY_S = 1.0


class Cases(Sequence[Case]):
    """The cases of a run in the order of the cohort table, each made when it is asked for.

    Args:
        rows: of the cohort.
        texts: organ text by study; lesions: drawn findings by study.
    """

    def __init__(
        self,
        rows: Sequence[CohortRow],
        plan: Plan,
        texts: Mapping[str, tuple[GivenText, ...]],
        lesions: Mapping[str, tuple[GivenLesion, ...]],
    ) -> None:
        self._rows, self._plan, self._texts, self._lesions = rows, plan, texts, lesions
        self._numbers = array("q")
        self._marks: list[str] = []
        self._stored: dict[int, str] = {}

    def given(self, row: CohortRow) -> tuple[tuple[GivenText, ...], tuple[GivenLesion, ...]]:
        """The organ text and the drawn findings of a study."""
        return self._texts.get(row.study_id, ()), self._lesions.get(row.study_id, ())

    def plan(self, number: int, fingerprint: str, stored: str) -> None:
        """Add a row of the cohort by its number, with its fingerprint and what the store holds of it."""
        if stored:
            self._stored[len(self._numbers)] = stored
        self._numbers.append(number)
        self._marks.append(fingerprint)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> list[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | list[Case]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._rows[self._numbers[index]]
        return Case(row, self._plan, *self.given(row), self._marks[index], self._stored.get(index, ""))


class Commits:
    """Enters results in the journal, the commit point of their studies, and has the tables follow.

    Attributes:
        written: studies that were written, and not just found to be up to date.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        self.written = 0
        self._store, self._journal = store, journal
        self._results: list[JournalEntry] = []
        self._new: list[str] = []
        self._others = 0  # what the tables lack besides
        self._batch = FIRST_BATCH
        self._tenth = len(journal.entries) // 10  # counted once: SQLite reads all entries for it
        self._entered = 0.0

    def add(self, result: JournalEntry) -> None:
        """Take up what became of a study. It is entered at once, or with those that follow within a second."""
        self._results.append(result)
        if len(self._results) >= ENTERED or time.monotonic() - self._entered > ENTER_EVERY_S:
            self._enter()
        if len(self._new) >= self._batch:
            self._enter()
            self._append()
        if self._others >= BATCH and self._others >= self._tenth:
            self._follow()

    def _enter(self) -> None:
        """Enter the results; folders of studies that are not served any more go."""
        results, self._results, self._entered = self._results, [], time.monotonic()
        before = {one.study_id: self._journal.entries.get(one.study_id) for one in results}
        self._journal.record(results)
        for result in results:
            known = before[result.study_id]
            stored = known.checksum if known else ""
            if not result.checksum:
                remove(study_path(self._store.path, result.study_id))
            self.written += result.status == "done" and result.checksum != stored
            if stored:
                self._others += result.checksum != stored
            elif result.checksum:
                self._new.append(result.study_id)

    def _append(self) -> None:
        """Give the tables the new studies; should that fail half-way they are brought in line as a whole."""
        new, self._new, self._batch = self._new, [], BATCH
        self._others += len(new)
        add_studies(self._store, new)
        self._others -= len(new)

    def _follow(self) -> None:
        self._new = []
        compact(self._store, self._journal.committed_table())
        self._others = 0

    def finish(self) -> None:
        """Enter what is left, and bring the tables in line."""
        self._enter()
        if self._others:
            self._follow()
        else:
            self._append()
