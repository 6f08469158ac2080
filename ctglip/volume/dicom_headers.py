"""What the headers of a folder of DICOM files say about geometry and scaling, and which series is to be read.

Names, ids, dates and UIDs are used here to group slices and go no further: no value of this module holds one, and no
message quotes a header's text or a slice's file name (which may be a UID).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ctglip.errors import ScanError
from ctglip.types import QualityCheck

CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_TAGS = (
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber",
    "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SamplesPerPixel", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelRepresentation", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One CT slice: where its pixels are, where it lies, how its numbers scale.

    Attributes:
        place: LPS millimetres of the first pixel's centre ``[3]``, None where the header does not say.
        axes: directions of rows and columns ``[6]``, None where the header does not say.
        pixel_mm: spacing between rows, between columns.
    """

    path: Path = field(repr=False)
    frame: int
    instance: int
    acquisition: int
    shape: tuple[int, int]
    place: np.ndarray | None
    axes: np.ndarray | None
    pixel_mm: tuple[float, float] | None
    slope: float | None
    intercept: float | None
    padding: int | None
    localizer: bool


@dataclass(frozen=True)
class Series:
    """The CT slices of one series. ``words`` is the description, for choosing only: it is never shown."""

    number: int | None
    words: str = field(repr=False)
    slices: tuple[Slice, ...]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """pydicom warns by quoting header values: keep that out of logs and consoles."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def is_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM (128 bytes, then ``DICM``)."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def choose_series(path: Path, wanted: str | None) -> tuple[Series, tuple[QualityCheck, ...]]:
    """The CT series of a folder (or one file) that the recipe asks for, by default the one with the most slices.

    Raises:
        ScanError: ``folder_empty``, ``not_dicom``, ``no_ct``, ``dicom_geometry``, ``no_such_series``.
    """
    every, others, checks = _all_series(path)
    usable = [s for s in every if any(not one.localizer and one.place is not None for one in s.slices)]
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
    matching = usable if wanted is None else [s for s in usable if _matches(s, wanted)]
    known = ", ".join(_shown(s) for s in usable)
    if not matching:
        raise ScanError(
            f"No CT series of the DICOM folder matches {wanted!r}; there are: {known}.",
            code="no_such_series",
            fix="Change `series` in the recipe.",
        )
    chosen = max(matching, key=lambda s: (len(s.slices), -(s.number or 0)))
    if len(usable) > 1:
        message = f"The folder holds {len(usable)} CT series ({known}); read: {_shown(chosen)}."
        checks.append(QualityCheck("several_series", "info", message, len(usable)))
    return chosen, tuple(checks)


def _matches(series: Series, wanted: str) -> bool:
    return wanted == str(series.number) or (not wanted.isdigit() and wanted.lower() in series.words.lower())


def _shown(series: Series) -> str:
    number = "without a number" if series.number is None else f"number {series.number}"
    return f"{number} with {len(series.slices)} slices"


def _all_series(path: Path) -> tuple[list[Series], Counter[str], list[QualityCheck]]:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise ScanError("The folder is empty.", code="folder_empty", fix="Name the folder of one DICOM series.")
    groups: dict[str, list[Slice]] = defaultdict(list)
    titles: dict[str, tuple[int | None, str]] = {}
    others: Counter[str] = Counter()
    foreign = broken = 0
    with quiet_pydicom():
        for file in files:
            if file.name.upper() == "DICOMDIR" or file.name.startswith("."):
                continue
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            except (InvalidDicomError, IsADirectoryError):
                foreign += 1
                continue
            except Exception:  # noqa: BLE001  pydicom raises what it meets in a damaged header
                broken += 1
                continue
            if not _is_ct(header):
                others[str(header.get("Modality") or "unknown")[:16]] += 1
                continue
            key = str(header.get("SeriesInstanceUID", ""))
            titles.setdefault(key, (_int(header.get("SeriesNumber")), str(header.get("SeriesDescription", ""))))
            groups[key].extend(_slices(file, header))
    if not groups and not others:
        code = "dicom_damaged" if broken else "not_dicom"
        raise ScanError(
            f"None of the {len(files)} files is a readable DICOM file.", code=code, fix="Name the folder of one series."
        )
    checks = _ignored(foreign, broken, others)
    return [Series(*titles[key], tuple(slices)) for key, slices in groups.items()], others, checks


def _ignored(foreign: int, broken: int, others: Counter[str]) -> list[QualityCheck]:
    checks: list[QualityCheck] = []
    if broken:
        checks.append(QualityCheck("dicom_damaged", "warning", f"{broken} DICOM files have damaged headers.", broken))
    if foreign or others:
        count = foreign + others.total()
        checks.append(QualityCheck("other_files", "info", f"{count} files of the folder are no CT images.", count))
    return checks


def _is_ct(header: Dataset) -> bool:
    if header.get("Rows") is None:
        return False
    return header.get("Modality") == "CT" or str(header.get("SOPClassUID", "")) in CT_CLASSES


def _slices(path: Path, header: Dataset) -> list[Slice]:
    """The slices of one file: one, or those of a multi-frame object from its functional groups."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not frames:
        return [_slice(path, header, 0, [header])]
    return [_slice(path, header, k, [frame, shared, header]) for k, frame in enumerate(frames)]


_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _look_up(sources: list[Dataset], name: str) -> Any:
    """A value of the frame, else of all frames, else of the file."""
    for source in sources:
        if (value := source.get(name)) is not None:
            return value
        group = source.get(_GROUPS.get(name, "")) if name in _GROUPS else None
        if group and (value := group[0].get(name)) is not None:
            return value
    return None


def _slice(path: Path, header: Dataset, frame: int, sources: list[Dataset]) -> Slice:
    place = _floats(_look_up(sources, "ImagePositionPatient"), 3)
    axes = _floats(_look_up(sources, "ImageOrientationPatient"), 6)
    pixel = _floats(_look_up(sources, "PixelSpacing"), 2)
    kinds = [str(kind).upper() for kind in (header.get("ImageType") or [])]
    return Slice(
        path=path,
        frame=frame,
        instance=_int(header.get("InstanceNumber")) or frame,
        acquisition=_int(header.get("AcquisitionNumber")) or 0,
        shape=(int(header.Rows), int(header.get("Columns") or 0)),
        place=place if axes is not None and pixel is not None else None,
        axes=axes,
        pixel_mm=None if pixel is None else (float(pixel[0]), float(pixel[1])),
        slope=_float(_look_up(sources, "RescaleSlope")),
        intercept=_float(_look_up(sources, "RescaleIntercept")),
        padding=_int(header.get("PixelPaddingValue")),
        localizer="LOCALIZER" in kinds,
    )


def _floats(value: Any, count: int) -> np.ndarray | None:
    try:
        numbers = np.asarray([float(v) for v in value], np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _float(value: Any) -> float | None:
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None


def _int(value: Any) -> int | None:
    number = _float(value)
    return None if number is None else int(number)
