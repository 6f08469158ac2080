"""One volume or radiograph as one zarr 3 shard: written and read chunk by chunk, without zarr's machinery around each
one.

The files are plain zarr 3 (``sharding_indexed``; inside, Blosc zstd level 1 with bit-shuffling: level 3 takes
two thirds longer for 1 % fewer bytes; then the CRC-32C of the packed chunk) and zarr reads and
writes the same. A shard is its chunks one after the other, then an index with (offset, bytes) of every chunk in C
order as little-endian uint64, then the CRC-32C of the index (zarr's specification of the sharding codec, version 1.0).
A chunk of nothing but zeros is not stored; its index entry is all ones. Shards whose chunks have no checksum, as they
were written before, are read.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]
from zarr.codecs import BloscCodec, Crc32cCodec

from ctglip.types import Box

LEVEL = 1
CHUNK = 40
"""Longest edge of a chunk in voxels. Edges are multiples of 8: bit-shuffling works on 8 values at a time, and leaves
what is over uncompressed (three times slower to write, 10 % larger)."""
CXR_CHUNK = 256
"""The same for the two axes of a radiograph."""
_EMPTY = np.uint64(2**64 - 1)
_ENTRY = np.dtype("<u8")
_WITHOUT_CHECKSUMS = ["bytes", "blosc"]
"""The codecs of chunks as they were written before."""
_CHECKSUM = 4
"""Bytes of a CRC-32C."""
_AXES = {2: ("row", "column"), 3: ("x", "y", "z")}


def _shard(path: Path, axes: int, separator: str) -> Path:
    """The one shard of the array ``path``, as zarr names it."""
    return path / separator.join(["c", *"0" * (axes + 1)])


def chunk_edge(size: int, longest: int = CHUNK) -> int:
    """The edge of the chunks along an axis of ``size`` voxels: divided evenly, so that no chunk is mostly padding."""
    even = -(-size // -(-size // longest))
    return -(-even // 8) * 8


def write_volume(group: zarr.Group, path: Path, name: str, volume: np.ndarray) -> None:
    """Write a volume ``[x, y, z]`` as the array ``[1, x, y, z]`` of a group that lies in the folder ``path``.

    A radiograph ``[row, column]`` becomes ``[1, row, column]``.
    """
    chunks = tuple(chunk_edge(size, CHUNK if volume.ndim == 3 else CXR_CHUNK) for size in volume.shape)
    counts = tuple(-(-size // chunk) for size, chunk in zip(volume.shape, chunks, strict=True))
    group.create_array(
        name,
        shape=(1, *volume.shape),
        dtype=volume.dtype,
        chunks=(1, *chunks),
        shards=(1, *(chunk * count for chunk, count in zip(chunks, counts, strict=True))),
        compressors=(BloscCodec(cname="zstd", clevel=LEVEL, shuffle="bitshuffle"), Crc32cCodec()),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},  # a file in place of five nested folders
        dimension_names=("channel", *_AXES[volume.ndim]),
    )
    index = np.full((*counts, 2), _EMPTY, dtype=_ENTRY)
    shard = _shard(path / name, volume.ndim, ".")
    offset = 0
    with shard.open("wb") as stream:
        for position in np.ndindex(*counts):
            piece = volume[tuple(slice(i * edge, (i + 1) * edge) for i, edge in zip(position, chunks, strict=True))]
            if not piece.any():
                continue
            chunk = np.zeros(chunks, dtype=volume.dtype.newbyteorder("<"))
            chunk[tuple(slice(0, size) for size in piece.shape)] = piece
            packed = _with_checksum(blosc.compress(chunk, b"zstd", LEVEL, blosc.BITSHUFFLE, 0))
            index[position] = offset, len(packed)
            offset += stream.write(packed)
        stream.write(_with_checksum(index.tobytes()))


def _with_checksum(data: bytes) -> bytes:
    """Some bytes and their CRC-32C."""
    return data + google_crc32c.value(data).to_bytes(_CHECKSUM, "little")


def _checked(data: bytes, what: str) -> bytes:
    """The bytes that ``_with_checksum`` was given.

    Raises:
        ValueError: they have changed.
    """
    content, checksum = data[:-_CHECKSUM], int.from_bytes(data[-_CHECKSUM:], "little")
    if google_crc32c.value(content) != checksum:
        raise ValueError(f"{what} has changed since it was written")
    return content


class Volume:
    """A volume in a shard, open for reading box after box; the index is kept.

    Attributes:
        shape: voxels along x, y, z; of a radiograph along row, column.
        dtype: of the voxels.

    Raises:
        OSError, ValueError, KeyError: the files are not those of a volume as ``write_volume`` makes it.
    """

    def __init__(self, path: Path) -> None:
        meta = json.loads((path / "zarr.json").read_bytes())
        (codec,) = meta["codecs"]
        inner = [step["name"] for step in codec["configuration"]["codecs"]]
        self._checksums = inner == [*_WITHOUT_CHECKSUMS, "crc32c"]
        known = self._checksums or inner == _WITHOUT_CHECKSUMS
        if codec["name"] != "sharding_indexed" or not known or meta["shape"][0] != 1:
            raise ValueError(f"{path} is stored by {codec['name']} {inner}, expected one shard of Blosc chunks")
        self.shape: tuple[int, ...] = tuple(meta["shape"][1:])
        self.dtype = np.dtype(meta["data_type"])
        self._chunks: tuple[int, ...] = tuple(codec["configuration"]["chunk_shape"][1:])
        self._shard = _shard(path, len(self.shape), meta["chunk_key_encoding"]["configuration"]["separator"])
        self._index = self._read_index()

    def _read_index(self) -> np.ndarray:
        counts = [-(-size // chunk) for size, chunk in zip(self.shape, self._chunks, strict=True)]
        size = int(np.prod(counts)) * 2 * _ENTRY.itemsize
        with self._shard.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < size + _CHECKSUM:
                raise ValueError(f"{self._shard} is cut off")
            stream.seek(-size - _CHECKSUM, os.SEEK_END)
            data = _checked(stream.read(), f"the index of {self._shard}")
        return np.frombuffer(data, dtype=_ENTRY).reshape(*counts, 2)

    def read(self, box: Box | PixelBox | None = None) -> np.ndarray:
        """The voxels of a half-open box clipped to the volume, or all of them, C-ordered.

        Args:
            box: ``(x0, x1, y0, y1, z0, z1)``, of a radiograph ``(row0, row1, column0, column1)``.
        """
        edges = box or [edge for size in self.shape for edge in (0, size)]
        low = [min(max(int(v), 0), size) for v, size in zip(edges[::2], self.shape, strict=True)]
        high = [min(max(int(v), a), size) for v, a, size in zip(edges[1::2], low, self.shape, strict=True)]
        found = np.zeros([b - a for a, b in zip(low, high, strict=True)], dtype=self.dtype)
        with self._shard.open("rb") as stream:
            for position, source, target in _pieces(low, high, self._chunks):
                offset, size = (int(v) for v in self._index[position])
                if offset != int(_EMPTY):
                    packed = os.pread(stream.fileno(), size, offset)
                    if self._checksums:
                        packed = _checked(packed, f"chunk {position} of {self._shard}")
                    chunk = np.frombuffer(blosc.decompress(packed), dtype=self.dtype).reshape(self._chunks)
                    found[target] = chunk[source]
        return found


PixelBox = tuple[int, int, int, int]
_Slices = tuple[slice, ...]


def _pieces(
    low: list[int], high: list[int], chunks: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], _Slices, _Slices]]:
    """The chunks that a box meets: (place in the grid of chunks, part of the chunk, part of the box)."""
    axes: list[list[tuple[int, slice, slice]]] = []
    for a, b, edge in zip(low, high, chunks, strict=True):
        spans = [(i, max(a, i * edge), min(b, (i + 1) * edge)) for i in range(a // edge, -(-b // edge))]
        axes.append([(i, slice(p - i * edge, q - i * edge), slice(p - a, q - a)) for i, p, q in spans])
    for spans in itertools.product(*axes):
        positions, source, target = zip(*spans, strict=True)
        yield positions, source, target
