"""Radiographs through the same driver as scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig
from PIL import Image

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.store.export import export_study
from ctglip.store.summary import summarize
from ctglip.store.tables import Store
from ctglip.store.verify import verify

SECRET = "Doe^Jane^Secret"


def radiograph(seed: int) -> np.ndarray:
    pixels = np.full((80, 64), 160.0)
    pixels[15:60, 6:28] = pixels[15:60, 36:58] = 50
    return np.clip(pixels + np.random.default_rng(seed).normal(0, 5, pixels.shape), 1, 255).astype(np.uint8)


def write_dicom(path: Path) -> None:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    file.file_meta.MediaStorageSOPInstanceUID = file.StudyInstanceUID = "1.2.3.4.5.6789"
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.PatientName, file.PatientID, file.StudyDate = SECRET, "SECRET-4711", "19991231"
    file.Modality, file.ViewPosition, file.PhotometricInterpretation = "DX", "LL", "MONOCHROME1"
    file.Rows, file.Columns = 80, 64
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.ImagerPixelSpacing = [0.15, 0.15]
    file.PixelData = (4000 - radiograph(3).astype(np.uint16) * 15).tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for number in range(2):
        Image.fromarray(radiograph(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "boxes.csv").write_text("region,row0,row1,column0,column1\nleft lung,15,60,36,58\n")
    mask = np.zeros((80, 64), np.uint8)
    mask[15:60, 6:28] = mask[15:60, 36:58] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    write_dicom(tmp_path / "1.2.3.4.5.6789.dcm")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "cohort.csv").write_text(
        "study_id,patient_id,image,masks,regions,findings,impression,view\n"
        "f0,p0,0.png,mask.png,boxes.csv,No pleural effusion.,No acute disease.,PA\n"
        "f1,p1,1.png,,,Cardiomegaly is present.,,AP\n"
        "f2,p2,1.2.3.4.5.6789.dcm,,,,Clear lungs.,\n"
        "f3,p3,broken.png,,,Clear lungs.,,PA\n"
    )
    return tmp_path / "cohort.csv"


@pytest.fixture
def config() -> PreprocessConfig:
    return load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=64"])


def contents(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file())


def test_cxr_become_a_store(cohort: Path, config: PreprocessConfig, tmp_path: Path, capfd, caplog) -> None:
    summary = preprocess_cohort(read_cohort(cohort), tmp_path / "store", config)
    assert (summary.written, summary.reasons) == (3, {"not_an_image": 1})
    store = Store.open(tmp_path / "store")
    assert store.info.modality == "cxr"
    assert verify(store) == []
    image = store.study("f0").image()
    assert (image.dtype, image.shape) == (np.dtype(np.uint16), (64, 64))
    plain = zarr.open_group(tmp_path / "store" / "studies" / "f0.zarr", mode="r")["image"]
    np.testing.assert_array_equal(np.asarray(plain)[0], image)
    assert plain.metadata.dimension_names == ("channel", "row", "column")
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    assert views == {"f0": "pa", "f1": "ap", "f2": "lateral"}
    sections = set(store.table("reports").select("study_id", "section").iter_rows())
    assert ("f1", "impression") not in sections, "a missing section stays missing"
    assert ("f2", "findings") not in sections
    boxes = store.table("regions").filter(study_id="f0")
    assert set(boxes["region"]) == {"left_lung", "right_lung"}
    left = boxes.filter(region="left_lung").row(0, named=True)
    inside = image[left["row0"] : left["row1"], left["column0"] : left["column1"]]
    assert inside[2:-2, 2:-2].mean() < 0.3 * image.max()
    organs = store.study("f0").organs()
    assert organs is not None
    assert len(np.unique(organs)) == 3
    # nothing of the DICOM header is anywhere
    kept = contents(tmp_path / "store")
    said = "".join(capfd.readouterr()) + caplog.text
    for secret in ("Jane", "SECRET", "19991231", "6789"):
        assert secret.encode() not in kept
        assert secret not in said


def test_a_second_run_does_nothing_and_new_boxes_are_noticed(
    cohort: Path, config: PreprocessConfig, tmp_path: Path
) -> None:
    preprocess_cohort(read_cohort(cohort), tmp_path / "store", config)
    assert preprocess_cohort(read_cohort(cohort), tmp_path / "store", config).worked == 0
    (tmp_path / "boxes.csv").write_text("region,row0,row1,column0,column1\nspine,5,60,28,36\n")
    assert preprocess_cohort(read_cohort(cohort), tmp_path / "store", config).written == 1
    assert "spine" in set(Store.open(tmp_path / "store").table("regions")["region"])


def test_scans_and_cxr_do_not_mix(cohort: Path, config: PreprocessConfig, tmp_path: Path) -> None:
    table = pl.read_csv(cohort, infer_schema=False).with_columns(modality=pl.lit("ct"))
    table.write_csv(cohort)
    assert preprocess_cohort(read_cohort(cohort), tmp_path / "store", config).reasons["not_a_radiograph"] == 4


def test_pages_of_a_cxr_store(cohort: Path, config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess_cohort(read_cohort(cohort), tmp_path / "store", config)
    quality = (tmp_path / "store" / "quality.html").read_text()
    assert "View lateral" in quality
    assert "not_an_image" in quality
    radiographs = (tmp_path / "store" / "radiographs.html").read_text()
    assert "No acute disease." in radiographs
    assert "cardiomegaly: present" in radiographs or "pleural effusion: absent" in radiographs
    assert radiographs.count("data:image/png") >= 1


def test_cxr_are_exported_as_pictures(cohort: Path, config: PreprocessConfig, tmp_path: Path) -> None:
    preprocess_cohort(read_cohort(cohort), tmp_path / "store", config)
    store = Store.open(tmp_path / "store")
    files = export_study(store, "f0", tmp_path / "out")
    assert [file.name for file in files] == ["image.png", "organs.png", "regions.csv"]
    with Image.open(files[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), store.study("f0").image())
    assert summarize(tmp_path / "store")["modality"] == "cxr"
