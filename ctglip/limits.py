"""What an untrusted file may ask for: sizes, nesting, and what a few bytes may grow to.

Readers check what a file says of itself against these limits before they make room for it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ctglip.errors import CTGLIPError

MOST_VOXELS = 1 << 30
"""Of a volume, read or made: 1024 x 1024 x 1024."""
MOST_GROWTH = 512
"""How many voxels one voxel may become on a finer or an upright grid, 8 along each axis."""
FREE_VOXELS = 1 << 24
"""A grid up to this size may be any number of times larger than its source."""
MOST_PIXELS = 64_000_000
"""Of a radiograph or a picture."""
MOST_TEXT_BYTES = 1 << 28
"""Of a file of JSON or YAML."""
MOST_TABLE_BYTES = 1 << 32
"""Of a table, unzipped."""
MOST_REPORT = 1 << 20
"""Characters of a report."""
MOST_DEPTH = 64
"""Of lists and mappings inside one another."""
MOST_NODES = 20_000_000
"""Of values in JSON or YAML, those that an alias repeats counted each time."""
_SURELY_SHALLOW = 1000


def check_voxels(shape: Sequence[int], where: str, kind: type[CTGLIPError], bits: int = 64) -> None:
    """Refuse (``too_large``) a shape with more voxels than any scan has; sizes may not be negative.

    Args:
        shape: of one volume, or of a stack of masks.
        where: what the error calls it.
        kind: of the error.
        bits: of a number of a stack: of smaller numbers than a scan may have, so many more are read.

    Raises:
        CTGLIPError: ``too_large``, or ``bad_header`` for a negative size.
    """
    if any(size < 0 for size in shape):
        raise kind(f"{where} states the shape {_shape(shape)}.", code="bad_header", fix="Copy it again.")
    most = MOST_VOXELS * 64 // bits
    if math.prod(shape) > most:
        raise kind(
            f"{where} states {_shape(shape)} voxels, at most {most} are read.",
            code="too_large",
            fix="Check its header; cut a scan that is really so large into parts.",
        )


def check_grid(shape: Sequence[int], source: Sequence[int], where: str, kind: type[CTGLIPError]) -> None:
    """Refuse (``too_large``) a grid that is far larger than what it is made from, or than any scan.

    Raises:
        CTGLIPError: ``too_large``.
    """
    made, given = math.prod(shape), math.prod(source)
    if made > MOST_VOXELS or made > max(FREE_VOXELS, MOST_GROWTH * given):
        raise kind(
            f"{where} would become {_shape(shape)} voxels from {_shape(source)}.",
            code="too_large",
            fix="Check its spacing and affine, or choose a coarser spacing in the recipe.",
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(f"{size:d}" if size < 10**9 else f"{float(size):.1e}" for size in map(int, shape))


def read_at_most(path: Path, most: int, kind: type[CTGLIPError]) -> bytes:
    """The bytes of a regular file that is not too large.

    Raises:
        CTGLIPError: ``too_large``.
        OSError: it cannot be read.
    """
    data = bytearray()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            data += block
            if len(data) > most:
                fix = "Split it, or check what it is."
                raise kind(f"{path} has more than {most >> 20} MiB.", code="too_large", fix=fix)
    return bytes(data)


def unzipped(data: bytes, most: int, where: str, kind: type[CTGLIPError]) -> bytes:
    """The content of gzipped bytes, however many members they have, up to ``most`` bytes.

    Raises:
        CTGLIPError: ``too_large``.
        EOFError, zlib.error: they are cut off or damaged.
    """
    parts: list[bytes] = []
    room = most
    while data:
        member = zlib.decompressobj(31)
        parts.append(member.decompress(data, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise kind(f"{where} unzips to more than {most >> 20} MiB.", code="too_large", fix="Check what it is.")
        if not member.eof:
            raise EOFError
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def unzip_stream(stream: BinaryIO, member: Any, size: int) -> bytearray:
    """The first ``size`` bytes that a decompressor makes of a stream; fewer where the stream ends earlier.

    Args:
        stream: at the first byte of what is compressed.
        member: ``zlib.decompressobj`` or ``bz2.BZ2Decompressor``.
    """
    found = bytearray()
    rest = b""
    while len(found) < size and not member.eof:
        if not rest and not (rest := stream.read(1 << 16)):
            break
        found += member.decompress(rest, size - len(found))
        rest = getattr(member, "unconsumed_tail", b"")
        while not member.eof and len(found) < size and not getattr(member, "needs_input", True):
            found += member.decompress(b"", size - len(found))
    return found


def check_nesting(value: Any, where: str, kind: type[CTGLIPError]) -> None:
    """Refuse (``too_deep``) plain data that is nested too deeply, holds itself, or repeats too much.

    Raises:
        CTGLIPError: ``too_deep``.
    """
    counts: dict[int, int] = {}

    def count(node: Any, depth: int) -> int:
        """How many values a node holds, itself included."""
        if not isinstance(node, (dict, list)):
            return 1
        if depth > MOST_DEPTH:
            raise kind(f"{where} is nested more than {MOST_DEPTH} deep, or holds itself.", code="too_deep")
        if (known := counts.get(id(node))) is None:
            inner = node.values() if isinstance(node, dict) else node
            known = counts[id(node)] = 1 + sum(count(one, depth + 1) for one in inner)
        if known > MOST_NODES:
            raise kind(f"{where} holds more than {MOST_NODES} values.", code="too_deep")
        return known

    count(value, 0)


def check_yaml_nesting(text: str, loader: Any, where: str, kind: type[CTGLIPError]) -> None:
    """Refuse (``too_deep``) YAML that is nested more deeply than its parser has room for; few texts need a closer look.

    Raises:
        CTGLIPError: ``too_deep``.
    """
    import yaml

    longest = max(map(len, text.splitlines()), default=0)
    if text.count("[") + text.count("{") + longest < _SURELY_SHALLOW:
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise kind(f"{where} is nested more than {MOST_DEPTH} deep.", code="too_deep")
