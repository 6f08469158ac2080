from __future__ import annotations

import pickle

import polars as pl
import pytest

from ctglip.errors import StoreError
from ctglip.files import remove
from ctglip.store.format import TABLES, study_path
from ctglip.store.parts import part_path, table_path
from ctglip.store.study import write_study
from ctglip.store.summary import summarize
from ctglip.store.tables import Store, compact, create_store, frame
from tests.store.tables_of import table_hashes


def test_tables_hold_the_rows_of_all_studies(store: Store) -> None:
    assert store.study_ids == ["00123", "s-a", "s-b"]
    assert store.table("studies")["shape"].to_list() == [[26, 19, 15]] * 3
    assert store.table("organs").filter(pl.col("organ") == "liver")["volume_ml"].to_list() == [1.728] * 3
    assert store.table("findings").height == 9
    assert store.table("labels").to_dicts() == [{"study_id": "s-a", "liver:hepatic_steatosis": 1}]
    assert store.table("splits").is_empty()
    with pytest.raises(StoreError, match="no table 'organ'"):
        store.table("organ")


def test_rebuilding_gives_the_same_rows(store: Store) -> None:
    first = table_hashes(store)
    for name in TABLES:
        remove(table_path(store.path, name))
    compact(store)
    assert table_hashes(store) == first


def test_growing_the_tables_equals_rebuilding_them(tmp_path, store: Store, record) -> None:
    grown = create_store(tmp_path / "grown", store.info)
    committed: dict[str, str] = {}
    for number, (study_id, labels) in enumerate([("s-b", {}), ("00123", {}), ("s-a", {"liver:hepatic_steatosis": 1})]):
        write_study(grown.path, record(study_id, "p2" if number == 0 else "p1", labels=labels))
        committed[study_id] = f"sum-{study_id}"
        compact(grown, committed)
    assert table_hashes(grown) == table_hashes(store)
    write_study(grown.path, record("s-a", "p1", seed=3, labels={"new": 0}, source_checksum="new"))
    compact(grown, {"s-a": "new", "s-b": "sum-s-b"})
    remove(study_path(grown.path, "00123"))
    again = table_hashes(grown)
    compact(grown)
    assert table_hashes(grown) == again


def test_studies_of_another_recipe_stay_out(store: Store, record) -> None:
    write_study(store.path, record("old", recipe_hash="recipe-b"))
    compact(store)
    assert "old" not in store.study_ids
    compact(store, {"s-a": "sum-s-a", "gone": "sum-gone"})
    assert store.study_ids == ["s-a"]


def test_a_full_folder_is_not_taken_for_a_store(tmp_path, store: Store) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not a store"):
        create_store(tmp_path / "mine", store.info)
    assert create_store(store.path, store.info).study_ids == store.study_ids


def test_an_empty_store_has_typed_empty_tables(tmp_path, store: Store) -> None:
    empty = create_store(tmp_path / "empty", store.info)
    assert empty.table("organs").schema["volume_ml"] == pl.Float64
    compact(empty)
    assert pl.read_parquet(table_path(empty.path, "organs")).schema == store.table("organs").schema


def test_a_damaged_table_says_so(store: Store) -> None:
    part_path(store.path, "organs", 0).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="verify STORE --repair"):
        store.table("organs")


def test_a_store_travels_to_other_processes(store: Store) -> None:
    assert pickle.loads(pickle.dumps(store)).study("s-a").study_id == "s-a"


def test_the_summary_counts(store: Store) -> None:
    summary = summarize(store.path)
    assert (summary["studies"], summary["patients"], summary["with_masks"]) == (3, 2, 3)
    assert summary["unplaced_findings"] == 3
    assert summary["bytes"] > 3 * 26 * 19 * 15


def test_rows_are_the_same_in_one_go_and_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table_hashes(store)
    made: list[int] = []
    monkeypatch.setattr("ctglip.store.tables.frame", lambda name, rows: made.append(len(rows)) or frame(name, rows))
    monkeypatch.setattr("ctglip.store.tables.BATCH", 2)
    compact(store)
    assert len(made) == 3 * len(TABLES), "none, then two studies, then one"
    assert table_hashes(store) == first
