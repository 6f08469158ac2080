"""The store as outsiders see it: read back with zarr, polars and json alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap

import pytest

from ctglip.errors import CTGLIPError, StoreError
from ctglip.files import write_json
from ctglip.store.format import StoreInfo, build_hash, read_info, study_ids, study_path
from ctglip.store.tables import Store

OUTSIDER = """
import json, sys
from pathlib import Path
import polars as pl, zarr
root = Path(sys.argv[1])
info = json.loads((root / "store.json").read_text())
out = {"numbers": info["labels"], "unions": info["unions"], "version": info["format_version"]}
for table in ("studies", "organs", "reports", "findings", "regions", "labels"):
    out[table] = pl.read_parquet(root / f"{table}.parquet").to_dicts()
organ = out["organs"][0]
group = zarr.open_group(root / "studies" / f"{organ['study_id']}.zarr", mode="r")
box = (0, *(slice(organ[f"{a}0"], organ[f"{a}1"]) for a in "xyz"))
out["attributes"] = dict(group.attrs)
out["inside"] = sorted({int(v) for v in group["organs"][box].ravel()})
out["image"] = [str(group["image"].dtype), group["image"].shape, int(group["image"][0, 3, 4, 5])]
out["shards"] = [group["image"].shards, group["image"].chunks]
assert not any(name.startswith("ctglip") for name in sys.modules)
print(json.dumps(out))
"""


def test_a_store_is_read_with_zarr_polars_and_json_alone(store: Store, record) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OUTSIDER), str(store.path)], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    written = record("00123", "p1")
    assert seen["version"] == 1
    assert seen["numbers"]["5"] == "liver"
    assert seen["unions"] == {"lungs": [10, 11]}
    assert [row["study_id"] for row in seen["studies"]] == ["00123", "s-a", "s-b"]
    assert seen["studies"][0]["patient_id"] == "p1"
    assert seen["studies"][0]["age"] == 61.0
    assert json.loads(seen["studies"][0]["checks"])[0]["code"] == "spacing_odd"
    assert seen["reports"][0]["text"] == "Liver: fatty.\nKidneys „fine“."
    assert [f["status"] for f in seen["findings"][:3]] == ["affirmed", "normal", "uncertain"]
    assert seen["labels"] == [{"study_id": "s-a", "liver:hepatic_steatosis": 1}]
    assert seen["inside"] == [5]
    assert seen["attributes"]["affine"] == written.standardized.affine.tolist()
    assert seen["attributes"]["source_checksum"] == "sum-00123"
    assert seen["image"] == ["int16", [1, 26, 19, 15], int(written.standardized.image[3, 4, 5])]
    assert seen["shards"] == [[1, 32, 24, 16]] * 2


def test_one_shard_and_two_metadata_files_a_volume(store: Store) -> None:
    found = list(study_path(store.path, "00123").rglob("*"))
    assert sorted(p.relative_to(study_path(store.path, "00123")).as_posix() for p in found) == [
        "image", "image/c.0.0.0.0", "image/zarr.json", "organs", "organs/c.0.0.0.0", "organs/zarr.json", "zarr.json",
    ]  # fmt: skip


def test_ids_stay_in_the_folder(store: Store) -> None:
    with pytest.raises(CTGLIPError, match="cannot name a file"):
        study_path(store.path, "../../x")
    assert study_ids(store.path) == ["00123", "s-a", "s-b"]


def test_the_hash_ignores_key_order_and_sees_values() -> None:
    assert build_hash({"a": 1, "b": 2}, {"o": "x"}) == build_hash({"b": 2, "a": 1}, {"o": "x"})
    assert build_hash({"a": 1}, {"o": "x"}) != build_hash({"a": 1}, {"o": "y"})


def test_what_is_no_store_is_refused(tmp_path, store: Store) -> None:
    with pytest.raises(StoreError, match="is not a store") as error:
        read_info(tmp_path)
    assert error.value.code == "not_a_store"
    value = json.loads((store.path / "store.json").read_text())
    write_json(store.path / "store.json", value | {"format_version": 99})
    with pytest.raises(StoreError, match="format version 99"):
        Store.open(store.path)
    (store.path / "store.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError) as error:
        Store.open(store.path)
    assert error.value.code == "bad_store_info"


def test_info_survives_a_round_trip(store: Store) -> None:
    again = Store.open(store.path)
    assert again.info == store.info
    assert isinstance(again.info, StoreInfo)
    assert hashlib.sha256((store.path / "store.json").read_bytes()).hexdigest()
