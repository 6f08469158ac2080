"""The patients of whom miniatures are made: simulated ones for whole runs, one phantom in all for quick tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.ct.conftest import Phantom, make_phantom

STRIDE = 2
"""Simulated scans are written at twice their spacing: nobody looks at details here."""


@dataclass(frozen=True)
class Patient:
    """One patient with one study.

    Attributes:
        number: from 0.
        scan: HU and TotalSegmentator's numbers, RAS.
        pixels: of a radiograph, uint8 ``[row, column]``, dense is bright.
        boxes: region -> row0, row1, column0, column1.
        truth: ``organ:name`` -> 0 or 1.
    """

    number: int
    findings: str
    impression: str
    scan: Phantom = field(default_factory=make_phantom)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    boxes: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    truth: dict[str, int] = field(default_factory=dict)
    age: int = 61
    sex: str = "F"

    @property
    def split(self) -> str:
        """Of ten patients six are train, two val and two test."""
        return ("train", "test", "train", "val", "train")[self.number % 5]

    @property
    def odd(self) -> int:
        """A label that every split has both answers of."""
        return self.number // 5 % 2

    def has(self, *names: str) -> int:
        """Whether any organ shows any of them."""
        return int(any(value for key, value in self.truth.items() if key.rpartition(":")[2] in names))


def phantom_patients(count: int = 10) -> list[Patient]:
    """Patients who are all the same phantom."""
    scan = make_phantom((4.0, 4.0, 6.0))
    pixels = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    boxes = {"right_lung": (10, 40, 5, 30), "left_lung": (10, 40, 34, 60)}
    return [
        Patient(k, f"The liver is normal. Nodule {k} in the lung.", "Pulmonary nodule.", scan, pixels, boxes,
                {"lung_left:lung_nodule": k % 2, "pleura_left:pleural_effusion": k // 5 % 2})
        for k in range(count)
    ]  # fmt: skip


def simulated_scans(folder: Path) -> list[Patient]:
    """Patients of a folder that ``ctglip simulate`` wrote."""
    truths = {row.pop("study_id"): row for row in pl.read_csv(folder / "truth.csv").to_dicts()}
    patients: list[Patient] = []
    for row in pl.read_csv(folder / "cohort.csv", infer_schema=False).to_dicts():
        hu, affine = _coarse(folder / row["image"])
        labels, _ = _coarse(folder / row["masks"])
        findings, _, impression = re.sub(r"(?s).*FINDINGS:", "", row["report"]).partition("IMPRESSION:")
        patients.append(Patient(
            len(patients), findings.strip(), impression.strip(), Phantom(hu, labels.astype(np.uint8), affine),
            truth={key: int(value or 0) for key, value in truths[row["study_id"]].items()}, age=int(row["age"]),
            sex=row["sex"],
        ))  # fmt: skip
    return patients


def simulated_radiographs(folder: Path) -> list[Patient]:
    """Patients of a folder that ``ctglip simulate --cxr`` wrote."""
    truths = {row.pop("study_id"): row for row in pl.read_csv(folder / "truth.csv").to_dicts()}
    patients: list[Patient] = []
    for row in pl.read_csv(folder / "cohort.csv", infer_schema=False).to_dicts():
        boxes = {name: tuple(edges) for name, *edges in pl.read_csv(folder / row["regions"]).rows()}
        patients.append(Patient(
            len(patients), row["findings"] or "Clear.", row["impression"] or "Normal.",
            pixels=np.asarray(Image.open(folder / row["image"])), boxes=boxes,
            truth={key: int(value or 0) for key, value in truths[row["study_id"]].items()}, age=int(row["age"]),
            sex=row["sex"],
        ))  # fmt: skip
    return patients


def _coarse(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj)[::STRIDE, ::STRIDE, ::STRIDE].astype(np.int16)
    return values, image.affine @ np.diag([STRIDE, STRIDE, STRIDE, 1])


def write_radiograph(path: Path, patient: Patient, negative: bool = False) -> Path:
    """The patient's radiograph in the form of the file's name: a picture, a DICOM file, or JSRT's raw numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = patient.pixels
    if path.suffix.lower() == ".img":
        large = np.asarray(Image.fromarray(pixels).resize((2048, 2048)), np.uint16) * 16
        path.write_bytes((4095 - large if negative else large).astype(">u2").tobytes())
    elif path.suffix.lower() in (".dcm", ".dicom"):
        _dicom(pixels, negative).save_as(path, enforce_file_format=True)
    else:
        Image.fromarray(pixels).save(path)
    return path


def _dicom(pixels: np.ndarray, negative: bool) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = Dataset()
    file.file_meta, file.Modality, file.ViewPosition = meta, "DX", "PA"
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PhotometricInterpretation = "MONOCHROME1" if negative else "MONOCHROME2"
    file.SamplesPerPixel, file.PixelRepresentation, (file.Rows, file.Columns) = 1, 0, pixels.shape
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    stored = pixels.astype(np.uint16) * 16
    file.PixelData = (4080 - stored if negative else stored).astype("<u2").tobytes()
    return file
