"""MetaImage files (``.mha``, or ``.mhd`` beside its ``.raw``); their world is LPS, as ITK's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctglip.ct.detached import HEADER_BYTES, named_files
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.raw import RawVolume
from ctglip.ct.voxels import StoredVoxels, beside, read_voxels
from ctglip.errors import ScanError
from ctglip.gate import reads
from ctglip.limits import check_voxels

SUFFIXES = (".mha", ".mhd")
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


@reads(ScanError, "file_damaged", "Copy or download it again.")
def read_meta_image(path: Path) -> RawVolume:
    """Read one volume.

    Raises:
        ScanError: ``file_damaged``, ``file_truncated``, ``bad_header``, ``no_data_file``, ``outside_folder``,
            ``too_large``, ``image_2d`` or ``image_4d``.
    """
    fields, rest, end = _header(path)
    try:
        shape = tuple(int(size) for size in fields["dimsize"].split())
        order = ">" if _first(fields, "binarydatabyteordermsb", "elementbyteordermsb") == "true" else "<"
        dtype = np.dtype(order + _TYPES[fields["elementtype"].upper()])
        channels = int(fields.get("elementnumberofchannels", "1"))
        skip = int(fields.get("headersize", "0"))
        zipped = fields.get("compresseddata", "").lower() == "true"
        affine = _affine(fields) if len(shape) == 3 else np.eye(4)
        value = fields["elementdatafile"]
    except (KeyError, ValueError) as problem:
        raise ScanError(f"{path.name} has a broken header.", code="bad_header", fix="Copy it again.") from problem
    if len(shape) != 3 or channels != 1:
        code = "image_2d" if len(shape) < 3 else "image_4d"
        raise ScanError(f"{path.name} has the size {shape} x {channels}, expected one 3D volume.", code=code)
    check_voxels(shape, path.name, ScanError)
    coding = "gzip" if zipped else "raw" if fields.get("binarydata", "true").lower() == "true" else "text"
    files = beside(path, named_files(value, rest), ScanError)
    stored = StoredVoxels(shape, dtype, files or (path,), coding, 0 if files else end, skip_bytes=skip if files else 0)
    return RawVolume(read_voxels(stored, path.name, ScanError), affine)


def _header(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Fields by their lower-case names, the lines after the last field, and the byte where it ends."""
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    while position < len(text) and "elementdatafile" not in fields:
        end = text.find(b"\n", position)
        end = len(text) if end < 0 else end
        name, found, value = text[position:end].decode("utf-8", "replace").partition("=")
        position = end + 1
        if found:
            fields[name.strip().lower()] = value.strip()
    rest = text[position:].split(b"\n") if fields.get("elementdatafile", "").upper().startswith("LIST") else []
    return fields, [line.decode("utf-8", "replace").strip() for line in rest], position


def _first(fields: dict[str, str], *names: str) -> str:
    return next((fields[name].lower() for name in names if name in fields), "")


def _affine(fields: dict[str, str]) -> np.ndarray:
    """Voxel index to RAS+ millimetres; each row of the file's matrix is the direction of one axis."""
    turned = _first(fields, "transformmatrix", "rotation", "orientation") or "1 0 0 0 1 0 0 0 1"
    affine = np.eye(4)
    affine[:3, :3] = _numbers(turned, 9).reshape(3, 3).T
    affine[:3, :3] *= _numbers(_first(fields, "elementspacing", "elementsize") or "1 1 1", 3)
    affine[:3, 3] = _numbers(_first(fields, "offset", "position", "origin") or "0 0 0", 3)
    return LPS_TO_RAS @ affine


def _numbers(text: str, count: int) -> np.ndarray:
    numbers = np.array([float(word) for word in text.split()])
    if len(numbers) != count:
        raise ValueError("numbers")
    return numbers
