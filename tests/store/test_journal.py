"""The journal is the one answer to what is done and what failed; folder and tables are brought in line with it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from ctglip.errors import OutputError, StoreError
from ctglip.files import remove
from ctglip.store.format import StoreInfo, study_ids, study_path
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.study import write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.store.verify import verify
from ctglip.types import Failure
from tests.store.tables_of import change_table

RECIPE = "recipe-a"


@pytest.fixture
def journaled(store: Store) -> Store:
    """Three studies that journal, folder and tables agree on."""
    with Journal(store) as journal:
        journal.settle()
        compact(store, journal.committed())
    (store.path / "splits.parquet").unlink(missing_ok=True)
    return store


def _failed(study_id: str, checksum: str = "", stage: str = "ingest") -> JournalEntry:
    return JournalEntry(study_id, RECIPE, "mark", checksum, Failure(study_id, stage, "no_file", "gone", {"n": 1}))


def _problems(store: Store) -> list[tuple[str | None, str]]:
    return [(p.study_id, p.code) for p in verify(store) if p.code != "no_split"]


def _agree(store: Store) -> None:
    """Journal, folder and tables name the same studies, made from the same input, with the store's recipe."""
    with Journal(store) as journal:
        assert journal.disagreements() == {}
        committed = journal.committed()
        assert {entry.recipe_hash for entry in journal.entries.values()} <= {store.info.recipe_hash}
    attributes = {i: store._reader(i).attributes for i in study_ids(store.path)}
    assert {i: one["source_checksum"] for i, one in attributes.items()} == committed
    assert dict(store.table("studies").select("study_id", "source_checksum").iter_rows()) == committed
    for name in ("organs", "findings", "reports"):
        assert set(store.table(name)["study_id"]) == committed.keys()


def _mend_by_run(store: Store) -> None:
    """What the driver does when it takes the store up."""
    with Journal(store) as journal:
        journal.settle()
        compact(store, journal.committed())


def _mend_by_repair(store: Store) -> None:
    verify(store, repair=True)


def test_entries_survive_a_round_trip(journaled: Store) -> None:
    entries = [_failed("x"), JournalEntry("y", RECIPE, "mark", "sum", seconds={"ingest": 0.5})]
    with Journal(journaled) as journal:
        journal.record(entries)
    with Journal(journaled) as journal:
        assert [journal.entries[i] for i in ("x", "y")] == entries
        assert (journal.entries["x"].status, journal.entries["y"].status) == ("failed", "done")
        assert journal.failures() == [entries[0].failure]
        assert journal.committed() == {"00123": "sum-00123", "s-a": "sum-s-a", "s-b": "sum-s-b", "y": "sum"}


@pytest.mark.parametrize("harm", [b"", b"noise"])
def test_a_study_whose_files_a_power_cut_emptied_is_not_entered(journaled: Store, harm: bytes) -> None:
    with Journal(journaled) as journal:
        journal.forget(["s-a", "s-b"])
    image = study_path(journaled.path, "s-a") / "image"
    shard = next(file for file in image.rglob("*") if file.is_file() and file.name != "zarr.json")
    shard.write_bytes(harm)
    with Journal(journaled) as journal:
        journal.settle()
        assert journal.committed().keys() == {"00123", "s-b"}
    assert study_ids(journaled.path) == ["00123", "s-b"]


def test_a_journal_of_before_is_read(journaled: Store) -> None:
    with sqlite3.connect(journaled.path / "journal.sqlite") as connection:
        connection.execute(
            "INSERT INTO studies (study_id, status, recipe_hash, fingerprint, checksum, stage, code, message, details, "
            "seconds) VALUES ('old', 'failed', 'recipe-a', 'f', '', 'check', 'left_right', 'sides', ?, '{}')",
            [json.dumps({"n": 3})],
        )
    with Journal(journaled) as journal:
        assert journal.entries["old"].failure == Failure("old", "check", "left_right", "sides", {"n": 3})


mended = pytest.mark.parametrize("mend", [_mend_by_run, _mend_by_repair])


@mended
def test_a_study_in_folder_and_tables_that_the_journal_lacks_is_taken_up(journaled: Store, mend) -> None:
    with Journal(journaled) as journal:
        journal.forget(["s-a"])
    assert _problems(journaled) == [("s-a", "journal")]
    mend(journaled)
    _agree(journaled)
    assert "s-a" in journaled.study_ids


@mended
def test_a_study_of_the_tables_that_neither_journal_nor_folder_has_leaves(journaled: Store, mend) -> None:
    with Journal(journaled) as journal:
        journal.forget(["s-a"])
    remove(study_path(journaled.path, "s-a"))
    assert (None, "stale_table") in _problems(journaled)
    mend(journaled)
    _agree(journaled)
    assert journaled.study_ids == ["00123", "s-b"]


@mended
def test_a_study_that_is_done_and_whose_folder_is_gone_is_forgotten(journaled: Store, mend) -> None:
    remove(study_path(journaled.path, "s-a"))
    assert ("s-a", "journal") in _problems(journaled)
    mend(journaled)
    _agree(journaled)
    with Journal(journaled) as journal:
        assert "s-a" not in journal.entries


@mended
def test_a_study_that_failed_since_is_not_served(journaled: Store, mend) -> None:
    """The driver died between its entry and the removal of the folder."""
    with Journal(journaled) as journal:
        journal.record([_failed("s-a")])
    assert ("s-a", "journal") in _problems(journaled)
    mend(journaled)
    _agree(journaled)
    assert journaled.study_ids == ["00123", "s-b"]
    with Journal(journaled) as journal:
        assert [failure.study_id for failure in journal.failures()] == ["s-a"]


