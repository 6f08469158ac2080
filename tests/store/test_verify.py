from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from ctglip.errors import OutputError
from ctglip.files import exclusive
from ctglip.store.format import study_path
from ctglip.store.parts import part_path, table_path
from ctglip.store.splits import assign_splits
from ctglip.store.study import write_study
from ctglip.store.summary import summarize
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.types import OrganRow, Standardized
from tests.store.tables_of import change_table


def _codes(store: Store) -> list[tuple[str | None, str]]:
    return [(problem.study_id, problem.code) for problem in verify(store)]


def _mends(store: Store) -> bool:
    assert all(problem.repaired for problem in verify(store, repair=True))
    return verify(store) == []


def test_a_sound_store_has_no_problems(store: Store) -> None:
    seen = []
    assert verify(store, progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (3, 3)


def test_a_flipped_bit_is_found_and_the_study_dropped(store: Store) -> None:
    shard = study_path(store.path, "s-a") / "organs" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(bytes(data))
    assert _codes(store)[0] == ("s-a", "damaged_study")
    assert _mends(store)
    assert store.study_ids == ["00123", "s-b"]


def test_changed_rows_are_found(store: Store) -> None:
    file = study_path(store.path, "s-a") / "zarr.json"
    value = json.loads(file.read_text())
    value["attributes"]["rows"]["organs"][0]["volume_ml"] = 2.0
    file.write_text(json.dumps(value))
    assert (("s-a", "damaged_study")) in _codes(store)


def test_leftovers_and_strangers_are_named(store: Store) -> None:
    (store.path / "studies" / ".x.zarr.abc.tmp").mkdir()
    (store.path / "studies" / "notes.txt").write_text("x")
    assert _codes(store) == [(None, "leftover"), (None, "foreign_file")]
    verify(store, repair=True)
    assert _codes(store) == [(None, "foreign_file")]


def test_tables_that_differ_from_the_studies_are_rebuilt(store: Store, record) -> None:
    before = part_path(store.path, "organs", 0).read_bytes()
    part_path(store.path, "organs", 0).write_bytes(b"")
    part_path(store.path, "findings", 0).unlink()
    assert _codes(store) == [(None, "stale_table")] * 2
    assert _mends(store)
    assert part_path(store.path, "organs", 0).read_bytes() == before
    write_study(store.path, record("new"))
    assert (None, "stale_table") in _codes(store)
    assert _mends(store)
    assert "new" in store.study_ids


def test_invariants(store: Store, record) -> None:
    sound = record("bad").standardized
    labels = np.array(sound.organs)
    labels[0, 0, 0] = 99
    rows = (OrganRow("liver", (3, 30, 4, 10, 5, 9), 1.0, 1.0, False),)
    write_study(store.path, record("bad", standardized=Standardized(sound.image, labels, sound.affine, rows)))
    messages = [problem.message for problem in verify(store) if problem.code == "invariant"]
    assert "labels [99]" in messages[0]
    assert "box of liver" in messages[1]
    study_path(store.path, "s-a").rename(study_path(store.path, "s-z"))
    assert ("s-z", "invariant") in _codes(store)
    assert _mends(store)


def test_studies_of_another_recipe_are_named(store: Store, record) -> None:
    write_study(store.path, record("old", recipe_hash="recipe-b"))
    assert _codes(store) == [("old", "other_recipe")]
    assert _mends(store)


def test_splits_are_checked(store: Store, record) -> None:
    assign_splits(store)
    assert verify(store) == []
    table = store.table("splits")
    table.with_columns(split=pl.Series(["train", "test", "val"])).write_parquet(table_path(store.path, "splits"))
    assert _codes(store) == [(None, "patient_in_two_splits")]
    table.head(2).write_parquet(table_path(store.path, "splits"))
    assert _codes(store) == [("s-b", "no_split")]


def test_a_store_in_use_is_not_repaired(store: Store) -> None:
    with exclusive(store.path), pytest.raises(OutputError, match="Another process"):
        verify(store, repair=True)
    assert verify(store, repair=True) == []


@pytest.mark.parametrize("options", [{"workers": 2}, {"address": "local"}])
def test_several_workers_find_and_mend_the_same(store: Store, monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    monkeypatch.setattr("ctglip.store.check.SHARD", 1)
    shard = study_path(store.path, "s-a") / "organs" / "c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[::-1])
    change_table(store, "organs", lambda table: table.filter(pl.col("study_id") != "s-b"))
    change_table(store, "reports", lambda table: pl.concat([table, table.with_columns(study_id=pl.lit("zz"))]))
    alone = verify(store)
    assert {(problem.study_id, problem.code) for problem in alone} >= {("s-a", "damaged_study"), (None, "stale_table")}
    assert [one.message[:7] for one in alone if one.code == "stale_table"][1:3] == ["organs.", "reports"]
    seen: list[tuple[int, int]] = []
    assert verify(store, progress=lambda *done: seen.append(done), **options) == alone
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(problem.repaired for problem in verify(store, repair=True, **options))
    assert verify(store, **options) == []
    assert store.study_ids == ["00123", "s-b"]
    assert summarize(store.path, **options) == summarize(store.path)
