"""Tables in parts: what is added touches no part that is there, and no reader meets a study twice, whenever a writer
dies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from ctglip.errors import StoreError
from ctglip.files import remove
from ctglip.store import parts
from ctglip.store.format import TABLES, study_path
from ctglip.store.parts import numbers, part_path, scan_table, table_path
from ctglip.store.study import write_study
from ctglip.store.tables import Store, add_studies, compact, upgrade
from ctglip.store.verify import verify
from tests.store.conftest import make_record
from tests.store.tables_of import as_before, part_files, table_hashes

COMMITTED = {"00123": "sum-00123", "s-a": "sum-s-a", "s-b": "sum-s-b"}


class Died(BaseException):
    pass


def _bytes(store: Store, number: int) -> dict[str, str]:
    """A hash of the files of one number."""
    files = {name: part_path(store.path, name, number) for name in TABLES}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def _add(store: Store, *ids: str, **changes) -> dict[str, str]:
    for study_id in ids:
        write_study(store.path, make_record(study_id, **changes))
    return {study_id: changes.get("source_checksum", f"sum-{study_id}") for study_id in ids}


def _seen_by_others(store: Store, name: str) -> list[str]:
    """The ids in a table as polars reads its folder."""
    return pl.read_parquet(table_path(store.path, name))["study_id"].to_list()


def test_added_studies_are_a_new_part_and_the_others_stay_as_they_are(store: Store) -> None:
    before = _bytes(store, 0)
    compact(store, COMMITTED | _add(store, "t-1", "t-2"))
    assert numbers(store.path) == [0, 1]
    assert _bytes(store, 0) == before
    assert store.study_ids == ["00123", "s-a", "s-b", "t-1", "t-2"]
    assert verify(store) == []


@pytest.mark.parametrize("name", sorted(TABLES))
def test_polars_and_pandas_read_a_folder_as_one_table(store: Store, name: str) -> None:
    compact(store, COMMITTED | _add(store, "a-first", "t-1", labels={"spleen:splenomegaly": 0, "liver:x": 1}))
    ours = store.table(name)
    theirs = pl.read_parquet(table_path(store.path, name)).sort("study_id", maintain_order=True)
    assert theirs.select(ours.columns).equals(ours)
    frame = pd.read_parquet(table_path(store.path, name))
    assert sorted(frame["study_id"]) == ours["study_id"].to_list()
    assert set(ours.columns) <= set(frame.columns)
    assert scan_table(store.path, name).select(pl.len()).collect().item() == ours.height


def test_small_parts_are_bounded_and_each_addition_writes_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctglip.store.tables.FULL", 6)
    monkeypatch.setattr("ctglip.store.tables.OPEN", 3)
    committed = dict(COMMITTED)
    for count in range(30):
        committed |= _add(store, f"n{count:02}")
        before = {number: _bytes(store, number) for number in numbers(store.path)}
        compact(store, committed)
        changed = [number for number, one in before.items() if _bytes(store, number) != one]
        assert len(changed) + len(numbers(store.path)) - len(before) == 1
    assert len(numbers(store.path)) <= 33 / 3 + 3
    assert _seen_by_others(store, "studies") != store.study_ids
    assert sorted(_seen_by_others(store, "studies")) == store.study_ids == sorted(committed)
    assert verify(store) == []


def test_changed_and_removed_studies_rewrite_their_own_part(store: Store) -> None:
    committed = COMMITTED | _add(store, "t-1", "t-2")
    compact(store, committed)
    before = _bytes(store, 0)
    committed |= _add(store, "t-2", findings=(), source_checksum="new")
    del committed["t-1"]
    compact(store, committed)
    assert _bytes(store, 0) == before
    assert store.table("findings").filter(study_id="t-2").is_empty()
    assert "t-1" not in store.study_ids
    remove(study_path(store.path, "t-1"))
    assert verify(store) == []
    compact(store, COMMITTED)
    assert numbers(store.path) == [0]


@pytest.mark.parametrize("written", range(14))
def test_whenever_a_writer_dies_no_study_is_seen_twice_and_none_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A study is added, one is changed and one is gone; the writer dies after some of its files."""
    committed = COMMITTED | _add(store, "t-1") | _add(store, "s-a", findings=(), source_checksum="new")
    del committed["s-b"]
    write, left = parts.write_parquet, written

    def dying(*arguments) -> None:
        nonlocal left
        if not left:
            raise Died
        left -= 1
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_parquet", dying)
        with pytest.raises(Died):
            compact(store, committed)
    assert {"00123", "s-a"} <= set(store.study_ids) <= {"00123", "s-a", "s-b", "t-1"}
    for name, most in {"studies": 1, "organs": 1, "reports": 2, "findings": 3}.items():
        for table in (store.table(name), pl.read_parquet(table_path(store.path, name))):
            assert table.group_by("study_id").len()["len"].max() == most
    assert set(store.table("organs")["study_id"]) <= {"00123", "s-a", "s-b", "t-1"}
    compact(store, committed)
    remove(study_path(store.path, "s-b"))
    assert store.study_ids == ["00123", "s-a", "t-1"]
    assert verify(store) == []


def test_rows_whose_writer_died_before_its_studies_part_are_not_read_and_go(store: Store) -> None:
    part_path(store.path, "organs", 1).write_bytes(part_path(store.path, "organs", 0).read_bytes())
    assert store.table("organs")["study_id"].is_unique().all()
    compact(store, COMMITTED)
    assert numbers(store.path, "organs") == [0]


