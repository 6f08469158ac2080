"""Native decoders run in a process of their own: one that dies or hangs costs one file."""

from __future__ import annotations

import io
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from ctglip import dicom_pixels, limits
from ctglip.dicom_pixels import DecodingError, pixels_of
from ctglip.errors import ScanError

PIXELS = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100)
    return encapsulate([stream.getvalue()])


def coded(**changes: Any) -> Dataset:
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found.Rows, found.Columns = PIXELS.shape
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 8, 8, 7
    found.add_new(0x7FE00010, "OB", jpeg(PIXELS))
    found["PixelData"].is_undefined_length = True
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def decoder() -> Any:
    process = dicom_pixels._decoder._process
    assert process is not None
    return process


def test_coded_pixels_are_those_of_pydicom() -> None:
    expected = coded().pixel_array
    for _ in range(3):
        np.testing.assert_array_equal(pixels_of(coded()), expected)
    assert np.abs(expected.astype(int) - PIXELS).max() < 8


def test_a_decoder_that_dies_costs_one_file() -> None:
    pixels_of(coded())
    first = decoder()
    first.send_signal(signal.SIGSTOP)
    asked = threading.Thread(target=lambda: (time.sleep(0.5), first.kill()))
    asked.start()
    with pytest.raises(DecodingError):
        pixels_of(coded())
    asked.join()
    assert pixels_of(coded()).shape == PIXELS.shape
    assert decoder().pid != first.pid
    assert first.poll() is not None


def test_a_decoder_that_hangs_costs_one_file_and_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_of(coded())
    first = decoder()
    first.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(dicom_pixels, "DECODE_S", 0.5)
    with pytest.raises(DecodingError):
        pixels_of(coded())
    monkeypatch.undo()
    assert first.poll() is not None, "it is gone"
    assert pixels_of(coded()).shape == PIXELS.shape


def test_larger_files_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_of(coded())
    decoder().send_signal(signal.SIGSTOP)
    monkeypatch.setattr(dicom_pixels, "DECODE_S", 0.02)
    monkeypatch.setattr(dicom_pixels, "_PIXELS_IN_TIME", PIXELS.size // 50)
    start = time.monotonic()
    with pytest.raises(DecodingError):
        pixels_of(coded())
    assert time.monotonic() - start > 0.9


class Over(BaseException):
    """As a study's time that is over."""


def test_no_file_gets_the_answer_to_the_one_before() -> None:
    """The clock of a study rings while its pixels are decoded; the process goes on with the next study."""

    def ring(number: int, frame: Any) -> None:
        raise Over

    pixels_of(coded())
    first = decoder()
    first.send_signal(signal.SIGSTOP)
    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Over):
            pixels_of(coded())
    finally:
        signal.signal(signal.SIGALRM, previous)
        first.send_signal(signal.SIGCONT)
    other = coded(PixelData=jpeg(PIXELS[::-1]))
    np.testing.assert_array_equal(pixels_of(other), other.pixel_array)


def test_broken_codes_and_unknown_ones_are_errors() -> None:
    for data in (b"", b"\xff\xd8\xff", bytes(400)):
        with pytest.raises(DecodingError):
            pixels_of(coded(PixelData=encapsulate([data]) if data else b""))
    odd = coded()
    odd.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    with pytest.raises(DecodingError):
        pixels_of(odd)


def test_what_a_header_states_is_bounded() -> None:
    plain = coded(Rows=60_000, Columns=60_000, PixelData=b"\0\0")
    plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with pytest.raises(ScanError) as caught:
        pixels_of(plain)
    assert caught.value.code == "too_large"


def test_masks_may_have_more_pixels_than_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame for each slice of each organ: those of a whole body have more pixels than any scan."""
    monkeypatch.setattr(limits, "MOST_VOXELS", 100)
    drawn = np.random.default_rng(0).integers(0, 2, (5, 8, 8))
    masks = coded(NumberOfFrames=5, Rows=8, Columns=8, BitsAllocated=1, BitsStored=1, HighBit=0)
    masks.PixelData = np.packbits(drawn.ravel(), bitorder="little").tobytes()
    masks["PixelData"].is_undefined_length = False
    masks.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    np.testing.assert_array_equal(pixels_of(masks), drawn)
    masks.NumberOfFrames = 13
    with pytest.raises(ScanError):
        pixels_of(masks)


def test_files_of_the_working_folder_are_no_modules_of_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "numpy", "pydicom"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    dicom_pixels._decoder.close()
    monkeypatch.chdir(tmp_path)
    pixels_of(coded())
    assert not (tmp_path / "ran").exists()
