"""Voxels as headers of NRRD and MetaImage say that they are stored: of how many files, how coded, at which byte.

No more is read or unzipped than the header's shape needs, and no file outside of the header's folder.
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ctglip.errors import CTGLIPError
from ctglip.limits import check_voxels, unzip_stream

Coding = Literal["raw", "gzip", "bzip2", "text", "hex"]
_SKIPPED = 1 << 30
"""Bytes that a header may have skipped."""
_DIGITS = 32
"""Bytes of the longest number in text, its blank included."""


@dataclass(frozen=True)
class StoredVoxels:
    """Where a header says that its voxels are.

    Attributes:
        shape: the fastest axis first.
        files: each holds an equal stretch, in their order.
        start: byte at which the first line after the header begins, where it stands in the same file.
        skip_lines: lines to leave out, then ``skip_bytes``: after unzipping where the voxels are zipped; -1: the
            voxels are the last bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    files: tuple[Path, ...]
    coding: Coding = "raw"
    start: int = 0
    skip_lines: int = 0
    skip_bytes: int = 0


def beside(header: Path, names: Sequence[str], error: type[CTGLIPError]) -> tuple[Path, ...]:
    """The files that a header names, which have to lie in its folder or below.

    Raises:
        CTGLIPError: ``outside_folder``, ``no_data_file`` or ``file_empty``.
    """
    return tuple(_beside(header, name, error) for name in names)


def lies_beside(header: Path, name: str) -> bool:
    """Whether a name that a header gives is that of a file in its folder or below, links followed: a folder of links to
    headers and their data, which lie elsewhere together, is one too."""
    try:
        target = (header.parent / name).resolve()
        return any(target.is_relative_to(home) for home in (header.parent.resolve(), header.resolve().parent))
    except (OSError, ValueError, RuntimeError):
        return False


def _beside(header: Path, name: str, error: type[CTGLIPError]) -> Path:
    if not lies_beside(header, name):
        raise error(
            f"{header.name} names a data file outside of its folder.",
            code="outside_folder",
            fix="Copy the data file beside the header, or save both as one file.",
        )
    path = header.parent / name
    if not path.is_file():
        raise error(
            f"{header.name} is a header alone: its data file {path.name} is not beside it.",
            code="no_data_file",
            fix="Copy the data file to where the header says, or save both as one file.",
        )
    if not path.stat().st_size:
        raise error(f"{path.name}, the data file of {header.name}, is empty.", code="file_empty", fix="Copy it again.")
    return path


def read_voxels(stored: StoredVoxels, where: str, error: type[CTGLIPError]) -> np.ndarray:
    """The voxels, ``shape`` in Fortran order, of this machine's byte order.

    Raises:
        CTGLIPError: ``too_large``, ``bad_header`` (no voxels), ``file_truncated``, ``file_damaged``.
    """
    check_voxels(stored.shape, where, error, 8 * stored.dtype.itemsize)
    count = math.prod(stored.shape)
    if count == 0 or not stored.files or count % len(stored.files):
        raise error(f"{where} says no size, or one that its files cannot share.", code="bad_header")
    share = count // len(stored.files)
    parts = [_part(path, stored, share, where, error) for path in stored.files]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return values.astype(stored.dtype.newbyteorder("="), copy=False).reshape(stored.shape, order="F")


def _part(path: Path, stored: StoredVoxels, count: int, where: str, error: type[CTGLIPError]) -> np.ndarray:
    needed = count * stored.dtype.itemsize
    try:
        with path.open("rb") as stream:
            stream.seek(stored.start)
            for _ in range(stored.skip_lines):
                if not stream.readline(_SKIPPED):
                    break
            data = _content(stream, path, stored, needed, count)
    except (zlib.error, OSError, EOFError, ValueError) as problem:
        raise error(
            f"{where}: its data are damaged.", code="file_damaged", fix="Copy or download it again."
        ) from problem
    found = np.frombuffer(data, stored.dtype) if not isinstance(data, np.ndarray) else data
    if found.size < count:
        raise error(
            f"{where}: its data end too early, {found.size} voxels of {count}.",
            code="file_truncated",
            fix="Copy or download it again.",
        )
    return found


def _content(
    stream: BinaryIO, path: Path, stored: StoredVoxels, needed: int, count: int
) -> bytes | bytearray | memoryview | np.ndarray:
    """The voxels of one file as bytes, or as numbers where they are written in digits."""
    skip = stored.skip_bytes
    if not -1 <= skip <= _SKIPPED:
        raise ValueError("skip")
    rest = path.stat().st_size - stream.tell()
    if stored.coding in ("gzip", "bzip2"):
        member = zlib.decompressobj(47) if stored.coding == "gzip" else bz2.BZ2Decompressor()
        return memoryview(unzip_stream(stream, member, max(skip, 0) + needed))[max(skip, 0) :][:needed]
    if stored.coding == "raw":
        stream.seek(rest - needed if skip == -1 else skip, 1)
        whole = min(needed, max(rest, 0)) // stored.dtype.itemsize
        return np.fromfile(stream, stored.dtype, count=whole)
    stream.seek(max(skip, 0), 1)
    if stored.coding == "hex":
        data = bytes.fromhex(stream.read(4 * needed + (1 << 16)).decode("ascii"))
        return data[: len(data) // stored.dtype.itemsize * stored.dtype.itemsize]
    words = stream.read(count * _DIGITS).decode("ascii").replace(",", " ").split()
    return np.array(words[:count], np.float64).astype(stored.dtype)
