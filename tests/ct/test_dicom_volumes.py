"""What one series may hold beside the volume that is wanted; and folders as they really are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import ScanError
from ctglip.files import file_checksum
from tests.ct.test_dicom import codes, lps_volume

RECIPE = CtRecipe()
HEIGHTS = np.arange(8) * 3.0
Write = Callable[..., Path]


def after(count: int) -> Callable[[int, Any], None]:
    """Image numbers that go on after ``count`` others."""

    def change(k: int, data: Any) -> None:
        data.InstanceNumber = count + k + 1

    return change


PHASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "acquisitions": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, "acquisition number"),
    "temporal positions": (
        {"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "temporal position",
    ),
    "cardiac phases": (
        {"NominalPercentageOfCardiacPhase": 40}, {"NominalPercentageOfCardiacPhase": 75}, "cardiac phase",
    ),
    "trigger times": ({"TriggerTime": "100"}, {"TriggerTime": "600"}, "trigger time"),
    "kernels": ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}, "kernel"),
    "contrast": ({}, {"ContrastBolusAgent": "SECRET^NAME 300"}, "contrast agent"),
    "tube voltages": ({"KVP": "80"}, {"KVP": "140"}, "tube voltage"),
    "times": ({"AcquisitionTime": "101500"}, {"AcquisitionTime": "101600"}, "acquisition time"),
    "patients": ({"PatientID": "SECRETA"}, {"PatientID": "SECRETB"}, "the patient"),
    "frames of reference": ({}, {"FrameOfReferenceUID": "1.2.999.123456789.8"}, "frame of reference"),
    "order alone": ({}, {}, "the order of the images"),
}  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 1.5, 0.7])
@pytest.mark.parametrize("name", PHASES)
def test_two_volumes_in_one_series_are_never_shuffled(name: str, offset: float, write_series: Write) -> None:
    first, second, told = PHASES[name]
    hu = lps_volume()
    path = write_series(hu, HEIGHTS, **first)
    write_series(hu[..., :7] + 300, HEIGHTS[:7] + offset, change=after(8), **second)
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1]), "all eight of the fuller one"
    said = next(check for check in checks if check.code == "several_volumes")
    assert (said.severity, said.value) == ("warning", 2)
    assert "(8, 7 slices)" in said.message
    assert "with 8 slices" in said.message
    assert told in said.message
    assert "SECRET" not in said.message


@pytest.mark.parametrize("second", [2, 1])
def test_of_equal_volumes_the_first_is_read(second: int, write_series: Write) -> None:
    hu = lps_volume()
    path = write_series(hu, HEIGHTS, AcquisitionNumber=3 - second)
    write_series(hu + 300, HEIGHTS + 1, change=after(8), AcquisitionNumber=second)
    scan, _ = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, (hu + 300 * (second == 1))[::-1, ::-1])


def test_many_times_of_few_slices(write_series: Write) -> None:
    """A perfusion series: five times of four slices, the third with one slice more."""
    hu = lps_volume(5)
    for time in range(5):
        count = 4 + (time == 2)
        path = write_series(
            hu[..., :count] + time, HEIGHTS[:count], change=after(10 * time), TemporalPositionIdentifier=time + 1
        )
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1] + 2)
    assert next(check for check in checks if check.code == "several_volumes").value == 5


@pytest.mark.parametrize("each", [1, 2, 4])
def test_blocks_of_one_scan_stay_together(each: int, write_series: Write) -> None:
    """Step and shoot: every block of slices has its own acquisition number and time."""
    hu = lps_volume()

    def number(k: int, data: Any) -> None:
        data.AcquisitionNumber = k // each + 1
        data.AcquisitionTime = f"1015{k // each:02d}"

    scan, checks = read_scan(write_series(hu, HEIGHTS, change=number), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert "several_volumes" not in codes(checks)


def test_trigger_times_of_every_slice_are_one_volume(write_series: Write) -> None:
    hu = lps_volume()

    def beat(k: int, data: Any) -> None:
        data.TriggerTime, data.ContentTime = str(600 + 7 * (k * 5 % 8)), f"1015{k:02d}"

    scan, checks = read_scan(write_series(hu, HEIGHTS, change=beat), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    assert "several_volumes" not in codes(checks)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (["DERIVED", "PRIMARY", "MIP"], "projections"),
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"], "projections"),
        (["DERIVED", "SECONDARY", "MPR"], "derived_images"),
        (["ORIGINAL", "PRIMARY", "AXIAL", "PBV"], "projections"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "projections"),
    ],
)
def test_derived_images_are_left_out_of_a_series_with_originals(
    kind: list[str], code: str, write_series: Write
) -> None:
    hu = lps_volume()
    path = write_series(hu, HEIGHTS)
    write_series(np.concatenate([hu + 500, hu], 2), np.arange(16) * 1.5, change=after(8), ImageType=kind)
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    said = next(check for check in checks if check.code == code)
    assert (said.severity, said.value) == ("warning", 16)


def test_a_series_of_reformats_is_read_and_one_of_projections_is_not(write_series: Write) -> None:
    hu = lps_volume()
    scan, _ = read_scan(write_series(hu, HEIGHTS, "mpr", ImageType=["DERIVED", "PRIMARY", "AXIAL"]), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    with pytest.raises(ScanError) as caught:
        read_scan(write_series(hu, HEIGHTS, "mip", ImageType=["DERIVED", "SECONDARY", "MIP"]), RECIPE)
    assert caught.value.code == "no_volume"
    assert "8 images" in caught.value.message


def test_all_positions_equal_says_so(write_series: Write) -> None:
    hu = lps_volume()
    with pytest.raises(ScanError, match=r"All 8 slices .* same position \(-20, -10, 5 mm\)") as caught:
        read_scan(write_series(hu, np.full(8, 5.0)), RECIPE)
    assert caught.value.code == "same_position"


def test_gaps_are_counted_and_placed(write_series: Write) -> None:
    hu = lps_volume(12)
    path = write_series(hu, np.arange(12) * 3.0, change=lambda k, _: k not in (3, 7, 8))
    said = next(check for check in read_scan(path, RECIPE)[1] if check.code == "slice_gap").message
    for part in (
        "The 9 slices",
        "3 mm apart",
        "at most 9 mm",
        "3 seem missing, in 2 gaps",
        "6.0 to 12.0, 18.0 to 27.0",
    ):
        assert part in said
    with pytest.raises(ScanError, match="3 seem missing"):
        read_scan(path, CtRecipe(slice_gaps="refuse"))


@pytest.mark.parametrize("cut", [132, 128])
@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_files_without_preamble_or_prefix(cut: int, syntax: str, write_series: Write) -> None:
    from pydicom.uid import ImplicitVRLittleEndian

    def change(_: int, data: Any) -> None:
        if syntax == "implicit":
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    hu = lps_volume()
    path = write_series(hu, HEIGHTS, change=change)
    for file in path.iterdir():
        data = file.read_bytes()
        file.write_bytes(data[132:] if cut == 132 else bytes(128) + data[128:])
    scan, checks = read_scan(path, RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    noticed = [check.value for check in checks if check.code == "no_prefix"]
    assert noticed == ([len(hu.T)] if cut == 132 else [])


def test_bare_data_sets_without_a_file_header(write_series: Write) -> None:
    """As an archive's memory dump leaves them: not even the transfer syntax is there."""
    import io

    import pydicom
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    hu = lps_volume()
    path = write_series(hu, HEIGHTS)
    for k, file in enumerate(sorted(path.iterdir())):
        data = pydicom.dcmread(file)
        buffer = DicomBytesIO(io.BytesIO().getvalue())
        buffer.is_implicit_VR, buffer.is_little_endian = bool(k % 2), True
        bare = pydicom.Dataset(data)
        write_dataset(buffer, bare)
        file.write_bytes(buffer.getvalue())
    assert np.array_equal(read_scan(path, RECIPE)[0].hu, hu[::-1, ::-1])


