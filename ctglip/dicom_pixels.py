"""Pixels of DICOM files: plain ones are read here, compressed ones by native decoders in a process of their own.

A decoder that a broken file ends, or keeps busy, takes that process with it and no more: the file is refused. The
process is started by the first compressed file and kept; it ends with this one.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from ctglip.errors import ScanError
from ctglip.limits import check_voxels
from ctglip.parallel import python_environment, python_module

DECODE_S = 60.0
"""Seconds that a file's pixels may take, and as many for each further ``_PIXELS_IN_TIME``."""
_PIXELS_IN_TIME = 1 << 26
"""256 frames of 512 x 512; the slower decoders take some ten million pixels a second."""
DECODER_BYTES = 8 << 30
"""Memory that the decoding process may have."""
_PLAIN = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)
_NATIVE = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
_FIELDS = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames",
)  # fmt: skip


_PIPE_BYTES = 1 << 20


class DecodingError(ValueError):
    """Pixels that cannot be decoded; its words quote nothing of the file."""


def pixels_of(dataset: Dataset) -> np.ndarray:
    """The pixels of a dataset as ``Dataset.pixel_array`` gives them: ``[rows, columns]``, with frames before and
    channels behind where there are several.

    Raises:
        ScanError: ``too_large``: the header states more pixels than any scan has.
        DecodingError: an unknown transfer syntax, a decoder that died or took too long, or any error of pydicom.
    """
    shape = [int(dataset.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
    check_voxels(shape[1:], "The DICOM file", ScanError)
    bits = 8 if dataset.get("BitsAllocated") in (1, 8) else 64  # masks have a frame for each slice and organ
    check_voxels(shape, "The DICOM file", ScanError, bits)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in _PLAIN:
        return dataset.pixel_array
    if syntax not in _NATIVE:
        raise DecodingError("the transfer syntax is not known")
    return _decoder.decode(dataset, DECODE_S * (1 + math.prod(shape) // _PIXELS_IN_TIME))


class _Decoder:
    """The other process: a line of JSON and the coded bytes go in, a line of JSON and the pixels come out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, dataset: Dataset, seconds: float) -> np.ndarray:
        """The pixels of a dataset, within so many seconds. An answer that is not read to its end, for whatever reason,
        ends the process: the next file must not be given it."""
        data = bytes(dataset.PixelData)
        head: dict[str, Any] = {name: _plain(dataset[name].value) for name in _FIELDS if name in dataset}
        head |= {"syntax": str(dataset.file_meta.TransferSyntaxUID), "bytes": len(data)}
        with self._lock:
            process = self._running()
            try:
                answer, pixels = _asked(process, head, data, seconds)
            except BaseException as problem:
                self.close()
                if not isinstance(problem, (OSError, EOFError, ValueError)):
                    raise
                raise DecodingError("its decoder died or took too long") from problem
        if "error" in answer:
            raise DecodingError(answer["error"])
        return np.frombuffer(pixels, answer["dtype"]).reshape(answer["shape"])

    def close(self) -> None:
        """End the process, if there is one of ours."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._owner = os.getpid()
            self._process = subprocess.Popen(  # noqa: S603  our own module
                (*python_module("ctglip.dicom_decoder"), str(DECODER_BYTES)),
                env=python_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us
                pipesize=_PIPE_BYTES if sys.platform == "linux" else -1,
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process


def _plain(value: Any) -> int | str:
    return str(value) if isinstance(value, str) else int(value)


def _asked(
    process: subprocess.Popen[bytes], head: dict[str, Any], data: bytes, seconds: float
) -> tuple[dict[str, Any], bytearray]:
    assert process.stdin is not None
    assert process.stdout is not None
    until = time.monotonic() + seconds
    _send(process.stdin.fileno(), json.dumps(head).encode() + b"\n" + data, until)
    line = bytearray()
    while not line.endswith(b"\n"):
        line += _received(process.stdout.fileno(), 1, until)
    answer = json.loads(line)
    return answer, _received(process.stdout.fileno(), int(answer.get("bytes", 0)), until)


def _send(number: int, data: bytes, until: float) -> None:
    """Write all; the pipe takes what it has room for."""
    view = memoryview(data)
    while view:
        _wait(number, select.POLLOUT, until)
        view = view[os.write(number, view) :]


def _wait(number: int, event: int, until: float) -> None:
    poll = select.poll()
    poll.register(number, event)
    if not poll.poll(1000 * max(0.0, until - time.monotonic())):
        raise TimeoutError


def _received(number: int, count: int, until: float) -> bytearray:
    found = bytearray()
    while len(found) < count:
        _wait(number, select.POLLIN, until)
        part = os.read(number, min(count - len(found), 1 << 20))
        if not part:
            raise EOFError
        found += part
    return found


_decoder = _Decoder()
atexit.register(_decoder.close)