def test_a_part_that_was_growing_when_its_writer_died_is_made_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its tables have the new study already, which goes elsewhere now."""
    monkeypatch.setattr("ctglip.store.tables.OPEN", 1)
    committed = COMMITTED | _add(store, "t-1")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "sort_table", lambda name, table: _die() if name == "studies" else table)
        with pytest.raises(Died):
            compact(store, committed)
    assert "t-1" in store.table("findings")["study_id"]
    monkeypatch.setattr("ctglip.store.tables.OPEN", 9)
    compact(store, committed)
    assert store.table("findings").filter(study_id="t-1").height == 3
    assert verify(store) == []


def _die() -> pl.DataFrame:
    raise Died


def test_a_missing_part_is_named_and_made_again(store: Store) -> None:
    whole = table_hashes(store)
    part_path(store.path, "organs", 0).unlink()
    with pytest.raises(StoreError, match="lacks part-000000") as caught:
        store.table("organs")
    assert caught.value.code == "damaged_table"
    assert [(problem.code, problem.message[:14]) for problem in verify(store)] == [("stale_table", "organs.parquet")]
    verify(store, repair=True)
    assert table_hashes(store) == whole


def test_tables_of_before_are_read_checked_and_divided(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table_hashes(store)
    as_before(store)
    assert table_path(store.path, "organs").is_file()
    assert table_hashes(store) == whole
    assert verify(store) == []
    monkeypatch.setattr("ctglip.store.tables.FULL", 2)
    assert upgrade(store)
    assert not upgrade(store)
    assert numbers(store.path) == [0, 1]
    assert table_hashes(store) == whole
    assert verify(store) == []
    assert len(part_files(store.path, "organs")) == 2


@pytest.mark.parametrize("divided", range(7))
def test_an_upgrade_that_dies_is_read_and_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch, divided: int) -> None:
    whole, divide, left = table_hashes(store), parts.divide, divided
    as_before(store)

    def dying(root: Path, name: str, ids: dict[int, list[str]]) -> None:
        nonlocal left
        if not left:
            raise Died
        left -= 1
        divide(root, name, ids)

    with monkeypatch.context() as patch:
        patch.setattr("ctglip.store.tables.divide", dying)
        with pytest.raises(Died):
            upgrade(store)
    assert table_hashes(store) == whole
    assert upgrade(store)
    assert table_hashes(store) == whole


def test_studies_are_added_to_tables_of_before(store: Store) -> None:
    as_before(store)
    compact(store, COMMITTED | _add(store, "t-1"))
    assert numbers(store.path) == [0, 1]
    assert store.study_ids == ["00123", "s-a", "s-b", "t-1"]
    assert verify(store) == []


def test_what_cannot_be_read_is_no_part(store: Store) -> None:
    write_study(store.path, make_record("bad"))
    (study_path(store.path, "bad") / "zarr.json").write_text("{")
    add_studies(store, ["bad"])
    assert numbers(store.path) == [0]


def test_rows_of_another_form_leave_the_others_of_their_batch_in(store: Store) -> None:
    _add(store, "bad", "good")
    file = study_path(store.path, "bad") / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["rows"]["organs"][0]["volume_ml"] = "much"
    file.write_text(json.dumps(content))
    add_studies(store, ["bad", "good"])
    assert store.study_ids == ["00123", "good", "s-a", "s-b"]


def _labels(store: Store) -> list[dict]:
    return store.table("labels").to_dicts()


def test_dividing_and_a_new_label_lose_no_label(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctglip.store.tables.FULL", 3)
    committed = COMMITTED | _add(store, "a-1", labels={"liver:x": 1}) | _add(store, "t-1", labels={"spleen:y": 0})
    compact(store, committed)
    as_before(store)
    upgrade(store)
    names = {tuple(pl.read_parquet_schema(path)) for path in part_files(store.path, "labels")}
    assert names == {("study_id", "liver:hepatic_steatosis", "liver:x", "spleen:y")}
    compact(store, committed | _add(store, "t-2", labels={"spleen:z": 1}))
    assert verify(store) == []


def test_a_new_label_keeps_labels_that_the_last_part_lacks(store: Store) -> None:
    committed = COMMITTED | _add(store, "a-1", labels={"liver:x": 1})
    compact(store, committed)
    committed |= _add(store, "t-1")
    compact(store, committed)
    last = part_path(store.path, "labels", numbers(store.path)[-1])
    pl.read_parquet(last).select("study_id").write_parquet(last)
    compact(store, committed | _add(store, "t-2", labels={"spleen:z": 1}))
    assert verify(store) == []
    assert any(row["liver:x"] == 1 for row in _labels(store))


def test_several_damaged_parts_are_made_again(store: Store) -> None:
    committed = COMMITTED | _add(store, "t-1", labels={"liver:x": 1})
    compact(store, committed)
    compact(store, committed | _add(store, "t-2", labels={"liver:x": 0}))
    for path in part_files(store.path, "labels"):
        path.write_bytes(b"damaged")
    verify(store, repair=True)
    assert verify(store) == []


@pytest.mark.parametrize("name", ["studies", "organs", "labels"])
def test_a_damaged_table_of_before_is_made_again(store: Store, name: str) -> None:
    hashes = table_hashes(store)
    as_before(store)
    table_path(store.path, name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=f"{name}.parquet"):
        upgrade(store)
    verify(store, repair=True)
    assert verify(store) == []
    assert table_hashes(store) == hashes


def test_a_part_that_is_added_meanwhile_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = parts.numbers
    grown: list[bool] = []

    def then_grows(root: Path, name: str = "studies") -> list[int]:
        found = listed(root, name)
        if not grown:
            grown.append(True)
            compact(store, COMMITTED | _add(store, "t-1"))
        return found

    monkeypatch.setattr(parts, "numbers", then_grows)
    assert parts.read_table(store.path, "organs")["study_id"].unique().sort().to_list() == sorted(COMMITTED)