@mended
def test_a_study_whose_input_cannot_be_read_now_stays(journaled: Store, mend) -> None:
    with Journal(journaled) as journal:
        journal.record([_failed("s-a", checksum="sum-s-a")])
    assert _problems(journaled) == []
    mend(journaled)
    _agree(journaled)
    assert "s-a" in journaled.study_ids


@mended
def test_a_study_that_failed_and_then_succeeded_enters_the_tables(journaled: Store, mend, record) -> None:
    with Journal(journaled) as journal:
        journal.record([_failed("new")])
    assert _problems(journaled) == []
    write_study(journaled.path, record("new"))
    with Journal(journaled) as journal:
        journal.record([JournalEntry("new", RECIPE, "mark", "sum-new")])
        assert journal.failures() == []
    assert (None, "stale_table") in _problems(journaled)
    mend(journaled)
    _agree(journaled)
    assert "new" in journaled.study_ids


def test_a_study_made_anew_from_other_input_replaces_its_rows(journaled: Store, record) -> None:
    changed = record("s-a", "p1", source_checksum="other", findings=())
    write_study(journaled.path, changed)
    assert ("s-a", "journal") in _problems(journaled), "the driver died before its entry"
    with Journal(journaled) as journal:
        journal.record([JournalEntry("s-a", RECIPE, "mark", "other")])
        compact(journaled, journal.committed())
    assert _problems(journaled) == []
    assert journaled.table("findings").filter(study_id="s-a").is_empty()


@mended
def test_an_unreadable_study_without_an_entry_is_removed(journaled: Store, mend) -> None:
    """What the driver never entered and nobody can read is worth nothing."""
    with Journal(journaled) as journal:
        journal.forget(["s-a"])
    (study_path(journaled.path, "s-a") / "zarr.json").write_text("{")
    mend(journaled)
    _agree(journaled)
    assert journaled.study_ids == ["00123", "s-b"]


def test_repair_forgets_a_study_that_it_removes(journaled: Store) -> None:
    shard = study_path(journaled.path, "s-a") / "image" / "c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[::-1])
    assert ("s-a", "damaged_study") in _problems(journaled)
    _mend_by_repair(journaled)
    _agree(journaled)
    assert journaled.study_ids == ["00123", "s-b"]


def test_repair_takes_the_study_for_what_it_is(journaled: Store, record) -> None:
    write_study(journaled.path, record("s-a", "p1", source_checksum="other", seed=5))
    _mend_by_repair(journaled)
    _agree(journaled)
    assert _problems(journaled) == []


def test_entries_of_another_recipe_stand_for_nothing(journaled: Store, tmp_path: Path, record) -> None:
    """Every study was removed by hand, and the store is made anew with another recipe from the same input."""
    for study_id in study_ids(journaled.path):
        remove(study_path(journaled.path, study_id))
    with Journal(journaled) as journal:
        journal.record([_failed("x")])
    other = create_store(journaled.path, StoreInfo(recipe={"spacing_mm": [9, 9, 9]}, recipe_hash="recipe-b"))
    _mend_by_run(other)
    _agree(other)
    with Journal(other) as journal:
        assert journal.entries == {}
        write_study(other.path, record("s-a", "p1", recipe_hash="recipe-b"))
        journal.record([JournalEntry("s-a", "recipe-b", "mark", "sum-s-a")])
        compact(other, journal.committed())
    _agree(other)
    assert other.table("studies")["recipe_hash"].to_list() == ["recipe-b"]


def test_tables_with_the_same_ids_and_rows_of_another_recipe_are_made_anew(journaled: Store, record) -> None:
    before = journaled.table("studies")
    change_table(journaled, "studies", lambda t: t.with_columns(recipe_hash=pl.lit("recipe-z"), age=pl.lit(1.0)))
    _mend_by_run(journaled)
    assert journaled.table("studies").equals(before)


def test_a_study_of_another_recipe_is_not_entered(journaled: Store, record) -> None:
    write_study(journaled.path, record("old", recipe_hash="recipe-b"))
    with Journal(journaled) as journal:
        journal.settle()
        assert "old" not in journal.entries
    assert study_path(journaled.path, "old").exists()
    assert ("old", "other_recipe") in _problems(journaled)


def test_unusable_rows_of_a_table_are_kept_for_one_run(journaled: Store) -> None:
    with Journal(journaled) as journal:
        journal.record([_failed("row 7", stage="cohort"), replace(_failed("z"), checksum="")])
        journal.settle()
        assert [failure.study_id for failure in journal.failures()] == ["z"]


def test_what_is_no_journal_says_so(journaled: Store) -> None:
    (journaled.path / "journal.sqlite").write_text("no journal")
    with pytest.raises(StoreError, match="Remove it") as error:
        Journal(journaled)
    assert error.value.code == "damaged_journal"


def test_a_full_disk_is_no_fault_of_a_study(store: Store) -> None:
    with Journal(store) as journal:
        journal.record([JournalEntry("s-a", "recipe-a", checksum="x")])
        (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [JournalEntry(f"s{n}", "recipe-a", checksum="y" * 500) for n in range(100)]
        with pytest.raises(OutputError, match="cannot be written"):
            journal.record(many)
        assert set(journal.entries) == {"s-a"}
    with Journal(store) as journal:
        assert set(journal.entries) == {"s-a"}


def test_a_journal_of_a_later_version_is_refused_by_name(store: Store) -> None:
    with Journal(store) as journal:
        journal._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format version 99") as caught:
        Journal(store)
    assert caught.value.code == "store_version"
