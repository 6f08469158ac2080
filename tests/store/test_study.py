from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ctglip.errors import StoreError
from ctglip.store.format import study_path
from ctglip.store.study import StudyReader, organ_columns, organ_row, write_study
from ctglip.store.tables import Store
from ctglip.types import Standardized


def test_what_is_written_is_read(store: Store, record) -> None:
    written = record("s-b", "p2")
    study = store.study("s-b")
    np.testing.assert_array_equal(study.image(), written.standardized.image)
    np.testing.assert_array_equal(study.organs(), written.standardized.organs)
    np.testing.assert_array_equal(study.affine, written.standardized.affine)
    assert study.image().dtype == np.int16
    assert study.spacing_mm == (1.5, 2.0, 3.0)
    assert study.shape == (26, 19, 15)
    assert study.rows("reports")[1] == {"study_id": "s-b", "section": "impression", "text": "Steatosis."}
    assert study.source is not None
    assert study.source.shape == (52, 38, 30)


@pytest.mark.parametrize("box", [(3, 11, 4, 10, 5, 9), (-4, 5, 0, 19, 14, 99), (25, 26, 18, 19, 14, 15)])
def test_a_box_is_a_piece_of_the_volume(store: Store, box) -> None:
    study = store.study("00123")
    whole = study.image()
    x0, x1, y0, y1, z0, z1 = (max(edge, 0) for edge in box)
    np.testing.assert_array_equal(study.image(box), whole[x0:x1, y0:y1, z0:z1])


def test_a_study_without_masks_has_none(tmp_path: Path, record) -> None:
    bare = Standardized(np.full((5, 6, 7), -1000, np.int16), None, np.eye(4))
    study = StudyReader(write_study(tmp_path, record("x", standardized=bare)))
    assert study.organs() is None
    assert study.rows("organs") == []
    assert study.image().mean() == -1000


def test_volumes_larger_than_a_chunk_come_back(tmp_path: Path, record) -> None:
    image = np.random.default_rng(0).integers(-1000, 1000, (97, 50, 49)).astype(np.int16)
    study = StudyReader(write_study(tmp_path, record("x", standardized=Standardized(image, None, np.eye(4)))))
    np.testing.assert_array_equal(study.image(), image)
    np.testing.assert_array_equal(study.image((40, 97, 20, 30, 1, 49)), image[40:97, 20:30, 1:49])


def _bytes(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()
    }


def test_the_same_record_gives_the_same_bytes_and_replaces_the_old(tmp_path: Path, record) -> None:
    first = _bytes(write_study(tmp_path, record("x")))
    assert _bytes(write_study(tmp_path, record("x"))) == first
    changed = write_study(tmp_path, record("x", seed=1))
    assert _bytes(changed) != first
    assert [p.name for p in (tmp_path / "studies").iterdir()] == ["x.zarr"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, record, monkeypatch) -> None:
    write_study(tmp_path, record("x"))
    before = _bytes(study_path(tmp_path, "x"))
    monkeypatch.setattr("ctglip.store.study._attributes", lambda record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_study(tmp_path, record("x", seed=1))
    with pytest.raises(ZeroDivisionError):
        write_study(tmp_path, record("y"))
    assert [p.name for p in (tmp_path / "studies").iterdir()] == ["x.zarr"]
    assert _bytes(study_path(tmp_path, "x")) == before


def test_missing_and_damaged_studies_are_told_apart(store: Store) -> None:
    with pytest.raises(StoreError, match="no study 'absent'") as error:
        store.study("absent")
    assert error.value.code == "no_study"
    (study_path(store.path, "s-a") / "zarr.json").write_text("{}")
    with pytest.raises(StoreError) as error:
        store.study("s-a")
    assert error.value.code == "damaged_study"
    shard = study_path(store.path, "s-b") / "image" / "c.0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError) as error:
        store.study("s-b").image()
    assert error.value.code == "damaged_study"


def test_damage_is_found(store: Store) -> None:
    study = store.study("s-b")
    assert study.damage() == []
    shard = study.path / "image" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    (study.path / "extra").write_text("x")
    assert study.damage() == ["extra is not part of it", "image/c.0.0.0.0 has changed"]


def test_organ_rows_round_trip(record) -> None:
    row = record("x").standardized.rows[0]
    assert organ_row(organ_columns(row)) == row
