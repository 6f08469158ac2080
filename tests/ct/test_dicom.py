"""DICOM series: order, scaling, gaps, doubles, mixed folders; and nothing of the patient comes through."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.raw import UnevenScan
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import ScanError

RECIPE = CtRecipe()
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
    assert set(codes(checks)) <= {"thin_slab", "extent_implausible", "no_bone"}, "a small block, nothing else"


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
        read_scan(path, CtRecipe(slice_gaps="refuse"))
    assert caught.value.code == "slice_gap"


def test_doubled_slices_are_dropped(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0)
    write_series(hu + 1, np.arange(8) * 3.0, change=lambda k, data: k in (2, 3))
    scan, checks = read_scan(path, RECIPE)
    assert scan.hu.shape == (20, 16, 8)
    assert set(np.unique(scan.hu - hu[::-1, ::-1])) <= {0, 1}
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
        scan, _ = read_scan(path, CtRecipe(series=wanted))
        assert np.array_equal(scan.hu, hu[::-1, ::-1, :5] + 100)
    with pytest.raises(ScanError) as caught:
        read_scan(path, CtRecipe(series="99"))
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
    first = next(path.iterdir())
    write_series(hu[..., :3], np.arange(3) * 3.0, SeriesInstanceUID="1.2.999.123456789.9")
    said = [str(read_scan(path, RECIPE)[1])]
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(ScanError) as caught:
        read_scan(path, RECIPE)
    assert caught.value.code == "dicom_pixels"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "a traceback would name the file"
    said.append(str(caught.value))
    for wanted in (CtRecipe(series="99"), CtRecipe(slice_gaps="refuse")):
        try:
            said.append(str(read_scan(path, wanted)[1]))
        except ScanError as error:
            said.append(str(error))
    said += [caplog.text, capsys.readouterr().out, capsys.readouterr().err, *(str(w.message) for w in recwarn)]
    assert not [secret for secret in SECRETS for text in said if secret in text]


def compressed(kind: str, data: Any) -> None:
    """Store a slice's pixels without loss in another transfer syntax."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

    if kind == "rle":
        data.compress(RLELossless)
        return
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns)
    encode, syntax = {
        "jpeg 2000": (lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k", reversible=True), JPEG2000Lossless),
        "jpeg-ls": (imagecodecs.jpegls_encode, JPEGLSLossless),
        "jpeg lossless": (lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16), JPEGLosslessSV1),
    }[kind]
    data.PixelData = encapsulate([encode(pixels)])
    data.file_meta.TransferSyntaxUID = syntax
    data["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("kind", ["rle", "jpeg 2000", "jpeg-ls", "jpeg lossless"])
def test_compressed_transfer_syntaxes(kind: str, write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0, change=lambda k, data: compressed(kind, data))
    assert np.array_equal(read_scan(path, RECIPE)[0].hu, hu[::-1, ::-1])


def test_deflated_and_big_and_implicit(write_series: Callable[..., Path]) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

    hu = lps_volume()

    def vary(k: int, data: Any) -> None:
        data.file_meta.TransferSyntaxUID = (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian)[k % 2]

    path = write_series(hu, np.arange(8) * 3.0, change=vary)
    assert np.array_equal(read_scan(path, RECIPE)[0].hu, hu[::-1, ::-1])


def test_multi_frame_object(write_series: Callable[..., Path], tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    hu = lps_volume()
    order = np.random.default_rng(3).permutation(8)

    def gather(k: int, data: Any) -> bool:
        if k:
            return False
        pixels = (hu[:, :, order].transpose(2, 1, 0) + 1024).astype(np.uint16)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        data.NumberOfFrames, data.PixelData = 8, pixels.tobytes()
        shared, measures, turn = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, turn.ImageOrientationPatient = [2.0, 2.0], [1, 0, 0, 0, 1, 0]
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
        data.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for point in order.tolist():
            frame, position, scale = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = [-20, -10, 3.0 * point]
            scale.RescaleSlope, scale.RescaleIntercept = 1, -1024
            frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scale]
            frames.append(frame)
        data.PerFrameFunctionalGroupsSequence = frames
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
            delattr(data, name)
        del data.RescaleIntercept
        return True

    path = write_series(hu, np.arange(8) * 3.0, change=gather)
    one = next(path.iterdir())
    for given in (path, one):
        scan, _ = read_scan(given, RECIPE)
        assert np.array_equal(scan.hu, hu[::-1, ::-1])
        assert np.allclose(scan.spacing_mm, (2, 2, 3))


@pytest.mark.parametrize("axes", [[0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [-1, 0, 0, 0, -1, 0]])
def test_other_planes_than_axial(axes: list[int], write_series: Callable[..., Path]) -> None:
    """Sagittal, coronal and feet-first series: a marked voxel ends up where its slice's header puts it."""
    hu = lps_volume()
    normal = np.cross(axes[:3], axes[3:])

    def turn(k: int, data: Any) -> None:
        data.ImageOrientationPatient = axes
        data.ImagePositionPatient = (3.0 * k * normal).tolist()

    scan, _ = read_scan(write_series(hu, np.arange(8) * 3.0, change=turn), RECIPE)
    column, row, k = 15, 3, 6
    point = np.array(axes[:3]) * 2 * column + np.array(axes[3:]) * 2 * row + 3.0 * k * normal
    index = np.rint(np.linalg.solve(scan.affine, [-point[0], -point[1], point[2], 1])[:3]).astype(int)
    assert scan.hu[tuple(index)] == hu[column, row, k]
    assert sorted(scan.hu.shape) == sorted(hu.shape)


def test_series_without_rescale_is_doubted(write_series: Callable[..., Path]) -> None:
    hu = lps_volume()
    scan, checks = read_scan(write_series(hu, np.arange(8) * 3.0, RescaleIntercept=None, RescaleSlope=None), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1] + 1024)
    assert "no_rescale" in codes(checks)


def test_two_phases_in_one_series_are_not_mixed(write_series: Callable[..., Path]) -> None:
    """Every place twice: all slices come from one acquisition."""
    hu = lps_volume()
    path = write_series(hu, np.arange(8) * 3.0, AcquisitionNumber=2)
    write_series(hu[..., :7] + 300, np.arange(7) * 3.0, AcquisitionNumber=1)
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    said = next(c for c in checks if c.code == "several_volumes")
    assert (said.severity, said.value) == ("warning", 2)
    assert "7, 8 slices" in said.message
    assert "acquisition number" in said.message


def test_slightly_different_headers_are_one_stack(write_series: Callable[..., Path]) -> None:
    """Rounding in the headers of some slices must neither split the stack nor make it look uneven."""
    hu = lps_volume()

    def jitter(k: int, data: Any) -> None:
        data.ImageOrientationPatient = [0.995, 0.0998 + 1e-4 * (k % 2), 0, -0.0998, 0.995, 0]
        data.PixelSpacing = [2.0 + 1e-4 * (k % 2), 2.0]
        data.ImagePositionPatient = [-20, -10, 3.0 * k + 0.01 * (k % 3)]

    path = write_series(hu, np.arange(8) * 3.0, change=jitter)
    write_series(hu, np.arange(8) * 3.0, change=lambda k, data: False if k != 4 else jitter(4, data))
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert not {"slice_gap", "mixed_orientation"} & set(codes(checks))
    assert next(c for c in checks if c.code == "doubled_slices").value == 1
