"""Uploads are bounded, and archives are opened with suspicion."""

from __future__ import annotations

import asyncio
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve import uploads
from ctglip.serve.uploads import Intake, UploadLimits, expand, image_path, masks_path, stored_name
from ctglip.store.tables import Store
from tests.serve.conftest import make_ward

LIMITS = UploadLimits(files=20, free_bytes=0)


def archive(path: Path, *names: str, data: bytes = b"x") -> Path:
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "C:/out", "\\\\host\\out"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(CTGLIPError, match="lead out"):
        expand(archive(inside, name), "scan", LIMITS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "inside"]


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(CTGLIPError, match="holds links"):
        expand(tmp_path, "scan", LIMITS)


def test_bombs_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError) as refused:
        expand(archive(tmp_path, "a.dcm", data=bytes(8 << 20)), "scan", LIMITS)
    assert refused.value.code == "upload_too_large"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CTGLIPError, match="21 files"):
        expand(archive(tmp_path, *(f"{n}.dcm" for n in range(21))), "scan", LIMITS)


def test_archives_are_bounded_together(tmp_path: Path) -> None:
    archive(tmp_path, *(f"{n}.dcm" for n in range(11))).joinpath("a.zip").rename(tmp_path / "b.zip")
    archive(tmp_path, *(f"{n}.dcm" for n in range(10)), data=b"ab")
    with pytest.raises(CTGLIPError, match="21 files"):
        expand(tmp_path, "scan", LIMITS)
    with pytest.raises(CTGLIPError, match="would grow"):
        expand(tmp_path, "scan", UploadLimits(expanded_bytes=10, free_bytes=0))


def test_an_archive_that_holds_more_than_it_says_is_refused(tmp_path: Path) -> None:
    archive(tmp_path, "a.dcm", data=b"abc" * 1000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(mark) + offset
        data[at : at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(CTGLIPError):
        expand(tmp_path, "scan", LIMITS)


def test_damaged_and_encrypted_archives_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no archive")
    with pytest.raises(CTGLIPError, match="cannot be opened"):
        expand(tmp_path, "scan", LIMITS)
    archive(tmp_path, "a.dcm")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(CTGLIPError, match="encrypted"):
        expand(tmp_path, "scan", LIMITS)


def test_archives_in_archives_and_rubbish_stay_closed(tmp_path: Path) -> None:
    expand(archive(tmp_path, "a/1.dcm", "a/inner.zip", "__MACOSX/1.dcm", "a/.DS_Store", "a/"), "scan", LIMITS)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/00001.dcm"]


def test_an_archive_is_opened_whole_whenever_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path, "liver.nii.gz", "spleen.nii.gz")

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_extract", ended)
        with pytest.raises(KeyboardInterrupt):
            expand(tmp_path, "masks", LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    (tmp_path / ".a.0123.tmp").mkdir()
    (tmp_path / ".a.0123.tmp" / "liver.nii.gz").write_bytes(b"half")
    expand(tmp_path, "masks", LIMITS)
    found = masks_path(tmp_path)
    assert found == tmp_path / "a"
    assert sorted(path.name for path in found.iterdir()) == ["liver.nii.gz", "spleen.nii.gz"]
    archive(tmp_path, "liver.nii.gz")
    expand(tmp_path, "masks", LIMITS)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 2, "it was opened already"


def test_no_file_keeps_its_name_but_for_masks_of_known_organs() -> None:
    assert stored_name("Doe_Jane.nii.gz", 3, "scan") == "00003.nii.gz"
    assert stored_name("../../x/liver.NII.GZ", 1, "masks") == "liver.nii.gz"
    assert stored_name("kidney_left.nii.gz", 1, "scan") == "00001.nii.gz"
    assert stored_name("Jane.seg.nrrd", 2, "masks") == "00002.seg.nrrd"
    assert stored_name("IM000001", 2, "scan") == "00002"


async def _bytes(*parts: bytes, wait: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(wait)
        yield part


def test_what_is_too_large_or_stops_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "uploaded" / "scan"
    intake = Intake(UploadLimits(scan_bytes=10, files=3, silence_s=0.05, free_bytes=0))
    assert asyncio.run(intake.receive(_bytes(b"abcd", b"", b"ef"), folder, "a.dcm", "scan")) == 6
    with pytest.raises(CTGLIPError, match="MiB"):
        asyncio.run(intake.receive(_bytes(b"abcde"), folder, "b.dcm", "scan"))
    with pytest.raises(CTGLIPError, match="stopped"):
        asyncio.run(intake.receive(_bytes(b"a", wait=1.0), folder, "c.dcm", "scan"))
    with pytest.raises(CTGLIPError, match="3 files"):
        asyncio.run(intake.receive(_bytes(b"a"), folder, "d.dcm", "scan"))
    assert [path.name for path in folder.iterdir()] == ["00001.dcm"]
    full = Intake(UploadLimits(free_bytes=1 << 60))
    with pytest.raises(CTGLIPError, match="disk is full"):
        asyncio.run(full.receive(_bytes(b"a"), tmp_path / "other" / "scan", "a.dcm", "scan"))


def test_what_an_upload_has_is_counted_once_and_no_number_is_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, counted, of = tmp_path / "uploaded" / "scan", [], uploads._UploadTally.of

    def receive(intake: Intake, *names: str) -> list[str]:
        for name in names:
            asyncio.run(intake.receive(_bytes(b"x"), folder, name, "scan"))
        return sorted(path.name for path in folder.iterdir())

    monkeypatch.setattr(uploads._UploadTally, "of", lambda one: counted.append(one) or of(one))
    first = Intake(UploadLimits(free_bytes=0))
    assert receive(first, "a.dcm", "b.dcm", "c.dcm") == ["00001.dcm", "00002.dcm", "00003.dcm"]
    assert len(counted) == 1
    (folder / "00002.dcm").unlink()
    assert receive(Intake(first.limits), "d.dcm") == ["00001.dcm", "00003.dcm", "00004.dcm"], "after a restart"


def test_the_queue_is_bounded(trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path) -> None:
    ward = make_ward(tmp_path / "serve", [trained[1]], queued=1, kept=3)
    first, second = ward.begin([files[0]]), ward.begin([files[0]])
    ward.post(f"/api/scans/{first}/start")
    assert ward.post(f"/api/scans/{second}/start", status=503)["error"]["code"] == "busy"
    ward.begin()
    assert ward.post("/api/scans", status=503)["error"]["code"] == "busy"


def test_the_image_among_the_files(tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="No scan"):
        image_path(tmp_path / "none", "ct")
    (tmp_path / "00001").write_bytes(b"x")
    assert image_path(tmp_path, "ct") == tmp_path
    assert image_path(tmp_path, "cxr") == tmp_path / "00001"
    (tmp_path / "00002.nii.gz").write_bytes(b"x")
    assert image_path(tmp_path, "ct").name == "00002.nii.gz"
