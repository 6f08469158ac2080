"""What the driver keeps of a run: little, and nothing twice, however its tables fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ctglip_preprocessing import bookkeeping, quality
from ctglip_preprocessing.bookkeeping import Commits

from ctglip.cohort import CohortRows, read_cohort
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.splits import assign_splits
from ctglip.store.study import write_study
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from tests.store.conftest import INFO, make_record, store

__all__ = ["store"]


def _done(study_id: str, checksum: str = "") -> JournalEntry:
    return JournalEntry(study_id, INFO.recipe_hash, "mark", checksum or f"sum-{study_id}")


def test_results_are_entered_together_and_none_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "ENTER_EVERY_S", 1e9)
    monkeypatch.setattr(bookkeeping, "ENTERED", 3)
    entered: list[int] = []
    with Journal(store) as journal:
        journal.settle()
        record = journal.record
        monkeypatch.setattr(journal, "record", lambda entries: entered.append(len(entries)) or record(entries))
        commits = Commits(store, journal)
        for number in range(7):
            write_study(store.path, make_record(f"n{number}"))
            commits.add(_done(f"n{number}"))
        write_study(store.path, make_record("s-a", source_checksum="new", findings=()))
        commits.add(_done("s-a", "new"))
        commits.add(_done("s-b"))
        commits.finish()
        assert entered == [3, 3, 3, 0]
        assert commits.written == 8
        assert len(journal.entries) == 10
    assert store.table("findings").filter(study_id="s-a").is_empty()
    assign_splits(store)
    assert verify(store) == []


def test_tables_that_failed_half_way_are_brought_in_line_at_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose studies are in part of the tables is not added a second time."""
    monkeypatch.setattr(bookkeeping, "FIRST_BATCH", 2)
    add = bookkeeping.add_studies

    def failing(*arguments) -> None:
        add(*arguments)
        raise MemoryError

    with Journal(store) as journal:
        journal.settle()
        commits = Commits(store, journal)
        monkeypatch.setattr(bookkeeping, "add_studies", failing)
        for number in range(3):
            write_study(store.path, make_record(f"n{number}"))
        for number in range(2):
            commits.add(_done(f"n{number}"))
        commits._enter()
        with pytest.raises(MemoryError):
            commits.add(_done("n2"))
        commits.finish()
    assert store.table("studies")["study_id"].is_unique().all()
    assign_splits(store)
    assert verify(store) == []


def test_the_page_draws_at_most_so_many_values_and_keeps_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_PLOTTED", 5)
    drawn = quality._distribution("Spacing", "mm", [f"s{n}" for n in range(100)], np.arange(100.0)[::-1])
    assert (len(drawn.values), drawn.values[0], drawn.values[-1]) == (5, 0.0, 99.0)


def test_a_cohorts_rows_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    lines = [f"s{n},p{n},i{n}.nii.gz" for n in range(12)]
    (tmp_path / "cohort.csv").write_text("\n".join(["study_id,patient_id,image", *lines, "bad id,p,i"]))
    cohort = read_cohort(tmp_path / "cohort.csv")
    assert isinstance(cohort.rows, CohortRows)
    assert (
        [row.study_id for row in cohort.rows]
        == [row.study_id for row in cohort.rows[:]]
        == [f"s{n}" for n in range(12)]
    )
    assert cohort.rows[11].image == tmp_path / "i11.nii.gz"
    named = cohort.rows.with_organ_text(tmp_path / "text.csv")
    assert {row.organ_text for row in named} == {tmp_path / "text.csv"}
    assert [failure.code for failure in cohort.bad] == ["bad_id"]
