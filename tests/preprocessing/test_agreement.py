"""Journal, folder and tables that say different things of a study; and what a stage is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing import case
from ctglip_preprocessing.case import Case

from ctglip.files import remove
from ctglip.store.format import study_path
from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.types import Failure
from tests.preprocessing.conftest import contents, statuses
from tests.store.tables_of import change_table


def _forgotten(store: Store) -> None:
    with Journal(store) as journal:
        journal.forget(["00001"])


def _folder_gone(store: Store) -> None:
    remove(study_path(store.path, "00001"))


def _folder_and_entry_gone(store: Store) -> None:
    _forgotten(store)
    _folder_gone(store)


def _entered_as_failed(store: Store) -> None:
    with Journal(store) as journal:
        failure = Failure("00001", "ingest", "unreadable", "It could not be read.")
        journal.record([JournalEntry("00001", store.info.recipe_hash, "other", failure=failure)])


def _entered_with_another_recipe(store: Store) -> None:
    with Journal(store) as journal:
        journal.record([replace(journal.entries["00001"], recipe_hash="other")])


def _made_from_other_input(store: Store) -> None:
    with Journal(store) as journal:
        journal.record([replace(journal.entries["00001"], checksum="other", fingerprint="other")])


def _tables_lack_it(store: Store) -> None:
    for name in ("organs", "studies"):
        change_table(store, name, lambda table: table.filter(pl.col("study_id") != "00001"))


def _tables_have_another(store: Store) -> None:
    another = store.table("studies").tail(1).with_columns(study_id=pl.lit("x"))
    change_table(store, "studies", lambda studies: pl.concat([studies, another]))


@pytest.mark.parametrize(
    "spoil",
    [
        _forgotten, _folder_gone, _folder_and_entry_gone, _entered_as_failed, _entered_with_another_recipe,
        _made_from_other_input, _tables_lack_it, _tables_have_another,
    ],
)  # fmt: skip
def test_the_next_run_mends_whatever_disagrees(make_cohort, run, tmp_path: Path, spoil) -> None:
    """Journal, folder and tables say different things of a study: found by verify, gone after a run."""
    make_cohort(3)
    run()
    store = Store.open(tmp_path / "store")
    whole, entries = contents(store.path), statuses(store.path)
    spoil(store)
    assert verify(store) != []
    summary = run()
    assert (summary.failed, summary.written + summary.up_to_date, summary.others) == ((), 3, 0)
    assert contents(store.path) == whole
    assert statuses(store.path) == entries
    assert verify(store) == []
    assert run().worked == 0


def test_a_stage_is_a_function_and_a_line(make_cohort, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cohort(1)
    run()
    before = Store.open(tmp_path / "store").study("00000").image()
    remove(tmp_path / "store")

    def lift(one: Case) -> Case:
        assert one.standardized is not None
        return replace(one, standardized=replace(one.standardized, image=one.standardized.image + np.int16(1)))

    monkeypatch.setattr(case, "STAGES", (*case.STAGES[:-1], ("lift", lift), case.STAGES[-1]))
    run()
    store = Store.open(tmp_path / "store")
    np.testing.assert_array_equal(store.study("00000").image(), before + 1)
    with Journal(store) as journal:
        assert list(journal.entries["00000"].seconds) == [
            "ingest", "report", "check", "segment", "standardize", "lift", "write",
        ]  # fmt: skip
