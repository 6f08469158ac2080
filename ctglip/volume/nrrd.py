"""NRRD files and 3D Slicer's segmentations in them, read by SimpleITK."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctglip.errors import CTGLIPError
from ctglip.volume.geometry import LPS_TO_RAS
from ctglip.volume.raw import RawVolume

SUFFIXES = (".nrrd", ".nhdr")
_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")


@dataclass(frozen=True)
class Segment:
    """One named segment of a Slicer segmentation: where its voxels hold ``value`` in layer ``layer``."""

    name: str
    value: int
    layer: int


@dataclass(frozen=True)
class NrrdFile:
    """An NRRD file: its layers as one volume each, and its named segments when it has any."""

    layers: tuple[RawVolume, ...]
    segments: tuple[Segment, ...]


def read_nrrd(path: Path, error: type[CTGLIPError]) -> NrrdFile:
    """Read one NRRD file.

    Raises:
        CTGLIPError: of the class ``error``: ``file_empty``, ``bad_header``, ``file_truncated``, ``not_an_image``,
            ``image_2d``, ``image_4d``.
    """
    import SimpleITK as sitk

    _check_start(path, error)
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
    return NrrdFile(tuple(RawVolume(layer.T, affine) for layer in layers), segments)


def _check_start(path: Path, error: type[CTGLIPError]) -> None:
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.", code="unreadable") from problem
    if not start:
        raise error(f"{path.name} is an empty file.", code="file_empty", fix="Copy or download it again.")
    if start != b"NRRD":
        raise error(f"{path.name} is not an NRRD file.", code="not_an_image")


def _segments(metadata: dict[str, str]) -> tuple[Segment, ...]:
    fields: dict[int, dict[str, str]] = {}
    for key, value in metadata.items():
        if match := _SEGMENT.fullmatch(key):
            fields.setdefault(int(match[1]), {})[match[2]] = value
    return tuple(
        Segment(values["Name"].strip(), int(values.get("LabelValue", "1")), int(values.get("Layer", "0")))
        for _, values in sorted(fields.items())
        if "Name" in values
    )
