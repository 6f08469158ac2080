"""An asymmetric phantom, and writers of NIfTI files and DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ctglip.vocabulary.organs import OrganDictionary, load_organs

SECRETS = ("SECRET^NAME", "SECRETID", "19870605", "1.2.999.123456789")


@dataclass(frozen=True)
class Phantom:
    """hu int16, labels uint8 ``[x, y, z]`` in RAS+, affine."""

    hu: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1


def make_phantom(spacing: tuple[float, float, float] = (5.0, 5.0, 5.0)) -> Phantom:
    """A torso of 28 x 30 x 32 voxels: liver right, spleen left, heart left and up, bladder low and in front."""
    shape = (28, 30, 32)
    hu = np.full(shape, -1000, np.int16)
    labels = np.zeros(shape, np.uint8)
    hu[ball(shape, (13.5, 14.5, 15.5), (11, 12, 40))] = 20
    for label, value, centre, radius in (
        (5, 60, (18, 16, 18), (4, 4, 4)),  # liver
        (1, 50, (8, 12, 19), (2.5, 2.5, 2.5)),  # spleen
        (51, 120, (10, 18, 26), (3, 3, 3)),  # heart
        (21, 5, (13, 20, 5), (3, 3, 3)),  # urinary bladder
        (29, 400, (13, 7, 14), (2, 2, 2)),  # vertebra L3
        (2, 160, (17, 10, 12), (2, 2, 2)),  # right kidney
    ):
        inside = ball(shape, centre, radius)
        hu[inside] = value
        labels[inside] = label
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-70, -60, 30)
    return Phantom(hu, labels, affine)


@pytest.fixture
def phantom() -> Phantom:
    return make_phantom()


@pytest.fixture(scope="session")
def organs() -> OrganDictionary:
    return load_organs()


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """``write(array, affine, name="scan.nii.gz", slope=None, inter=None)`` -> path."""

    def write(
        array: np.ndarray, affine: np.ndarray, name: str = "scan.nii.gz", slope: float | None = None, inter: float = 0.0
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(array, affine)
        image.header.set_data_dtype(array.dtype)
        if slope is not None:
            image = nib.Nifti1Image(array * slope + inter, affine)
            image.header.set_data_dtype(array.dtype)
            image.header.set_slope_inter(slope, inter)
        nib.save(image, path)
        return path

    return write


def dicom_slice(pixels: np.ndarray, **values: Any) -> FileDataset:
    """One CT slice with secrets in every identifying tag; ``values`` override (None deletes)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid("1.2.999.123456789.")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.StudyDate = SECRETS[0], SECRETS[1], SECRETS[2]
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = "1.2.999.123456789.1"
    data.SeriesInstanceUID = "1.2.999.123456789.2"
    data.Modality, data.SeriesNumber, data.SeriesDescription = "CT", 3, "SECRET^NAME thorax soft"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype == np.int16)
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelSpacing = [2.0, 2.0]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 0]
    data.InstanceNumber = 1
    data.PixelData = pixels.tobytes()
    for name, value in values.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., Path]:
    """``write(hu, heights, folder="dicom", change=None, **values)``: hu ``[x, y, z]`` in LPS order, one slice a height.

    ``change(index, dataset)`` may alter a slice, or return False to leave it out.
    """

    def write(
        hu: np.ndarray,
        heights: Any,
        folder: str = "dicom",
        change: Callable[[int, FileDataset], bool | None] | None = None,
        **values: Any,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for k, height in enumerate(heights):
            pixels = np.ascontiguousarray((hu[:, :, k].T + 1024).astype(np.uint16))
            data = dicom_slice(pixels, ImagePositionPatient=[-20, -10, float(height)], InstanceNumber=k + 1, **values)
            if change is None or change(k, data) is not False:
                data.save_as(path / f"{data.SOPInstanceUID}.dcm", enforce_file_format=True)
        return path

    return write
