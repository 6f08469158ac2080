"""A radiograph that knows its sides: a bright R, a heart on the patient's left, and DICOM files made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRETS = {"PatientName": "Doe^Jane^Secret", "PatientID": "SECRET-4711", "AccessionNumber": "ACC-SECRET",
           "InstitutionName": "Secret Hospital", "StudyDate": "19991231", "PatientBirthDate": "19440506"}  # fmt: skip


@pytest.fixture
def phantom() -> np.ndarray:
    """uint16 0..4095, 120 x 100: dark lungs, bright heart on the picture's right, a small bright letter on its left."""
    rng = np.random.default_rng(0)
    radiograph = np.full((120, 100), 2400.0)
    radiograph[20:90, 10:42] = radiograph[20:90, 58:90] = 700
    radiograph[55:90, 48:75] = 3300
    radiograph[4:10, 6:10] = 4095
    return np.clip(radiograph + rng.normal(0, 25, radiograph.shape), 40, 4095).astype(np.uint16)


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    """Writes pixels as a DX image with the given header values; the header is full of secrets."""

    def write(pixels: np.ndarray, name: str = "radiograph.dcm", bits: int = 12, **values: Any) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = Dataset()
        file.file_meta = meta
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.StudyInstanceUID = generate_uid()
        for key, value in SECRETS.items():
            setattr(file, key, value)
        file.Modality, file.ViewPosition, file.PhotometricInterpretation = "DX", "PA", "MONOCHROME2"
        file.Rows, file.Columns = pixels.shape[-2:]
        if pixels.ndim == 3:
            file.NumberOfFrames = len(pixels)
        file.SamplesPerPixel, file.PixelRepresentation = 1, 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, bits, bits - 1
        file.PixelSpacing = [0.2, 0.2]
        for key, value in values.items():
            setattr(file, key, value)
        file.PixelData = pixels.astype(np.uint16).tobytes()
        path = tmp_path / name
        pydicom.dcmwrite(path, file, enforce_file_format=True)
        return path

    return write
