"""NRRD files and 3D Slicer's segmentations in them (the format: teem.sourceforge.net/nrrd/format.html).

Headers are read here and not by ITK, so that a broken one ends in an error of ours and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctglip.ct.detached import HEADER_BYTES, named_files
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.masks_codes import SegmentCodes
from ctglip.ct.raw import RawVolume
from ctglip.ct.voxels import Coding, StoredVoxels, beside, read_voxels
from ctglip.errors import CTGLIPError
from ctglip.gate import reads
from ctglip.limits import check_voxels
from ctglip.types import QualityCheck

SUFFIXES = (".nrrd", ".nhdr")
_SEGMENT = re.compile(r"Segment(\d{1,6})_(Name|LabelValue|Layer|Tags)")
_TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")
_TO_RAS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1, 1, 1])),
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS_TO_RAS),
}
_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char|int8|int8_t", "u1": "uchar|unsigned char|uint8|uint8_t",
        "i2": "short|short int|signed short|signed short int|int16|int16_t",
        "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
        "i4": "int|signed int|int32|int32_t", "u4": "uint|unsigned int|uint32|uint32_t",
        "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
        "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
        "f4": "float", "f8": "double",
    }.items()
    for name in names.split("|")
}  # fmt: skip
_CODINGS: dict[str, Coding] = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "txt": "text", "text": "text",
    "ascii": "text", "hex": "hex",
}  # fmt: skip
_IN_SPACE = ("domain", "space", "time", "???", "none")
"""Kinds of axes along which voxels lie; all others hold several numbers of one voxel."""
_MOST_AXES = 16
_VECTOR = re.compile(r"none|\([^()]*\)")


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


@dataclass(frozen=True)
class _Header:
    """Fields by their lower-case names, pairs of keys and values, the byte after the header, the lines of a list."""

    fields: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    end: int = 0
    listed: tuple[str, ...] = ()


def read_nrrd(path: Path, error: type[CTGLIPError]) -> NrrdFile:
    """Read one NRRD file.

    Raises:
        CTGLIPError: of the class ``error``: ``file_empty``, ``bad_header``, ``file_truncated``, ``file_damaged``,
            ``no_data_file``, ``outside_folder``, ``too_large``, ``not_an_image``, ``image_2d``, ``image_4d``.
    """
    return reads(error, "bad_header", "Copy or download it again.")(_read)(path, error)


def _read(path: Path, error: type[CTGLIPError]) -> NrrdFile:
    header = _header(path, error)
    files = _data_files(path, header, error)
    fields = header.fields
    try:
        dtype = _dtype(fields)
        sizes = tuple(int(size) for size in fields["sizes"].split())
        coding = _CODINGS[fields["encoding"].lower()]
        lines, skip = (int(fields.get(f"{unit} skip", fields.get(f"{unit}skip", "0"))) for unit in ("line", "byte"))
        if len(sizes) != int(fields["dimension"]) or not 1 <= len(sizes) <= _MOST_AXES or lines < 0:
            raise ValueError("sizes")
        values_axis, axes = _axes(fields, len(sizes))
        affine = _affine(fields, axes)
    except (KeyError, ValueError, OverflowError) as problem:
        raise error(f"{path.name} has a broken NRRD header.", code="bad_header", fix="Copy it again.") from problem
    if len(axes) != 3:
        raise error(
            f"{path.name} has {len(axes)} dimensions, expected one 3D volume.",
            code="image_4d" if len(axes) > 3 else "image_2d",
        )
    check_voxels([sizes[axis] for axis in axes], path.name, error)
    stored = StoredVoxels(sizes, dtype, files or (path,), coding, 0 if files else header.end, lines, skip)
    values = read_voxels(stored, path.name, error)
    layers = [values] if values_axis is None else list(np.moveaxis(values, values_axis, 0))
    segments = _segments(header.pairs)
    if len(layers) > 1 and not segments:
        raise error(f"{path.name} holds {len(layers)} numbers a voxel, expected one.", code="image_4d")
    checks = _placed(fields)
    return NrrdFile(tuple(RawVolume(layer, affine, checks=checks) for layer in layers), segments)


def _header(path: Path, error: type[CTGLIPError]) -> _Header:
    try:
        with path.open("rb") as stream:
            text = stream.read(HEADER_BYTES)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.", code="unreadable") from problem
    if not text:
        raise error(f"{path.name} is an empty file.", code="file_empty", fix="Copy or download it again.")
    if not text.startswith(b"NRRD"):
        raise error(f"{path.name} is not an NRRD file.", code="not_an_image")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    position = text.find(b"\n") + 1 or len(text)
    while position < len(text):
        end = text.find(b"\n", position)
        line = text[position : end if end >= 0 else len(text)].decode("utf-8", "replace").strip("\r")
        position = end + 1 if end >= 0 else len(text)
        if not line.strip():
            break
        if line.startswith("#"):
            continue
        name, found, value = line.partition(":")
        if found and value.startswith("="):
            pairs[name] = value[1:]
        if found:
            fields.setdefault(name.strip().lower(), value.removeprefix("=").strip())
        if found and name.strip().lower().replace(" ", "") == "datafile" and value.strip().upper().startswith("LIST"):
            rest = text[position:].decode("utf-8", "replace").split("\n")
            return _Header(fields, pairs, position, tuple(one.strip() for one in rest))
    return _Header(fields, pairs, position)


def _data_files(path: Path, header: _Header, error: type[CTGLIPError]) -> tuple[Path, ...]:
    """The files of a detached header, none where the voxels follow it."""
    value = header.fields.get("data file", header.fields.get("datafile"))
    if value is not None:
        return beside(path, named_files(value, list(header.listed)), error)
    if path.suffix.lower() == ".nhdr":
        raise error(
            f"{path.name} is a header alone and names no data file.",
            code="no_data_file",
            fix="Give the whole NRRD file.",
        )
    return ()


def _dtype(fields: dict[str, str]) -> np.dtype:
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "little").lower())
    if order is None:
        raise ValueError("endian")
    return np.dtype(order + _TYPES[" ".join(fields["type"].lower().split())])


def _axes(fields: dict[str, str], count: int) -> tuple[int | None, tuple[int, ...]]:
    """The axis of several numbers of one voxel, if there is one, and those along which voxels lie."""
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * count
    if len(kinds) != count:
        raise ValueError("kinds")
    axes = tuple(k for k, kind in enumerate(kinds) if kind in _IN_SPACE)
    others = [k for k in range(count) if k not in axes]
    if len(others) > 1:
        raise ValueError("kinds")
    return (others[0] if others else None), axes


def _affine(fields: dict[str, str], axes: tuple[int, ...]) -> np.ndarray:
    """Voxel index to RAS+ millimetres; a space that is not a patient's is taken as LPS, as ITK does."""
    affine = np.eye(4)
    if len(axes) != 3:
        return affine
    if "space directions" in fields:
        vectors = _VECTOR.findall(fields["space directions"].lower())
        columns = [_numbers(vectors[axis]) for axis in axes]
        affine[:3, :3] = np.transpose(columns)
    elif "spacings" in fields:
        spacings = [float(word) for word in fields["spacings"].split()]
        affine[:3, :3] = np.diag([spacings[axis] for axis in axes])
    if "space origin" in fields:
        affine[:3, 3] = _numbers(fields["space origin"])
    return _TO_RAS.get(fields.get("space", "").lower(), LPS_TO_RAS) @ affine


def _numbers(vector: str) -> list[float]:
    """The three numbers of ``(a,b,c)``."""
    numbers = [float(word) for word in vector.strip("() ").split(",")]
    if len(numbers) != 3:
        raise ValueError("vector")
    return numbers


def _placed(fields: dict[str, str]) -> tuple[QualityCheck, ...]:
    """A header that names no patient space places the voxels nowhere."""
    if fields.get("space", "").lower() in _TO_RAS and "space directions" in fields:
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
