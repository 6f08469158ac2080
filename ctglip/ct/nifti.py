"""NIfTI files, gunzipped by isal: the numbers as they are stored, and their affine."""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ctglip.ct.raw import RawVolume
from ctglip.errors import CTGLIPError
from ctglip.files import atomic_path
from ctglip.gate import reads
from ctglip.limits import check_voxels
from ctglip.types import QualityCheck

_GZIP_ERRORS: tuple[type[Exception], ...] = (cast("type[Exception]", igzip_lib.error),)
SUFFIXES = (".nii", ".nii.gz")
_BLOCK = 1 << 16
_LEAST = 18
"""Bytes of a gzip file's head and tail."""
_MOST = 1032
"""Bytes that one byte of deflate can become."""
_HEAD = 540
"""Bytes of the longer of the two headers."""
_BEYOND = 1 << 26
"""Bytes that a file may hold beside its voxels."""
_AGAIN = "Copy or download it again."
_LABEL = re.compile(rb'<Label\b[^>]*\bKey="(\d+)"[^>]*>\s*(?:<!\[CDATA\[)?([^<\]]+)')


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file in memory; ``names`` is the label table of its own header, when it has one."""

    volume: RawVolume
    names: dict[int, str]


@dataclass(frozen=True)
class NiftiHead:
    """What a NIfTI file says of itself in its first bytes.

    Attributes:
        blank: it says nothing of where its voxels are: edges of 1 mm, at the origin.
        scaled: its numbers are to be scaled.
        whole: they are whole numbers.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    blank: bool
    scaled: bool
    whole: bool


def read_head(path: Path) -> NiftiHead | None:
    """The header of a NIfTI file alone, quickly; None where there is none that can be read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(1 << 14)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(31).decompress(start, 352)
        header = nib.Nifti1Header(start[:348], check=True)
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (OSError, zlib.error, WrapStructError, HeaderDataError, ValueError, KeyError):
        return None
    shape = tuple(int(n) for n in header.get_data_shape())
    placed = bool(int(header["qform_code"]) or int(header["sform_code"]))
    unit = np.allclose(np.abs(affine[:3, :3]), np.eye(3), atol=1e-4)
    return NiftiHead(
        shape,
        tuple(float(edge) for edge in header.get_zooms()),
        blank=unit and (not placed or np.allclose(affine[:3, 3], 0, atol=1e-4)),
        scaled=(slope if slope is not None else 1.0, intercept or 0.0) != (1.0, 0.0),
        whole=header.get_data_dtype().kind in "iu",
    )


def read_nifti(path: Path, error: type[CTGLIPError]) -> NiftiFile:
    """Read one NIfTI file.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        error: the class to raise: ScanError or MaskError.

    Raises:
        CTGLIPError: ``unreadable``, ``file_empty``, ``file_truncated``, ``file_damaged``, ``not_an_image``,
            ``bad_header``, ``image_2d``, ``image_4d``, ``too_large``.
    """
    return reads(error, "bad_header", _AGAIN)(_read)(path, error)


def _read(path: Path, error: type[CTGLIPError]) -> NiftiFile:
    data = _bytes(path, error)
    header, offset = _header(path, data, error)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise error(
            f"{path.name} has {len(shape)} dimensions {shape}, expected one 3D volume.",
            code="image_4d" if len(shape) > 3 else "image_2d",
            fix="Give one file for each volume." if len(shape) > 3 else "",
        )
    check_voxels(shape, path.name, error)
    dtype = header.get_data_dtype()
    expected = offset + math.prod(shape) * dtype.itemsize
    if len(data) < expected:
        raise error(
            f"{path.name} is truncated: {len(data)} bytes of {expected}.",
            code="file_truncated",
            fix=_AGAIN,
        )
    values = np.frombuffer(data, dtype, count=math.prod(shape), offset=offset).reshape(shape, order="F")
    if not dtype.isnative:
        values = values.astype(dtype.newbyteorder("="))
    try:
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
        checks = _placed(header)
    except (HeaderDataError, ValueError) as problem:
        raise error(f"{path.name} has a broken NIfTI header: {problem}.", code="bad_header") from problem
    volume = RawVolume(values, affine, 1.0 if slope is None else float(slope), float(intercept or 0), checks=checks)
    return NiftiFile(volume, _names(bytes(data[:offset])))


def _bytes(path: Path, error: type[CTGLIPError]) -> memoryview:
    """The file's bytes, unzipped when they are gzip (whatever the name says)."""
    size = 0
    try:
        with path.open("rb", buffering=0) as stream:
            start = stream.read(_HEAD) or b""
            size = stream.seek(0, os.SEEK_END)
            if start[:2] == b"\x1f\x8b":
                data = _gunzip(stream, size, path, error)
            else:
                data = np.fromfile(path, np.uint8, count=min(size, _needed(memoryview(start), path, error) or size))
    except EOFError as problem:
        raise error(
            f"{path.name} is truncated: its gzip stream of {size} bytes ends too early.",
            code="file_truncated",
            fix=_AGAIN,
        ) from problem
    except _GZIP_ERRORS as problem:
        raise error(f"{path.name} is a damaged gzip file.", code="file_damaged", fix=_AGAIN) from problem
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.", code="unreadable") from problem
    if not size:
        raise error(f"{path.name} is an empty file.", code="file_empty", fix=_AGAIN)
    return data.data


