"""A scan from disk is segmented on the voxels that it came on: any order of axes, and DICOM series."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.config import validate
from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.resample import to_grid
from ctglip.errors import ConfigError, ModelError, ScanError
from ctglip.store.tables import Store
from ctglip.tasks.ct_segmenter import ScanSegmenter
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.tuning import finetune
from tests.ct.conftest import dicom_slice
from tests.tasks.blobs import write_blobs
from tests.training.tiny import ORGANS


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_blobs(tmp_path_factory.mktemp("blobs") / "store", 30)


@pytest.fixture(scope="module")
def tuned(blobs: Store, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, fit = tmp_path_factory.mktemp("tuned") / "out", {"epochs": 10, "patience": 0, "batch": 4, "device": "cpu"}
    own = {"targets": ["liver"], "width": 8, "supervision": 1, "overlap": 0.25, "val_scans": 2}
    tree = {"task": "ct_segmentation", "segmentation": own, "optim": {"lr": 0.01, "warmup": 0}, "fit": fit}
    finetune(run, blobs.path, out, None, validate(FinetuneConfig, tree, "test"))
    return out


def turned(array: np.ndarray, affine: np.ndarray, code: str) -> nib.Nifti1Image:
    """A NIfTI with its axes in another order and direction."""
    image = nib.Nifti1Image(array, affine)
    start, end = nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    return image.as_reoriented(nib.orientations.ornt_transform(start, end))


def dice(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()))


def a_test_scan(blobs: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    splits = blobs.table("splits")
    study = blobs.study(splits.filter(splits["split"] == "test")["study_id"][0])
    labels = study.organs()
    assert labels is not None
    return study.image(), labels, study.affine


@pytest.mark.parametrize("code", ["LAS", "PIR", "RAS"])
def test_masks_lie_on_the_voxels_of_the_file(blobs: Store, tuned: Path, tmp_path: Path, code: str) -> None:
    hu, labels, affine = a_test_scan(blobs)
    fine = affine @ np.diag([0.5, 0.5, 0.75, 1.0])
    fine[:3, 3] = affine[:3, :3] @ (-0.25, -0.25, -0.125) + affine[:3, 3]
    shape = (40, 40, 26)
    turned(to_grid(hu, affine, shape, fine), fine, code).to_filename(tmp_path / "scan.nii.gz")
    source = nib.load(tmp_path / "scan.nii.gz")
    segmenter = ScanSegmenter(tuned)
    found = segmenter.segment(tmp_path / "scan.nii.gz")
    files, missing = segmenter.write(found, tmp_path / "out")
    assert missing == ""
    assert [file.name for file in files] == ["segmentation.nii.gz", "segmentation.json"]
    written = nib.load(tmp_path / "out" / "segmentation.nii.gz")
    assert written.shape == source.shape
    assert np.allclose(written.affine, source.affine, atol=1e-4)
    truth = turned(to_grid(labels, affine, shape, fine, labels=True), fine, code)
    assert dice(np.asarray(written.dataobj) == 1, np.asarray(truth.dataobj) > 0) > 0.75
    about = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert about["labels"] == {"1": "liver"}
    voxels = int((np.asarray(written.dataobj) == 1).sum())
    assert about["volumes_ml"]["liver"] == pytest.approx(voxels * 3 * 3 * 4.5 / 1000)


def write_dicom(folder: Path, hu: np.ndarray) -> None:
    """RAS+ HU with voxels of 6 mm as a series; slices are numbered from above."""
    lps = hu[::-1, ::-1]
    folder.mkdir()
    for k in range(hu.shape[2]):
        pixels = np.ascontiguousarray((lps[:, :, k].T + 1024).astype(np.uint16))
        place = {"ImagePositionPatient": [-20, -10, 6.0 * k], "PixelSpacing": [6.0, 6.0], "SliceThickness": 6.0}
        more = {"PatientBirthDate": "", "PatientSex": "", "StudyTime": "", "AccessionNumber": "", "StudyID": "1",
                "FrameOfReferenceUID": "1.2.3.4", "ReferringPhysicianName": ""}  # fmt: skip
        data = dicom_slice(pixels, InstanceNumber=hu.shape[2] - k, **place, **more)
        data.save_as(folder / f"{data.SOPInstanceUID}.dcm", enforce_file_format=True)


def test_a_series_gets_a_dicom_segmentation_that_is_read_back(blobs: Store, tuned: Path, tmp_path: Path) -> None:
    hu, labels, _ = a_test_scan(blobs)
    write_dicom(tmp_path / "dicom", hu)
    segmenter = ScanSegmenter(tuned)
    found = segmenter.segment(tmp_path / "dicom")
    files, missing = segmenter.write(found, tmp_path / "out")
    assert missing == ""
    assert files[-1].name == "segmentation.dcm"
    scan, _ = read_scan(tmp_path / "dicom", CtRecipe())
    back, _ = read_masks(files[-1], scan, CtRecipe(), ORGANS)
    assert dice(back.labels == ORGANS["liver"].label, labels > 0) > 0.75
    nifti = nib.load(tmp_path / "out" / "segmentation.nii.gz")
    ras = np.asarray(nib.as_closest_canonical(nifti).dataobj)
    assert np.array_equal(ras > 0, back.labels > 0), "both files draw the same voxels"
    written = pydicom.dcmread(files[-1])
    series = pydicom.dcmread(next((tmp_path / "dicom").iterdir()))
    assert (written.Modality, written.StudyInstanceUID) == ("SEG", series.StudyInstanceUID)
    assert written.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert "SECRET" not in json.dumps(found.to_json())
    segmenter.write(replace(found, slices=()), tmp_path / "out")
    assert not files[-1].exists(), "no masks of an earlier scan stay"


def test_a_series_whose_headers_lack_what_is_needed_gets_nifti_and_a_reason(
    blobs: Store, tuned: Path, tmp_path: Path
) -> None:
    write_dicom(tmp_path / "dicom", a_test_scan(blobs)[0])
    for file in (tmp_path / "dicom").iterdir():
        data = pydicom.dcmread(file)
        del data.FrameOfReferenceUID
        data.save_as(file)
    segmenter = ScanSegmenter(tuned)
    files, missing = segmenter.write(segmenter.segment(tmp_path / "dicom"), tmp_path / "out")
    assert [file.name for file in files] == ["segmentation.nii.gz", "segmentation.json"]
    assert "headers do not allow a DICOM segmentation" in missing
    assert "SECRET" not in missing


def test_the_command(blobs: Store, tuned: Path, tmp_path: Path) -> None:
    hu, _, affine = a_test_scan(blobs)
    nib.Nifti1Image(hu, affine).to_filename(tmp_path / "scan.nii.gz")
    arguments = ["segment", str(tuned), str(tmp_path / "scan.nii.gz"), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    output = json.loads(done.stdout)
    assert output["volumes_ml"]["liver"] > 10
    assert [Path(file).name for file in output["files"]] == ["segmentation.nii.gz", "segmentation.json"]


def test_what_cannot_be_is_said(blobs: Store, tuned: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"segments no scans.*finetune/ct_segmentation"):
        ScanSegmenter(run)
    with pytest.raises(ModelError, match=r"config\.json"):
        ScanSegmenter(tmp_path)
    segmenter = ScanSegmenter(tuned)
    (tmp_path / "radiograph.png").write_bytes(b"x")
    with pytest.raises(ScanError, match="is a radiograph"):
        segmenter.segment(tmp_path / "radiograph.png")
    with pytest.raises(ScanError, match="There is no scan"):
        segmenter.segment(tmp_path / "other.nii.gz")
    with pytest.raises(ConfigError, match="did you mean 'series'"):
        segmenter.segment(tmp_path / "scan.nii.gz", ["ct.seris=3"])
    write_dicom(tmp_path / "mr", a_test_scan(blobs)[0])
    for file in (tmp_path / "mr").iterdir():
        data = pydicom.dcmread(file)
        data.Modality, data.SOPClassUID = "MR", pydicom.uid.MRImageStorage
        data.save_as(file)
    with pytest.raises(ScanError, match="MR"):
        segmenter.segment(tmp_path / "mr")
