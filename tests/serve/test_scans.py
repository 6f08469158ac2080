"""Scans that are sent, read, refused, chosen from, cancelled and deleted."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.api import load_model
from ctglip.serve import work
from ctglip.serve.uploads import series_row, set_aside, usable_series
from ctglip.store.tables import Store
from tests.ct.conftest import SECRETS, make_phantom, write_series
from tests.serve.conftest import Ward

__all__ = ["write_series"]
SERIES = Callable[..., Path]


def lps(values: np.ndarray) -> np.ndarray:
    return values[::-1, ::-1]


@pytest.fixture
def dicom(write_series: SERIES) -> Path:
    """A phantom as DICOM, with names, ids and dates in its headers."""
    phantom = make_phantom((2.0, 2.0, 5.0))
    return write_series(lps(phantom.hu), np.arange(phantom.hu.shape[2]) * 5.0)


@pytest.fixture
def dicom_masks(tmp_path: Path) -> Path:
    phantom = make_phantom((2.0, 2.0, 5.0))
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[:2, 3] = 20 - 2.0 * (phantom.hu.shape[0] - 1), 10 - 2.0 * (phantom.hu.shape[1] - 1)
    path = tmp_path / "masks.nii.gz"
    nib.save(nib.Nifti1Image(phantom.labels, affine), path)
    return path


def test_a_scan_is_read_step_by_step_and_answers_as_query_does(
    ward: Ward, trained: tuple[Store, Path], files: tuple[Path, Path]
) -> None:
    scan = ward.read([files[0]], [files[1]])
    assert scan["state"] == "ready"
    assert [step["name"] for step in scan["steps"]] == ["read", "check", "segment", "encode"]
    assert all(step["state"] == "done" and step["seconds"] >= 0 for step in scan["steps"])
    assert scan["about"]["image"]["voxels"] == [20, 20, 20]
    asked = ward.post(f"/api/scans/{scan['id']}/ask", {"questions": ["liver: fatty liver"]})["answers"][0]
    (wanted,) = (
        load_model(trained[1]).query(files[0], ["liver: fatty liver"], files[1], settings=["cut_off=answer"]).answers
    )
    assert asked["probability"] == pytest.approx(wanted.probability, rel=1e-5), "organs are encoded in other batches"
    assert ward.client.get(f"/api/scans/{scan['id']}/pictures/axial.png").content.startswith(b"\x89PNG")


@pytest.mark.parametrize("packed", [False, True])
def test_dicom_comes_as_files_or_as_an_archive(
    ward: Ward, dicom: Path, dicom_masks: Path, tmp_path: Path, packed: bool
) -> None:
    sent = sorted(dicom.iterdir())
    if packed:
        with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
            for file in sent:
                archive.write(file, f"SECRET^NAME/{file.name}")
            archive.writestr("SECRET^NAME/.DS_Store", b"x")
        sent = [tmp_path / "study.zip"]
    scan = ward.read(sent, [dicom_masks])
    assert scan["state"] == "ready", scan["error"]
    (series,) = scan["about"]["series"]
    assert (series["slices"], series["rows"], series["slice_mm"]) == (32, 30, 5.0)
    organs = {one["organ"]: one for one in ward.get(f"/api/scans/{scan['id']}/organs")["organs"]}
    assert organs["liver"]["askable"]
    assert organs["liver"]["mean_hu"] == pytest.approx(60, abs=15)


def test_of_several_series_one_is_chosen(ward: Ward, write_series: SERIES, dicom_masks: Path) -> None:
    phantom = make_phantom((2.0, 2.0, 5.0))
    heights = np.arange(32) * 5.0
    first = write_series(lps(phantom.hu), heights, "both")
    write_series(
        lps(phantom.hu)[..., :12], heights[:12], "both", SeriesInstanceUID="1.2.999.123456789.77", SeriesNumber=8
    )
    scan = ward.read(sorted(first.iterdir()), [dicom_masks])
    assert scan["state"] == "choose"
    assert [row["number"] for row in scan["about"]["series"]] == [3, 8]
    assert "SECRET" not in json.dumps(scan)
    ward.post(f"/api/scans/{scan['id']}/series", {"series": 5}, status=400)
    ward.post(f"/api/scans/{scan['id']}/series", {"series": 1})
    ward.work()
    chosen = ward.get(f"/api/scans/{scan['id']}")
    assert chosen["about"]["image"]["voxels"][2] == 12, chosen


def test_a_series_that_two_archives_share_is_whole(ward: Ward, dicom: Path, dicom_masks: Path, tmp_path: Path) -> None:
    sent = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for path, several in zip(sent, (sorted(dicom.iterdir())[::2], sorted(dicom.iterdir())[1::2]), strict=True):
        with zipfile.ZipFile(path, "w") as archive:
            for file in several:
                archive.write(file, file.name)
    few = tmp_path / "few"
    few.mkdir()
    scan = ward.read(sent, [dicom_masks])
    assert scan["about"]["series"][0]["slices"] == 32
    (series,) = usable_series(ward.serving.folder.uploaded(scan["id"], "scan"))
    assert len(list(set_aside(series, few).iterdir())) == 32


def test_a_scan_without_masks_is_read_once_they_are_given(
    ward: Ward, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    scan = ward.read([files[0]])
    assert scan["state"] == "failed"
    assert scan["error"]["code"] == "weights_missing"
    assert "--" not in scan["error"]["fix"], "it speaks to people who look at a page"
    assert str(tmp_path) not in json.dumps(scan)
    assert ward.client.get(f"/api/scans/{scan['id']}/pictures/axial.png").status_code == 200, "with a picture"
    assert [step["state"] for step in scan["steps"]] == ["done", "done", "failed"]
    ward.send(scan["id"], files[1].read_bytes(), "masks.nii.gz", "masks")
    ward.post(f"/api/scans/{scan['id']}/start")
    ward.work()
    assert ward.get(f"/api/scans/{scan['id']}")["state"] == "ready"


def test_masks_that_do_not_fit_are_replaced_by_better_ones(
    ward: Ward, files: tuple[Path, Path], tmp_path: Path
) -> None:
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 20), np.uint8), nib.load(files[1]).affine), tmp_path / "m.nii.gz")
    scan = ward.read([files[0]], [tmp_path / "m.nii.gz"])
    assert scan["state"] == "failed"
    ward.send(scan["id"], files[1].read_bytes(), "masks.nii.gz", "masks", replace=True)
    ward.post(f"/api/scans/{scan['id']}/start")
    ward.work()
    found = ward.get(f"/api/scans/{scan['id']}")
    assert found["state"] == "ready", found["error"]


def test_what_cannot_be_used_says_why_and_harms_nobody(ward: Ward, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "noise.nii.gz").write_bytes(b"no scan at all")
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), 7, np.int16), np.eye(4)), flat)
    waiting = [ward.begin([path]) for path in (tmp_path / "noise.nii.gz", flat)]
    waiting += [ward.begin([files[0]], [files[1]]), ward.begin([files[0], flat])]
    for scan_id in waiting:
        ward.post(f"/api/scans/{scan_id}/start")
    assert [ward.get(f"/api/scans/{scan_id}")["ahead"] for scan_id in waiting] == [0, 1, 2, 3]
    assert ward.work() == 4
    found = [ward.get(f"/api/scans/{scan_id}") for scan_id in waiting]
    assert [scan["state"] for scan in found] == ["failed", "failed", "ready", "failed"]
    assert all(scan["error"]["message"] and scan["error"]["code"] for scan in (*found[:2], found[3]))
    assert found[3]["error"]["code"] == "several_files"


def test_a_fault_of_our_own_is_a_failure_too_and_quotes_nothing(
    ward: Ward, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("SECRET^NAME")

    monkeypatch.setattr(work, "write_pictures", broken)
    scan = ward.read([files[0]], [files[1]])
    assert scan["error"]["message"] == "The scan cannot be used (RuntimeError)."
    monkeypatch.setattr(work, "write_pictures", lambda *_: (_ for _ in ()).throw(MemoryError))
    assert ward.read([files[0]], [files[1]])["error"]["code"] == "memory"


def test_masks_come_as_a_folder_of_organs(ward: Ward, files: tuple[Path, Path], tmp_path: Path) -> None:
    image = nib.load(files[1])
    values = np.asarray(image.dataobj)
    paths = []
    for number, name in ((5, "liver"), (1, "spleen"), (99, "SECRETNAME")):
        paths.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image((values == number).astype(np.uint8), image.affine), paths[-1])
    scan = ward.read([files[0]], paths)
    assert scan["state"] == "ready", scan
    organs = {one["organ"] for one in ward.get(f"/api/scans/{scan['id']}/organs")["organs"] if one["askable"]}
    assert organs == {"liver", "spleen"}
    assert "SECRETNAME" not in json.dumps(scan)


def test_cancelling_and_deleting(ward: Ward, files: tuple[Path, Path]) -> None:
    first, second = (ward.begin([files[0]], [files[1]]) for _ in range(2))
    for scan_id in (first, second):
        ward.post(f"/api/scans/{scan_id}/start")
    assert ward.post(f"/api/scans/{first}/cancel")["state"] == "cancelled"
    assert ward.work() == 1
    ward.post(f"/api/scans/{first}/start")
    assert ward.work() == 1
    assert ward.get(f"/api/scans/{first}")["state"] == "ready"
    ward.post(f"/api/scans/{first}/cancel", status=409)
    assert ward.client.delete(f"/api/scans/{first}").json() == {"deleted": first}
    assert not ward.serving.folder.scan(first).exists()
    ward.get(f"/api/scans/{first}", status=404)
    ward.post(f"/api/scans/{first}/ask", {"questions": ["liver"]}, status=404)
    assert [scan["id"] for scan in ward.get("/api/scans")] == [second]


def test_work_stops_between_steps_when_nobody_wants_it(
    ward: Ward, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = ward.begin([files[0]], [files[1]])
    ward.post(f"/api/scans/{scan_id}/start")
    monkeypatch.setattr(work, "write_pictures", lambda *_: ward.place.jobs.cancel(scan_id))
    ward.work()
    scan = ward.get(f"/api/scans/{scan_id}")
    assert scan["state"] == "cancelled"
    assert [step["name"] for step in scan["steps"]] == ["read"]


def test_scans_go_when_their_time_is_over(
    ward: Ward, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = ward.begin([files[0]])
    ward.serving.tidy()
    assert ward.serving.folder.scan(scan_id).is_dir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    ward.serving.tidy()
    assert not ward.serving.folder.scan(scan_id).exists()
    ward.get(f"/api/scans/{scan_id}", status=404)


def test_tidying_goes_on_whatever_lies_in_the_folder(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = ward.serving.folder.scans
    (scans / ".DS_Store").write_bytes(b"x")
    left, vanishing = scans / "0123456789abcdef", scans / "fedcba9876543210"
    left.mkdir()
    vanishing.mkdir()
    there = Path.iterdir

    def deleted_meanwhile(folder: Path) -> Iterator[Path]:
        entries = list(there(folder))
        vanishing.rmdir()
        return iter(entries)

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 120)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", deleted_meanwhile)
        ward.serving.tidy()
    assert [path.name for path in scans.iterdir()] == [".DS_Store"]


def test_nothing_but_the_uploaded_files_holds_names_ids_or_dates(
    ward: Ward, dicom: Path, dicom_masks: Path, tmp_path: Path
) -> None:
    named = tmp_path / "SECRET^NAME_masks.nii.gz"
    shutil.copy(dicom_masks, named)
    scan = ward.read(sorted(dicom.iterdir()), [named])
    assert scan["state"] == "ready", scan
    address = f"/api/scans/{scan['id']}"
    pages = [
        ward.client.get(path).text
        for path in ("/", "/api", "/api/scans", address, f"{address}/organs", f"{address}/events")
    ]
    pages.append(json.dumps(ward.post(f"{address}/ask", {"questions": ["liver"], "sentences": ["liver: It is dark."]})))
    root = ward.serving.folder.root
    uploaded = ward.serving.folder.scan(scan["id"]) / "uploaded"
    for path in root.rglob("*"):
        assert not any(secret in str(path.relative_to(root)) for secret in SECRETS), path
        if path.is_file() and uploaded not in path.parents:
            pages.append(path.read_bytes().decode("latin-1"))
    assert len(pages) > 12
    for page in pages:
        assert not any(secret in page for secret in SECRETS)
    assert any(secret.encode() in path.read_bytes() for secret in SECRETS for path in uploaded.rglob("*.dcm"))


def test_the_folder_is_private(ward: Ward) -> None:
    assert ward.serving.folder.root.stat().st_mode & 0o777 == 0o700
    assert ward.serving.folder.jobs.stat().st_mode & 0o777 == 0o600


def test_a_table_of_series_says_numbers_alone(dicom: Path) -> None:
    (row,) = [series_row(one) for one in usable_series(dicom)]
    assert all(value is None or isinstance(value, int | float) for value in row.values())
