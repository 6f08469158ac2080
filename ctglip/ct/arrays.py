"""Volumes in NumPy archives."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from ctglip.ct.raw import RawVolume
from ctglip.errors import ScanError
from ctglip.gate import reads
from ctglip.limits import check_voxels
from ctglip.types import QualityCheck

SUFFIXES = (".npz",)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@reads(ScanError, "file_damaged", "Copy or download it again.")
def read_npz(path: Path) -> RawVolume:
    """The one volume of a NumPy archive; it has no geometry, so that a table has to give it one.

    Raises:
        ScanError: ``file_damaged``, ``image_2d``, ``image_4d``, ``too_large``, or ``not_an_image`` where it does not
            hold one volume.
    """
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        shapes = {member.filename: _head(archive, member)[0] for member in members}
        names = [name for name, shape in shapes.items() if len(shape) > 1]
        if len(names) != 1 or len(shapes) != len(members):
            found = ", ".join(name.removesuffix(".npy") for name in shapes) or "nothing"
            raise ScanError(f"{path.name} holds {found}, expected one volume.", code="not_an_image")
        values = _array(archive, archive.getinfo(names[0]), path.name)
    if values.ndim != 3:
        code = "image_4d" if values.ndim > 3 else "image_2d"
        raise ScanError(f"{path.name} has the shape {values.shape}, expected one 3D volume.", code=code)
    message = "The file places the voxels nowhere: spacing, left and right are a guess."
    return RawVolume(values, np.eye(4), checks=(QualityCheck("no_orientation", "error", message),))


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype]:
    with archive.open(member) as stream:
        return _header(stream)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and type of a ``.npy``."""
    return _HEADERS[np.lib.format.read_magic(stream)](stream)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> np.ndarray:
    """One array, once its header agrees with what the archive says is in it."""
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        check_voxels(shape, where, ScanError)
        needed = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or needed > member.file_size:
            raise ScanError(f"{where} holds less than its header says.", code="file_damaged", fix="Copy it again.")
        data = stream.read(needed)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
