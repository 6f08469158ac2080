from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ctglip.errors import CTGLIPError, ScanError
from ctglip.files import atomic_path, check_id, file_checksum, private_name, value_hash, write_json


def _write_half(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError):
        _write_half(target)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "store"
    for name in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("bad", ["", "..", "a..b", "../x", "a/b", "a b", ".a", "-a", "a\n", "x" * 129, "ü"])
def test_ids_cannot_leave_their_folder(bad: str) -> None:
    with pytest.raises(CTGLIPError) as caught:
        check_id(bad)
    assert caught.value.code == "bad_id"


@pytest.mark.parametrize("good", ["00123", "a", "sim-00001", "A.b_c-9", "x" * 128])
def test_ordinary_ids_pass(good: str) -> None:
    assert check_id(good) == good


def test_checksums_see_content_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1").write_bytes(b"a")
    first = file_checksum(folder)
    (folder / "1").rename(folder / "2")
    second = file_checksum(folder)
    (folder / "2").write_bytes(b"b")
    assert len({first, second, file_checksum(folder), file_checksum(folder / "2")}) == 4


def test_hashes_ignore_the_order_of_keys() -> None:
    assert value_hash({"a": 1, "b": [1, 2]}) == value_hash({"b": [1, 2], "a": 1})
    assert value_hash({"a": 1}) != value_hash({"a": 2})


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ScanError("No slices.", code="image_empty", fix="Check the folder.")))
    assert type(error) is ScanError
    assert (error.code, str(error)) == ("image_empty", "No slices. Check the folder.")


def test_names_of_dicom_are_not_told(tmp_path: Path) -> None:
    series, organs = tmp_path / "1.2.840.1", tmp_path / "segmentations"
    for folder, name in ((series, "1.2.840.1.7"), (organs, "liver.nii.gz")):
        folder.mkdir()
        (folder / name).write_bytes(b"\0" * 128 + (b"DICM" if folder is series else b"...."))
    (tmp_path / "Doe^Jane.dcm").write_bytes(b"no preamble")
    told = [series, series / "1.2.840.1.7", tmp_path / "Doe^Jane.dcm", organs, organs / "liver.nii.gz"]
    assert [private_name(path) for path in told] == [
        "DICOM series", "DICOM file", "DICOM file", "segmentations", "liver.nii.gz"
    ]  # fmt: skip
