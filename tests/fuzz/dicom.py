"""DICOM: slices, radiographs, segmentations and contours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.cxr.io import read_radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.vocabulary.organs import load_organs
from tests.ct.conftest import dicom_segmentation, dicom_slice
from tests.fuzz.targets import PLAIN, RECIPE, Target, folder_target, labels, scan, voxels


def _bytes(data: Dataset) -> bytes:
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _slices() -> list[bytes]:
    pixels = (voxels() + 1024).astype(np.uint16)
    return [
        _bytes(
            dicom_slice(
                np.ascontiguousarray(pixels[:, :, k].T), ImagePositionPatient=[0, 0, 4.0 * k], InstanceNumber=k + 1
            )
        )
        for k in range(4)
    ]


def _contours() -> Dataset:
    data = Dataset()
    data.Modality, data.SOPClassUID, data.SOPInstanceUID = "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3"
    roi, drawn, contour = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 1, "Liver"
    at = scan().affine
    square = [at[:3, :3] @ [x, y, 4] + at[:3, 3] for x, y in ((3, 3), (8, 3), (8, 9), (3, 9))]
    contour.ContourData = [float(v) for x, y, z in square for v in (-x, -y, z)]
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, [contour]
    data.StructureSetROISequence, data.ROIContourSequence = [roi], [drawn]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3"
    return data


def _radiograph() -> list[bytes]:
    pixels = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint16)
    plain: dict[str, Any] = {"Modality": "DX", "ViewPosition": "PA", "ImageType": ["ORIGINAL", "PRIMARY"]}
    return [
        _bytes(dicom_slice(pixels, **plain)),
        _bytes(dicom_slice(pixels, **plain, WindowCenter=40, WindowWidth=30, PixelPaddingValue=0)),
        _bytes(dicom_slice(pixels, **(plain | {"PhotometricInterpretation": "MONOCHROME1"}))),
    ]


def dicom_targets(folder: Path) -> list[Target]:
    """Folders are made below ``folder``."""
    series = folder / "series"
    series.mkdir()
    for number, data in enumerate(_slices()):
        (series / f"{number}.dcm").write_bytes(data)
    organs = load_organs()
    objects = _bytes(dicom_segmentation({"liver": labels() == 5, "spleen": labels() == 1}, scan().affine))
    masks = lambda path: read_masks(path, scan(), PLAIN, organs)  # noqa: E731
    return [
        folder_target("dicom series", series, "1.dcm", lambda path: read_scan(path, RECIPE)),
        Target("dicom radiograph", ".dcm", _radiograph(), lambda path: read_radiograph(path, CxrRecipe(size=64))),
        Target("dicom segmentation", ".dcm", [objects], masks),
        Target("dicom contours", ".dcm", [_bytes(_contours())], masks),
    ]
