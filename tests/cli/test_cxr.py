"""Radiographs on the command line: simulate, preprocess, look; a public dataset's tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from ctglip.api import load_model
from ctglip.inference.pipeline import Pipeline
from tests.cli.commands import good_here, here
from tests.inference.tiny_cxr import cxr_release, draw_radiograph, saved, truth_of
from tests.training.tiny import write_word_bert

UID = "1.2.826.0.1.3680043.8.498.4711"
SECRETS = {"PatientName": "Doe^Secret", "PatientID": "SECRET-4711", "StudyDate": "19991231", "StudyInstanceUID": UID}


def write_dicom(path: Path, radiograph: np.ndarray, negative: bool) -> Path:
    """A radiograph of 0 to 255 as a 12-bit DX file; ``negative``: MONOCHROME1, where 0 is white."""
    pixels = radiograph.astype(np.uint16) * 16
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", UID
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = Dataset()
    file.file_meta, file.Modality, file.ViewPosition = meta, "DX", "PA"
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, UID
    for key, value in SECRETS.items():
        setattr(file, key, value)
    file.PhotometricInterpretation = "MONOCHROME1" if negative else "MONOCHROME2"
    file.SamplesPerPixel, file.PixelRepresentation, file.PixelSpacing = 1, 0, [0.2, 0.2]
    (file.Rows, file.Columns), file.BitsAllocated, file.BitsStored, file.HighBit = radiograph.shape, 16, 12, 11
    file.PixelData = (4080 - pixels if negative else pixels).astype(np.uint16).tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


def test_a_dicom_cxr_is_asked(tmp_path: Path) -> None:
    """As stored by a radiograph: 12 bits, 0 is white, a name that is a UID; the answers are those of the picture."""
    model = saved(tmp_path, cxr_release(write_word_bert(tmp_path / "bert"), image={"name": "tokens", "levels": (-2,)}))
    rng = np.random.default_rng(0)
    drawn = draw_radiograph(rng, truth_of(rng))
    Image.fromarray(drawn).save(tmp_path / "radiograph.png")
    radiograph = write_dicom(tmp_path / UID, drawn, negative=True)
    ask = ("--ask", "heart: cardiomegaly", "--ask", "pleural effusion left?", "--json")
    out, maps = tmp_path / "out", tmp_path / "maps"
    told = json.loads(good_here("query", model, radiograph, "--out", out, "--maps", maps, *ask).out)
    asked = load_model(model)
    assert isinstance(asked, Pipeline)
    expected = asked.query(tmp_path / "radiograph.png", [ask[1], ask[3]]).answers
    for one, other in zip(told["answers"], expected, strict=True):
        assert one["probability"] == pytest.approx(other.probability, abs=2e-3)
        assert one["read_from"] == "the whole radiograph"
    shown = [np.load(path) for path in maps.glob("*.npy")]
    assert len(shown) == 2
    assert all(np.isfinite(values).any() for values in shown)
    written = json.dumps(told) + (out / "radiograph.html").read_text() + (out / "answers.json").read_text()
    assert not [secret for secret in SECRETS.values() if secret in written]
    scan = write_dicom(tmp_path / "scan.dcm", drawn, negative=False)
    header = pydicom.dcmread(scan)
    header.Modality = "CT"
    header.save_as(scan)
    refused = here("query", model, scan, "--out", tmp_path / "refused", "--ask", "heart: cardiomegaly")
    assert refused.code == 2
    assert "expected a radiograph" in refused.err


def test_a_public_dataset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "indiana_projections.csv").write_text("uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n")
    (data / "indiana_reports.csv").write_text("uid,findings,impression\n1,The heart is enlarged.,\n")
    image = data / "images" / "images_normalized" / "1_IM-0001-4001.dcm.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"pixels")
    made = json.loads(good_here("cohort", "openi", data, tmp_path / "out", "--json").out)
    assert made["studies"] == made["with_report"] == 1
    assert "The heart is enlarged." in (tmp_path / "out" / "cohort.csv").read_text()
    empty = here("cohort", "chexpert", data, tmp_path / "other")
    assert empty.code == 2
    assert "train.csv" in empty.err


@pytest.mark.slow
@pytest.mark.ci
def test_simulated_cxr_become_a_store(tmp_path: Path) -> None:
    good_here("simulate", tmp_path / "radiographs", "--studies", 3, "--seed", 1, "--cxr", "--set", "bodies=1")
    made = json.loads((tmp_path / "radiographs" / "simulation.json").read_text())
    assert made["radiographs"]["beam"]["source_mm"] == 1800
    config = ("--config", "preprocess/cxr", "--set", "cxr.size=64", "--workers", 1)
    good_here("preprocess", tmp_path / "radiographs" / "cohort.csv", tmp_path / "store", *config)
    assert (tmp_path / "store" / "radiographs.html").is_file()
    assert good_here("store", "verify", tmp_path / "store").code == 0
    assert "cxr" in good_here("store", "info", tmp_path / "store").out