def test_links_to_files_and_folders_are_followed(write_series: Write, tmp_path: Path) -> None:
    hu = lps_volume()
    real = write_series(hu, HEIGHTS)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "series").symlink_to(real)
    (linked / "again").symlink_to(linked)
    assert np.array_equal(read_scan(linked, RECIPE)[0].hu, hu[::-1, ::-1])
    files = tmp_path / "files"
    files.mkdir()
    for file in real.iterdir():
        (files / file.name).symlink_to(file)
    (files / "gone.dcm").symlink_to(tmp_path / "nowhere")
    assert np.array_equal(read_scan(files, RECIPE)[0].hu, hu[::-1, ::-1])
    before = file_checksum(linked)
    next(real.iterdir()).write_bytes(b"changed")
    assert file_checksum(linked) != before


def test_times_of_a_multi_frame_object(write_series: Write) -> None:
    """Two times of four places in one file, told apart by the frames' own headers."""
    from pydicom.dataset import Dataset

    hu = lps_volume()

    def gather(k: int, data: Any) -> bool:
        if k:
            return False
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        data.NumberOfFrames = 8
        data.PixelData = (hu.transpose(2, 1, 0) + 1024).astype(np.uint16).tobytes()
        data.SharedFunctionalGroupsSequence = [Dataset()]
        frames = []
        for frame in range(8):
            one, position, content = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = [-20, -10, 3.0 * (frame // 2)]
            content.TemporalPositionIndex = frame % 2 + 1
            one.PlanePositionSequence, one.FrameContentSequence = [position], [content]
            frames.append(one)
        data.PerFrameFunctionalGroupsSequence = frames
        return True

    scan, checks = read_scan(write_series(hu, HEIGHTS, change=gather), RECIPE)
    assert np.array_equal(scan.hu, hu[::-1, ::-1, ::2]), "the first time"
    assert "temporal position" in next(check for check in checks if check.code == "several_volumes").message
