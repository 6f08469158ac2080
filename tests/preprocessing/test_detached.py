"""Voxels that lie in other files than the one that the cohort names: when they change, the study is made anew."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.ct.detached import data_files
from ctglip.store.tables import Store
from tests.cohorts.builders import write_dicom_series
from tests.preprocessing.conftest import write_scan

META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 4 4 4
DimSize = 24 24 24
ElementType = MET_SHORT
"""
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 24 24 24
space directions: (4,0,0) (0,4,0) (0,0,4)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
"""


def raw_files(folder: Path, parts: int) -> list[Path]:
    """The voxels of a small body in files of ``parts`` stretches along z."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scan(folder / "body.nii.gz")
    voxels = np.asarray(nib.load(folder / "body.nii.gz").dataobj, "<i2").transpose(2, 1, 0)
    (folder / "body.nii.gz").unlink()
    paths = [folder / f"part{k + 1:02d}.raw" for k in range(parts)]
    for path, values in zip(paths, np.split(voxels, parts), strict=True):
        path.write_bytes(np.ascontiguousarray(values).tobytes())
    return paths


def header(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def one_file(name: str, text: str) -> Callable[[Path], Path]:
    """Writes a header whose voxels lie in a file of another folder."""

    def write(folder: Path) -> Path:
        raw_files(folder / "deep", 1)
        return header(folder / name, text)

    return write


def many_files(name: str, text: str, listed: bool = False) -> Callable[[Path], Path]:
    """Writes a header whose voxels lie slice by slice in files beside it, by a pattern or ``listed`` after ``text``."""

    def write(folder: Path) -> Path:
        paths = raw_files(folder, 24)
        return header(folder / name, text + "".join(f"{path.name}\n" for path in paths if listed))

    return write


def dicom(folder: Path) -> Path:
    return write_dicom_series(folder / "series")


def linked_dicom(folder: Path) -> Path:
    write_dicom_series(folder / "far")
    (folder / "series").symlink_to(folder / "far")
    return folder / "series"


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(one_file("a.mhd", META + "ElementDataFile = deep/part01.raw\n"), id="meta one"),
        pytest.param(many_files("a.mhd", META + "ElementDataFile = LIST 2D\n", listed=True), id="meta list"),
        pytest.param(many_files("a.mhd", META + "ElementDataFile = part%02d.raw 1 24 1\n"), id="meta pattern"),
        pytest.param(one_file("a.nhdr", NRRD + "data file: deep/part01.raw\n"), id="nrrd one"),
        pytest.param(many_files("a.nhdr", NRRD + "data file: LIST 2\n", listed=True), id="nrrd list"),
        pytest.param(many_files("a.nhdr", NRRD + "data file: ./part%02d.raw 1 24 1 2\n"), id="nrrd pattern"),
        dicom,
        linked_dicom,
    ],
)
def test_a_changed_byte_makes_the_study_anew(write: Callable[[Path], Path], tmp_path: Path) -> None:
    image = write(tmp_path / "data")
    with (tmp_path / "cohort.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("study_id", "patient_id", "image"), ("s", "p", str(image))])
    config = load_settings(PreprocessConfig, None, ["ct.spacing_mm=[4,4,6]", "ct.segmentation=null"])

    def stored() -> tuple[int, str, int]:
        summary = preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", config)
        assert summary.failed == ()
        store = Store.open(tmp_path / "store")
        checksum = store.table("studies")["source_checksum"].item()
        return summary.written, checksum, int(np.asarray(store.study("s").image(), np.int64).sum())

    first = stored()
    assert first[0] == 1
    assert stored() == (0, *first[1:]), "the same input, nothing to do"
    voxels = max((path for path in (tmp_path / "data").rglob("*") if path.is_file() and path != image),
                 key=lambda path: (path.stat().st_size, path.name))  # fmt: skip
    data = bytearray(voxels.read_bytes())
    data[-2 * 24 * 12 - 25] ^= 1  # the high byte of a voxel: 256 HU
    voxels.write_bytes(data)
    written, checksum, total = stored()
    assert written == 1
    assert checksum != first[1]
    assert total != first[2], "the store holds what the files hold now"


def test_a_header_beside_its_voxels_has_the_checksum_of_itself_alone(tmp_path: Path) -> None:
    """Stores of before keep theirs: a file that holds its own voxels names no others."""
    assert data_files(header(tmp_path / "a.mha", META + "ElementDataFile = LOCAL\n")) == []
    assert data_files(header(tmp_path / "b.mhd", META + "ElementDataFile = LOCAL\n")) == []
    assert data_files(header(tmp_path / "c.nrrd", f"{NRRD}\ndata file: c.nrrd\n")) == [], "voxels, no header"
    assert data_files(header(tmp_path / "d.mhd", META + "ElementDataFile = gone.raw\n")) == []
    assert data_files(header(tmp_path / "e.nhdr", NRRD)) == []
    assert data_files(tmp_path / "gone.mhd") == []
    shutil.copy(tmp_path / "a.mha", tmp_path / "f.raw")
    (found,) = data_files(header(tmp_path / "f.nrrd", f"{NRRD}# note: x\nDataFile:=f.raw\n"))
    assert found.name == "f.raw"


@pytest.mark.parametrize("ending", [".img", ".hdr"])
def test_analyze_is_refused_before_anything_is_stored(ending: str, tmp_path: Path) -> None:
    from ctglip.ct.io import read_scan
    from ctglip.ct.recipe import CtRecipe
    from ctglip.errors import ScanError

    path = tmp_path / f"scan{ending}"
    path.write_bytes(b"\0" * 348)
    with pytest.raises(ScanError, match="no image format that is known here"):
        read_scan(path, CtRecipe())
