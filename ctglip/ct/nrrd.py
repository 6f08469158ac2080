"""NRRD files and 3D Slicer's segmentations in them, read by SimpleITK."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.masks_codes import SegmentCodes
from ctglip.ct.raw import RawVolume
from ctglip.errors import CTGLIPError
from ctglip.types import QualityCheck

SUFFIXES = (".nrrd", ".nhdr")
_HEADER_BYTES = 1 << 20
_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer|Tags)")
_TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")
_SPACES = {"right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"}


@dataclass(frozen=True)
class Segment:
    """One named segment of a Slicer segmentation: where its voxels hold ``value`` in layer ``layer``."""

    name: str
    value: int
    layer: int
    codes: SegmentCodes


@dataclass(frozen=True)
class NrrdFile:
    """An NRRD file: its layers as one volume each, and its named segments when it has any."""

    layers: tuple[RawVolume, ...]
    segments: tuple[Segment, ...]


def read_nrrd(path: Path, error: type[CTGLIPError]) -> NrrdFile:
    """Read one NRRD file.

    Raises:
        CTGLIPError: of the class ``error``: ``file_empty``, ``bad_header``, ``file_truncated``, ``no_data_file``,
            ``not_an_image``, ``image_2d``, ``image_4d``.
    """
    import SimpleITK as sitk

    header = _header(path, error)
    _check_data(path, header, error)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    again = "Copy or download it again."
    try:
        reader.ReadImageInformation()
    except RuntimeError as problem:
        raise error(f"{path.name} has a broken NRRD header.", code="bad_header", fix=again) from problem
    try:
        image = reader.Execute()
    except RuntimeError as problem:
        raise error(f"{path.name}: its data end too early.", code="file_truncated", fix=again) from problem
    if image.GetDimension() != 3:
        raise error(
            f"{path.name} has {image.GetDimension()} dimensions, expected one 3D volume.",
            code="image_4d" if image.GetDimension() > 3 else "image_2d",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = LPS_TO_RAS @ affine
    values = sitk.GetArrayFromImage(image)
    count = image.GetNumberOfComponentsPerPixel()
    layers = [values] if count == 1 else [values[..., k] for k in range(count)]
    segments = _segments({key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})
    if count > 1 and not segments:
        raise error(f"{path.name} holds {count} numbers a voxel, expected one.", code="image_4d")
    checks = _placed(header)
    return NrrdFile(tuple(RawVolume(layer.T, affine, checks=checks) for layer in layers), segments)


def _header(path: Path, error: type[CTGLIPError]) -> dict[str, str]:
    """The fields of the header's text, lower-case names."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            text = stream.read(_HEADER_BYTES)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.", code="unreadable") from problem
    if not start:
        raise error(f"{path.name} is an empty file.", code="file_empty", fix="Copy or download it again.")
    if start != b"NRRD":
        raise error(f"{path.name} is not an NRRD file.", code="not_an_image")
    fields: dict[str, str] = {}
    for raw in text.split(b"\n")[1:]:
        line = raw.decode("utf-8", "replace").strip("\r")
        if not line.strip():
            break
        name, found, value = line.partition(":")
        if found and not line.startswith("#"):
            fields[name.strip().lower()] = value.removeprefix("=").strip()
            if name.strip().lower().replace(" ", "") == "datafile" and value.strip().upper().startswith("LIST"):
                break
    return fields


def _check_data(path: Path, header: dict[str, str], error: type[CTGLIPError]) -> None:
    """Whether the file that a detached header names is there."""
    name = header.get("data file", header.get("datafile"))
    if name is None and path.suffix.lower() == ".nhdr":
        raise error(
            f"{path.name} is a header alone and names no data file.",
            code="no_data_file",
            fix="Give the whole NRRD file.",
        )
    if name is None or name.upper().startswith("LIST") or "%" in name:
        return
    data = path.parent / name
    if not data.is_file():
        raise error(
            f"{path.name} is a header alone: its data file {data.name} is not beside it.",
            code="no_data_file",
            fix="Copy the data file to where the header says, or save both as one .nrrd file.",
        )
    if not data.stat().st_size:
        raise error(f"{data.name}, the data file of {path.name}, is empty.", code="file_empty", fix="Copy it again.")


def _placed(header: dict[str, str]) -> tuple[QualityCheck, ...]:
    """A header that names no patient space places the voxels nowhere."""
    if header.get("space", "").lower() in _SPACES and "space directions" in header:
        return ()
    message = "The header names no patient space (such as left-posterior-superior): left and right are a guess."
    return (QualityCheck("no_orientation", "error", message),)


def _segments(metadata: dict[str, str]) -> tuple[Segment, ...]:
    fields: dict[int, dict[str, str]] = {}
    for key, value in metadata.items():
        if match := _SEGMENT.fullmatch(key):
            fields.setdefault(int(match[1]), {})[match[2]] = value
    return tuple(
        Segment(
            values["Name"].strip(),
            int(values.get("LabelValue", "1")),
            int(values.get("Layer", "0")),
            _codes(values.get("Tags", "")),
        )
        for _, values in sorted(fields.items())
        if "Name" in values
    )


def _codes(tags: str) -> SegmentCodes:
    """The codes of a segment's terminology entry: context~category~type~modifier~context~region~modifier."""
    match = _TERMINOLOGY.search(tags)
    entry = (match[1] if match else "").split("~")
    codes: list[tuple[tuple[str, str], ...]] = []
    for position in (1, 2, 3, 5, 6):
        parts = entry[position].split("^") if position < len(entry) else []
        codes.append(((parts[0], parts[1]),) if len(parts) >= 2 and parts[1] else ())
    return SegmentCodes(codes[0], codes[1], codes[3], (*codes[2], *codes[4]))
