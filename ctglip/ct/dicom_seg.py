"""Masks as a DICOM segmentation of the series that they were drawn on, by highdicom (extra ``dicom``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ctglip.errors import ScanError
from ctglip.files import atomic_path, quiet_pydicom
from ctglip.resources import require

_ORGAN = ("91723000", "SCT", "Anatomical Structure")
_LESION = ("49755003", "SCT", "Morphologically Abnormal Structure")
_SOME_LESION = ("52988006", "SCT", "Lesion")
_AI = ("123110", "DCM", "Artificial Intelligence")
_SERIES = 9000
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
"""What a segmentation repeats of its series and may be empty (type 2): de-identified files often lack it."""


@dataclass(frozen=True)
class SegmentEntry:
    """One thing that is drawn.

    Attributes:
        name: its label.
        code: value, scheme and meaning of what it is; None where there is none: a lesion.
    """

    name: str
    code: tuple[str, str, str] | None = None


def write_dicom_seg(
    path: Path,
    labels: UInt8[np.ndarray, "columns rows slices"],
    files: Sequence[Path],
    segments: Sequence[SegmentEntry],
) -> Path:
    """Write a DICOM segmentation (binary, one segment each) that belongs to a series' study and patient.

    Args:
        labels: number of the segment (from 1) of each voxel, as ``read_series`` has the series' voxels.
        files: of the series' slices, one each, in the order of the third axis.
        segments: what the numbers mean.

    Raises:
        MissingExtraError: highdicom is not installed.
        ScanError: code ``no_dicom_seg``: the series is one file of many frames, or its headers lack what a segmentation
            must repeat.
    """
    hd, pydicom = require("highdicom", extra="dicom"), require("pydicom", extra="dicom")
    if len(set(files)) != labels.shape[2]:
        raise ScanError("A DICOM segmentation is written of series with one slice a file.", code="no_dicom_seg",
                        fix="Use segmentation.nii.gz.")  # fmt: skip
    with quiet_pydicom():
        slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        for one in slices:
            for keyword in _MAY_BE_EMPTY:
                if keyword not in one:
                    setattr(one, keyword, "")
        if len({str(one.get("SOPInstanceUID") or "") for one in slices} - {""}) < len(slices):
            raise ScanError("The series' slices have no UIDs of their own that a DICOM segmentation could refer to.",
                            code="no_dicom_seg", fix="Use segmentation.nii.gz.")  # fmt: skip
        frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
        try:
            made = _segmentation(hd, slices, frames, segments)
        except Exception as problem:  # noqa: BLE001  its words may quote headers
            raise ScanError(
                f"The series' headers do not allow a DICOM segmentation ({type(problem).__name__}).",
                code="no_dicom_seg",
                fix="Use segmentation.nii.gz.",
            ) from None
        with atomic_path(path) as temporary:
            made.save_as(temporary)
    return path


def _segmentation(hd: Any, slices: Sequence[Any], frames: np.ndarray, segments: Sequence[SegmentEntry]) -> Any:
    concept = hd.sr.CodedConcept
    algorithm = hd.AlgorithmIdentificationSequence(name="ctglip", family=concept(*_AI), version=version("ctglip"))
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=one.name[:64],
            segmented_property_category=concept(*(_LESION if one.code is None else _ORGAN)),
            segmented_property_type=concept(*(one.code or _SOME_LESION)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, one in enumerate(segments, start=1)
    ]
    return hd.seg.Segmentation(
        source_images=list(slices),
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=_SERIES,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="ctglip",
        manufacturer_model_name="ctglip segment",
        software_versions=version("ctglip"),
        device_serial_number="0",
        content_label="SEGMENTATION",
    )