def _gunzip(stream: io.RawIOBase, size: int, path: Path, error: type[CTGLIPError]) -> np.ndarray:
    """The content of a gzip file of ``size`` bytes, block by block into one array: no block leaves the cache.

    Room is made for what the header speaks of, as far as so small a file can hold it, and once more for what comes
    behind. What is no NIfTI file ends with its first blocks.
    """
    if size < _LEAST:
        raise EOFError
    stream.seek(0)
    room, used, member, needed = np.empty(_HEAD, np.uint8), 0, None, None
    while block := stream.read(_BLOCK):
        while block := block if member else block.lstrip(b"\0"):
            member = member or igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            part = np.frombuffer(member.decompress(block), np.uint8)
            if used + len(part) > len(room):
                length = used + len(part)
                if needed is not None:
                    length = max(length, min(needed if length <= needed else needed + _BEYOND, _MOST * size))
                room = np.concatenate([room[:used], np.empty(length - used, np.uint8)])
            room[used : used + len(part)] = part
            used, block = used + len(part), b""
            if member.eof:
                block, member = member.unused_data, None
            if needed is None and used >= _HEAD and (needed := _needed(room[:used].data, path, error)) is None:
                return room[:used]
            if needed is not None and used > needed + _BEYOND:
                raise error(f"{path.name} unzips to far more than its header says.", code="too_large", fix=_AGAIN)
    if member is not None:
        raise EOFError
    return room[:used]


def _needed(data: memoryview, path: Path, error: type[CTGLIPError]) -> int | None:
    """Bytes of the header and all voxels that it speaks of, None where there is no sound header.

    Raises:
        CTGLIPError: ``too_large``.
    """
    try:
        header, offset = _header(path, data, error)
        shape = tuple(int(n) for n in header.get_data_shape())
        size = header.get_data_dtype().itemsize
    except (CTGLIPError, HeaderDataError, ValueError, KeyError):
        return None
    if min(shape, default=0) < 0:
        return None
    check_voxels(shape, path.name, error)
    return min(max(offset, 0), _BEYOND) + math.prod(shape) * size


def _header(path: Path, data: memoryview, error: type[CTGLIPError]) -> tuple[nib.Nifti1Header, int]:
    for kind, size, magic in ((nib.Nifti1Header, 348, b"n+1"), (nib.Nifti2Header, 540, b"n+2")):
        position = 344 if size == 348 else 4
        if len(data) >= size and data[position : position + 3] == magic:
            try:
                header = kind(bytes(data[:size]), check=True)
                return header, int(header["vox_offset"])
            except (HeaderDataError, ValueError, KeyError) as problem:
                raise error(f"{path.name} has a broken NIfTI header: {problem}.", code="bad_header") from problem
    if len(data) >= 348 and data[344:347] == b"ni1":
        raise error(f"{path.name} is the header of a NIfTI pair.", code="not_an_image", fix="Give a single .nii file.")
    raise error(
        f"{path.name} is not a NIfTI file (no NIfTI signature in {len(data)} bytes).",
        code="not_an_image",
        fix="Give a NIfTI or NRRD file, or a folder of one DICOM series.",
    )


def _placed(header: nib.Nifti1Header) -> tuple[QualityCheck, ...]:
    """Doubts about where the header says the voxels are."""
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if not qform and not sform:
        message = "The header places the voxels nowhere (no sform, no qform): left and right are a guess."
        return (QualityCheck("no_orientation", "error", message),)
    if qform and sform:
        difference = np.asarray(header.get_sform(coded=False)) - np.asarray(header.get_qform(coded=False))
        apart = float(np.abs(difference).max())
        if apart > 1:
            message = f"sform and qform disagree by up to {apart:.3g} mm; the sform is used."
            return (QualityCheck("two_affines", "warning", message, apart),)
    return ()


def _names(head: bytes) -> dict[int, str]:
    """The label table that TotalSegmentator and Connectome Workbench write into the extended header."""
    return {int(key): name.decode("utf-8", "replace").strip() for key, name in _LABEL.findall(head)}


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write a volume ``[x, y, z]`` with its affine (mm), compressed, by rename."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(igzip.compress(image.to_bytes(), 1))
    return path
