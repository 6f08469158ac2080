"""The process in which native decoders run: ``python -m ctglip.dicom_decoder BYTES``, see ``dicom_pixels``.

It ends when its input closes. Nothing is written by it but pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Decode until the input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := sys.stdin.buffer.readline():
        head = json.loads(line)
        data = sys.stdin.buffer.read(head.pop("bytes"))
        answer(head, data, answers)
        answers.flush()


def answer(head: dict[str, Any], data: bytes, answers: BinaryIO) -> None:
    """Write what became of one file's coded bytes."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset

    try:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = head.pop("syntax")
        for name, value in head.items():
            setattr(dataset, name, value)
        dataset.add_new(0x7FE00010, "OB", data)
        dataset["PixelData"].is_undefined_length = True
        pixels = np.ascontiguousarray(dataset.pixel_array)
    except Exception as problem:  # noqa: BLE001  decoders raise anything; the answer says it
        answers.write(json.dumps({"error": type(problem).__name__}).encode() + b"\n")
        return
    stated = {"shape": pixels.shape, "dtype": pixels.dtype.str, "bytes": pixels.nbytes}
    answers.write(json.dumps(stated).encode() + b"\n")
    answers.write(pixels.data.cast("B"))


if __name__ == "__main__":
    main()
