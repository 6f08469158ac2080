from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest

from ctglip.errors import CTGLIPError, ScanError
from ctglip.files import (
    atomic_path,
    check_id,
    file_checksum,
    plain_json,
    private_name,
    value_hash,
    without_folders,
    write_json,
)


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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reaches the disk, in order: names that are flushed, and names that files and folders are renamed to."""
    found: list[tuple[str, str]] = []
    fsync = os.fsync

    def flushed(number: int) -> None:
        found.append(("flush", Path(f"/proc/self/fd/{number}").readlink().name))
        fsync(number)

    monkeypatch.setattr(os, "fsync", flushed)
    for name in ("rename", "replace"):
        move = getattr(Path, name)

        def moved(path: Path, target: Path, move=move) -> Path:
            found.append(("name", target.name))
            return move(path, target)

        monkeypatch.setattr(Path, name, moved)
    return found


@pytest.mark.parametrize("is_there", [False, True])
def test_a_name_counts_when_what_it_stands_for_is_on_the_disk(tmp_path: Path, calls, is_there: bool) -> None:
    target = tmp_path / "study"
    if is_there:
        target.mkdir()
    with atomic_path(target) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a").write_text("a")
        (temporary / "b").write_text("b")
    named = calls.index(("name", "study"))
    assert {name for kind, name in calls[:named] if kind == "flush"} == {"a", "b", "inner", temporary.name}
    assert calls.index(("flush", "a")) < calls.index(("flush", "inner")) < calls.index(("flush", temporary.name))
    assert calls[named + 1 :] == [("flush", tmp_path.name)]


def test_a_disk_that_fails_while_flushing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "a.json", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", 2)
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_system_that_cannot_flush_is_written_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(number: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", unable)
    write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").read_text() == "1\n"


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


def test_pages_name_files_without_their_folders() -> None:
    text = "Study 1: there is no image at /home/jane/ct/a.nii.gz. See https://example.org/x/y and 1/2, and/or."
    assert (
        without_folders(text) == "Study 1: there is no image at a.nii.gz. See https://example.org/x/y and 1/2, and/or."
    )
    assert without_folders("'/a/b c/d.nii' and /etc/passwd") == "'b c/d.nii' and passwd"


def test_json_of_numbers_that_are_none() -> None:
    assert json.loads(plain_json({"a": [float("nan"), float("-inf"), 1.5], "b": ("x", None)})) == {
        "a": [None, None, 1.5],
        "b": ["x", None],
    }
