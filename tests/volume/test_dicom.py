"""DICOM series: order, scaling, gaps, doubles, mixed folders; and nothing of the patient comes through."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctglip.errors import ScanError
from ctglip.volume.io import read_scan
from ctglip.volume.raw import UnevenScan
from ctglip.volume.recipe import VolumeRecipe

RECIPE = VolumeRecipe()
SECRETS = ("SECRET", "19870605", "1.2.999.123456789")


def lps_volume(slices: int = 8) -> np.ndarray:
    """int16 ``[x, y, z]`` in DICOM's own order: x to the left, y to the back."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-60, 60, (20, 16, slices)).astype(np.int16)
    hu[:4] = -1000
    hu[15, 3] = 900
    hu += (np.arange(slices) * 10).astype(np.int16)
    return hu


def codes(checks: Any) -> list[str]:
    return [check.code for check in checks]


def test_series_is_read_exactly_in_ras(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    scan, checks = read_scan(write_series(hu, np.arange(8) * 3.0), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert np.allclose(scan.spacing_mm, (2, 2, 3))
    assert np.allclose(scan.affine @ [19, 15, 0, 1], [20, 10, 0, 1]), "the first DICOM pixel, in RAS"
    assert not [c for c in checks if c.severity != "info"]


def test_order_of_files_and_numbers_does_not_matter(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    order = np.random.default_rng(1).permutation(8)

    def renumber(k: int, data: Any) -> None:
        data.InstanceNumber = int(order[k])

    scan, _ = read_scan(write_series(hu, 30 - np.arange(8) * 3.0, change=renumber), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1, ::-1])


def test_scaling_is_per_slice(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()

    def rescale(k: int, data: Any) -> None:
        if k % 2:
            pixels = np.frombuffer(data.PixelData, np.uint16).astype(np.int32)
            data.PixelData = ((pixels - 1024 + 2000) * 2).astype(np.uint16).tobytes()
            data.RescaleSlope, data.RescaleIntercept = 0.5, -2000

    scan, _ = read_scan(write_series(hu, np.arange(8) * 3.0, change=rescale), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])


def test_a_missing_slice_is_interpolated_or_refused(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0, change=lambda k, data: k != 4)
    scan, checks = read_scan(path, RECIPE)
    assert isinstance(scan, UnevenScan)
    assert scan.hu.shape[2] == 8
    assert scan.slices is not None
    assert np.allclose(scan.slices, [0, 1, 2, 3, 5, 6, 7])
    kept = [0, 1, 2, 3, 5, 6, 7]
    assert np.array_equal(scan.hu[..., kept], hu[::-1, ::-1, kept])
    between = np.rint((hu[..., 3].astype(float) + hu[..., 5]) / 2)
    assert np.abs(scan.hu[..., 4] - between[::-1, ::-1]).max() <= 0.5
    gap = next(c for c in checks if c.code == "slice_gap")
    assert gap.severity == "warning"
    assert gap.value == pytest.approx(6)
    with pytest.raises(ScanError) as caught:
        read_scan(path, VolumeRecipe(slice_gaps="refuse"))
    assert caught.value.code == "slice_gap"


def test_doubled_slices_are_dropped(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0)
    write_series(hu + 1, np.arange(8) * 3.0, change=lambda k, data: k in (2, 3), AcquisitionNumber=9)
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert next(c for c in checks if c.code == "doubled_slices").value == 2


def test_one_series_of_several_is_chosen_and_named(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0)
    other = {"SeriesInstanceUID": "1.2.999.123456789.77", "SeriesNumber": 5, "SeriesDescription": "lung sharp"}
    write_series(hu[..., :5] + 100, np.arange(5) * 4.0, **other)
    largest, checks = read_scan(path, RECIPE)
    assert np.array_equal(largest.hu, hu[::-1, ::-1])
    said = next(c for c in checks if c.code == "several_series")
    assert "number 3 with 8 slices" in said.message
    assert "number 5 with 5 slices" in said.message
    for wanted in ("5", "Lung", "sharp"):
        scan, _ = read_scan(path, VolumeRecipe(series=wanted))
        assert np.array_equal(scan.hu, hu[::-1, ::-1, :5] + 100)
    with pytest.raises(ScanError) as caught:
        read_scan(path, VolumeRecipe(series="99"))
    assert caught.value.code == "no_such_series"


def test_localizers_and_other_objects_are_left_out(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0)
    write_series(hu, [50.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(hu, [60.0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    write_series(hu, [60.0], Modality="SR", SOPClassUID="1.2.3", SeriesInstanceUID="1.2.999.123456789.5")
    (path / "notes.txt").write_text("no image")
    (path / "DICOMDIR").write_bytes(b"x")
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert {"localizers", "mixed_orientation", "other_files"} <= set(codes(checks))


def test_gantry_tilt_is_straightened(write_series: Callable[..., Path]) -> None:
    hu = np.full((20, 40, 8), -1000, np.int16)
    hu[8:12, 18:22] = 500  # a rod across the slices: slanted in space
    tilt = np.tan(np.radians(20))

    def slant(k: int, data: Any) -> None:
        data.ImagePositionPatient = [-20, -10 + 4 * k * tilt, 4.0 * k]

    scan, checks = read_scan(write_series(hu, np.arange(8) * 4.0, change=slant), RECIPE)
    assert next(c for c in checks if c.code == "gantry_tilt").value == pytest.approx(20, abs=0.01)
    rod = [np.argwhere(scan.hu[:, :, k] > 0).mean(0) for k in (1, 6)]
    rise = (rod[0][1] - rod[1][1]) * scan.spacing_mm[1] / (5 * scan.spacing_mm[2])
    assert rise == pytest.approx(tilt, abs=0.05)


def test_padding_becomes_air(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()

    def pad(k: int, data: Any) -> None:
        pixels = np.frombuffer(data.PixelData, np.uint16).copy()
        pixels[:7] = 63536
        data.PixelData = pixels.tobytes()
        data.PixelPaddingValue = 63536

    scan, checks = read_scan(write_series(hu, np.arange(8) * 3.0, change=pad), RECIPE)
    assert scan.hu.max() < 2000
    assert (scan.hu == -1024).sum() == 7 * 8
    assert "padding" in codes(checks)


def test_nothing_of_the_patient_leaves(
    write_series: Callable[..., Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0)
    write_series(hu[..., :3], np.arange(3) * 3.0, SeriesInstanceUID="1.2.999.123456789.9")
    said = [str(read_scan(path, RECIPE)[1])]
    first = next(path.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(ScanError) as caught:
        read_scan(path, RECIPE)
    assert caught.value.code == "dicom_pixels"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "a traceback would name the file"
    said.append(str(caught.value))
    for wanted in (VolumeRecipe(series="99"), VolumeRecipe(slice_gaps="refuse")):
        try:
            said.append(str(read_scan(path, wanted)[1]))
        except ScanError as error:
            said.append(str(error))
    said += [caplog.text, capsys.readouterr().out, capsys.readouterr().err, *(str(w.message) for w in recwarn)]
    assert not [secret for secret in SECRETS for text in said if secret in text]
