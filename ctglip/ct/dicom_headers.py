"""What the headers of a folder of DICOM files say about geometry and scaling, and which series is to be read.

Names, ids, dates and UIDs are used here to group slices and go no further: no value of this module holds one, and no
message quotes a header's text or a slice's file name (which may be a UID).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ctglip.ct.dicom_tags import frame_sources, integer, look_up, number, plane
from ctglip.errors import ScanError
from ctglip.files import files_below, is_dicom, quiet_pydicom
from ctglip.types import QualityCheck

CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_TAGS = (
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber",
    "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SamplesPerPixel", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelRepresentation", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "VolumeBasedCalculationTechnique",
    "ConvolutionKernel", "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase",
    "TriggerTime", "ContrastBolusAgent", "KVP", "AcquisitionDateTime", "AcquisitionTime", "ContentTime",
    "FrameAcquisitionNumber", "StackID", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
TRAITS = {
    "the patient": ("PatientID",),
    "the study": ("StudyInstanceUID",),
    "the frame of reference": ("FrameOfReferenceUID",),
    "the series number": ("SeriesNumber",),
    "the series description": ("SeriesDescription",),
    "the acquisition number": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "the temporal position": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "the cardiac phase": ("NominalPercentageOfCardiacPhase",),
    "the trigger time": ("TriggerTime",),
    "the kernel": ("ConvolutionKernel",),
    "the contrast agent": ("ContrastBolusAgent",),
    "the tube voltage": ("KVP",),
    "the stack": ("StackID",),
    "the image type": ("FrameType", "ImageType"),
    "the acquisition time": ("AcquisitionDateTime", "AcquisitionTime"),
    "the time of the content": ("ContentTime",),
}
"""What tells the volumes of one series apart, in the order in which it is asked. Values are compared, never shown."""


@dataclass(frozen=True)
class Slice:
    """One CT slice: where its pixels are, where it lies, how its numbers scale.

    Attributes:
        position: LPS millimetres of the first pixel's centre ``[3]``.
        axes: directions of rows and columns ``[6]``.
        pixel_mm: spacing between rows, between columns.
        kind: the image type, for choosing only: it is never shown.
        traits: what may tell the volumes of one series apart, see ``TRAITS``; never shown.
    """

    path: Path = field(repr=False)
    frame: int
    instance: int
    acquisition: int
    shape: tuple[int, int]
    position: np.ndarray
    axes: np.ndarray
    pixel_mm: tuple[float, float]
    slope: float | None
    intercept: float | None
    padding: int | None
    kind: str = field(default="", repr=False)
    traits: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Series:
    """The CT slices of one series.

    Attributes:
        words: the description, for choosing only: it is never shown.
        slices: those with a place in space.
        localizers: how many others only show where the scan was planned.
        unplaced: how many others say no position.
    """

    number: int | None
    words: str = field(repr=False)
    slices: list[Slice] = field(default_factory=list)
    localizers: int = 0
    unplaced: int = 0


def choose_series(path: Path, requested: str | None) -> tuple[Series, tuple[QualityCheck, ...]]:
    """The CT series of a folder (or one file) that the recipe asks for, by default the one with the most slices.

    Raises:
        ScanError: ``folder_empty``, ``not_dicom``, ``no_ct``, ``dicom_geometry``, ``no_such_series``.
    """
    every, others, checks = all_series(files_below(path))
    usable = [series for series in every if series.slices]
    if not usable:
        if every:
            raise ScanError(
                "The CT images of the DICOM folder say no position or orientation (or are localizers only).",
                code="dicom_geometry",
                fix="Export the original axial series.",
            )
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        raise ScanError(
            f"The DICOM folder holds no CT images, only {found}.", code="no_ct", fix="Name the folder of the CT series."
        )
    matching = usable if requested is None else [s for s in usable if _matches(s, requested)]
    known = ", ".join(_series_text(s) for s in usable)
    if not matching:
        raise ScanError(
            f"No CT series of the DICOM folder matches {requested!r}; there are: {known}.",
            code="no_such_series",
            fix="Change `series` in the recipe.",
        )
    chosen = max(matching, key=lambda s: (len(s.slices), -(s.number or 0)))
    if len(usable) > 1:
        message = f"The folder holds {len(usable)} CT series ({known}); read: {_series_text(chosen)}."
        checks.append(QualityCheck("several_series", "info", message, len(usable)))
    return chosen, tuple(checks)


def _matches(series: Series, requested: str) -> bool:
    return requested == str(series.number) or (not requested.isdigit() and requested.lower() in series.words.lower())


def _series_text(series: Series) -> str:
    number = "without a number" if series.number is None else f"number {series.number}"
    return f"{number} with {len(series.slices)} slices"


def all_series(files: Sequence[Path]) -> tuple[list[Series], Counter[str], list[QualityCheck]]:
    """The CT series of files, other DICOM objects by modality, and what was noticed.

    Raises:
        ScanError: ``folder_empty``, ``not_dicom``, ``dicom_damaged``.
    """
    if not files:
        raise ScanError("The folder is empty.", code="folder_empty", fix="Name the folder of one DICOM series.")
    groups: dict[str, Series] = {}
    others: Counter[str] = Counter()
    foreign = broken = bare = 0
    with quiet_pydicom():
        for file in files:
            if file.name.upper() == "DICOMDIR" or file.name.startswith("."):
                continue
            try:
                header = read_dicom(file, stop_before_pixels=True, specific_tags=list(_TAGS))
                series = _add(groups, file, header) if is_ct(header) else None
            except (InvalidDicomError, IsADirectoryError):
                foreign += 1
                continue
            except Exception:  # noqa: BLE001  pydicom raises what it meets in a damaged header
                broken += 1
                continue
            if "Modality" not in header and "SOPClassUID" not in header:
                broken += 1
                continue
            bare += getattr(header, "preamble", None) is None
            if series is None:
                kind = str(header.get("Modality") or "")
                others[kind if re.fullmatch(r"[A-Z]{2,9}", kind) else "unknown"] += 1
    if not groups and not others:
        code = "dicom_damaged" if broken else "not_dicom"
        raise ScanError(
            f"None of the {len(files)} files is a readable DICOM file.", code=code, fix="Name the folder of one series."
        )
    checks = _ignored(foreign, broken, bare, others)
    return list(groups.values()), others, checks


def read_dicom(path: Path, stream: BinaryIO | None = None, **options: Any) -> Dataset:
    """A DICOM file with or without its preamble and prefix, as ``pydicom.dcmread`` gives it.

    Args:
        path: of the file.
        stream: the file, where it is open already; it is left where reading stopped.
        options: of ``pydicom.dcmread``.

    Raises:
        InvalidDicomError: it is none.
    """
    try:
        return pydicom.dcmread(stream or path, **options)
    except InvalidDicomError:
        if not is_dicom(path):
            raise
    if stream is not None:
        stream.seek(0)
    found = pydicom.dcmread(stream or path, force=True, **options)
    if "TransferSyntaxUID" not in found.file_meta:
        implicit, little = found.original_encoding
        known = {(True, True): ImplicitVRLittleEndian, (False, True): ExplicitVRLittleEndian}
        found.file_meta.TransferSyntaxUID = known.get((bool(implicit), bool(little)), ExplicitVRBigEndian)
    return found


def _ignored(foreign: int, broken: int, bare: int, others: Counter[str]) -> list[QualityCheck]:
    checks: list[QualityCheck] = []
    if broken:
        checks.append(QualityCheck("dicom_damaged", "warning", f"{broken} DICOM files have damaged headers.", broken))
    if bare:
        message = f"{bare} DICOM files lack the preamble and the prefix DICM; they were read without."
        checks.append(QualityCheck("no_prefix", "info", message, bare))
    if foreign or others:
        count = foreign + others.total()
        checks.append(QualityCheck("other_files", "info", f"{count} files of the folder are no CT images.", count))
    return checks


def is_ct(header: Dataset) -> bool:
    """Whether a header is that of a CT image."""
    if header.get("Rows") is None:
        return False
    return header.get("Modality") == "CT" or str(header.get("SOPClassUID", "")) in CT_CLASSES


def _add(groups: dict[str, Series], path: Path, header: Dataset) -> Series:
    """Put the slices of one file (one, or those of a multi-frame object) into their series."""
    key = str(header.get("SeriesInstanceUID", ""))
    title = integer(header.get("SeriesNumber")), str(header.get("SeriesDescription", ""))
    sources = frame_sources(header)
    localizer = "LOCALIZER" in [str(kind).upper() for kind in (header.get("ImageType") or [])]
    placed = len(sources) > 1 or (integer(header.get("NumberOfFrames")) or 1) == 1
    found = [_slice(path, header, frame, source) if placed else None for frame, source in enumerate(sources)]
    series = groups.setdefault(key, Series(*title))
    if localizer:
        series.localizers += len(found)
    else:
        series.slices += [one for one in found if one is not None]
        series.unplaced += found.count(None)
    return series


def _slice(path: Path, header: Dataset, frame: int, sources: list[Dataset]) -> Slice | None:
    where = plane(sources)
    if where is None:
        return None
    position, axes, pixel_mm = where
    return Slice(
        path=path,
        frame=frame,
        instance=integer(header.get("InstanceNumber")) or 0,
        acquisition=integer(look_up(sources, "FrameAcquisitionNumber") or header.get("AcquisitionNumber")) or 0,
        shape=(int(header.Rows), int(header.get("Columns") or 0)),
        position=position,
        axes=axes,
        pixel_mm=pixel_mm,
        slope=number(look_up(sources, "RescaleSlope")),
        intercept=number(look_up(sources, "RescaleIntercept")),
        padding=integer(header.get("PixelPaddingValue")),
        kind=" ".join(
            _text(look_up(sources, n)) for n in ("FrameType", "ImageType", "VolumeBasedCalculationTechnique")
        ),
        traits={
            label: next(filter(None, (_text(look_up(sources, n)) for n in names)), "")
            for label, names in TRAITS.items()
        },
    )


def _text(value: object) -> str:
    """A header's value as text; several are joined."""
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, (MultiValue, list)) else str(value)
