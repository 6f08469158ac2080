"""Files that cannot become a volume: each is refused with its own code and a clear line without a patient in it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError, ScanError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

RECIPE = CtRecipe()
SECRETS = ("SECRET", "19870605", "1.2.999.123456789")
SHAPE = (12, 13, 14)
AFFINE = np.diag([3.0, 3, 3, 1])


def sound() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def plain(array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> bytes:
    """Bytes of an uncompressed NIfTI file."""
    return nib.Nifti1Image(sound() if array is None else array, affine).to_bytes()


def header(**values: Any) -> bytes:
    """A sound NIfTI file with some header fields overwritten."""
    data = bytearray(plain())
    fields = np.frombuffer(data, nib.Nifti1Header.template_dtype, count=1)[0:1]
    for name, value in values.items():
        fields[name] = value
    return bytes(data)


def with_nan(share: float) -> np.ndarray:
    array = sound().astype(np.float32)
    array.ravel()[: int(array.size * share)] = np.nan
    return array


def damaged_zip() -> bytes:
    data = bytearray(gzip.compress(plain(), mtime=0))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    return bytes(data)


def nrrd(**changes: str) -> bytes:
    lines = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "12 13 14",
        "space directions": "(3,0,0) (0,3,0) (0,0,3)", "kinds": "domain domain domain", "endian": "little",
        "encoding": "raw", "space origin": "(0,0,0)", **changes,
    }  # fmt: skip
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items() if value) + "\n"
    return text.encode() + sound().tobytes(order="F")


FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty zipped": ("a.nii.gz", lambda: b"", "file_empty"),
    "empty plain": ("a.nii", lambda: b"", "file_empty"),
    "zip cut short": ("a.nii.gz", lambda: gzip.compress(plain())[:-900], "file_truncated"),
    "zip cut in its tail": ("a.nii.gz", lambda: gzip.compress(plain())[:-4], "file_truncated"),
    "zip of a few bytes": ("a.nii.gz", lambda: gzip.compress(plain())[:3], "file_truncated"),
    "zip cut in its second member": ("a.nii.gz", lambda: gzip.compress(plain()[:900]) * 2 + b"\x1f", "file_truncated"),
    "zip with other things behind it": ("a.nii.gz", lambda: gzip.compress(plain()) + b"junk" * 9, "file_damaged"),
    "zip of a cut file": ("a.nii.gz", lambda: gzip.compress(plain()[:-900]), "file_truncated"),
    "plain cut short": ("a.nii", lambda: plain()[:-900], "file_truncated"),
    "header alone": ("a.nii", lambda: plain()[:352], "file_truncated"),
    "zip with a hole": ("a.nii.gz", damaged_zip, "file_damaged"),
    "text in a NIfTI name": ("a.nii.gz", lambda: b"404 not found", "not_an_image"),
    "zipped text": ("a.nii.gz", lambda: gzip.compress(b"404 not found" * 90), "not_an_image"),
    "half a header": ("a.nii", lambda: plain()[:200], "not_an_image"),
    "header of a pair": ("a.nii", lambda: header(magic=b"ni1"), "not_an_image"),
    "another format": ("a.png", lambda: b"\x89PNG\r\n", "not_an_image"),
    "no format": ("a.dcm", lambda: bytes(400), "not_an_image"),
    "four dimensions": ("a.nii", lambda: plain(np.stack([sound()] * 2, -1)), "image_4d"),
    "two dimensions": ("a.nii", lambda: plain(sound()[0]), "image_2d"),
    "one slice": ("a.nii", lambda: plain(sound()[..., :1]), "image_2d"),
    "no voxels": ("a.nii", lambda: header(dim=[3, 12, 0, 14, 1, 1, 1, 1]), "image_2d"),
    "a negative size": ("a.nii", lambda: header(dim=[3, 12, -13, 14, 1, 1, 1, 1]), "image_2d"),
    "complex numbers": ("a.nii", lambda: plain(sound().astype(np.complex64)), "not_scalar"),
    "colours": ("a.nii", lambda: plain(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "not_scalar"),
    "an unknown type": ("a.nii", lambda: header(datatype=999), "bad_header"),
    "all NaN": ("a.nii", lambda: plain(with_nan(1)), "not_finite"),
    "mostly NaN": ("a.nii", lambda: plain(with_nan(0.6)), "not_finite"),
    "infinite": ("a.nii", lambda: plain(np.full(SHAPE, np.inf, np.float32)), "not_finite"),
    "one value": ("a.nii", lambda: plain(np.full(SHAPE, -1024, np.int16)), "image_constant"),
    "infinite intercept": ("a.nii", lambda: header(scl_slope=1, scl_inter=np.inf), "bad_header"),
    "flat affine": ("a.nii", lambda: header(srow_z=[0, 0, 0, 0], sform_code=1), "bad_affine"),
    "NaN affine": ("a.nii", lambda: header(srow_x=[np.nan, 0, 0, 0], sform_code=1), "bad_affine"),
    "metres": ("a.nii", lambda: plain(affine=np.diag([0.003, 0.003, 0.003, 1])), "spacing_implausible"),
    "micrometres": ("a.nii", lambda: plain(affine=np.diag([3000.0, 3000, 3000, 1])), "spacing_implausible"),
    "data beyond the end": ("a.nii", lambda: header(vox_offset=1e6), "file_truncated"),
    "empty NRRD": ("a.nrrd", lambda: b"", "file_empty"),
    "text in an NRRD name": ("a.nrrd", lambda: b"no NRRD", "not_an_image"),
    "NRRD cut short": ("a.nrrd", lambda: nrrd()[:-900], "file_truncated"),
    "NRRD cut in its header": ("a.nrrd", lambda: nrrd()[:90], "bad_header"),
    "NRRD of an unknown type": ("a.nrrd", lambda: nrrd(type="cheese"), "bad_header"),
    "NRRD without sizes": ("a.nrrd", lambda: nrrd(sizes=""), "bad_header"),
    "NRRD of vectors": (
        "a.nrrd",
        lambda: nrrd(
            dimension="4", sizes="2 6 13 14", kinds="vector domain domain domain",
            **{"space directions": "none (3,0,0) (0,3,0) (0,0,3)"},
        ),
        "image_4d",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_broken_file(name: str, tmp_path: Path, organs: OrganDictionary) -> None:
    file, content, code = FILES[name]
    path = tmp_path / file
    path.write_bytes(content())
    with pytest.raises(ScanError) as caught:
        read_scan(path, RECIPE)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    with pytest.raises(MaskError):
        read_masks(path, Scan(sound(), AFFINE), RECIPE, organs)


def test_a_sound_file_of_each_kind_is_read(tmp_path: Path) -> None:
    """The writers above break sound files, not files that fail anyway."""
    for name, content in (
        ("a.nii", plain()),
        ("b.nii.gz", gzip.compress(plain())),
        ("c.nrrd", nrrd()),
        ("d.nii", header()),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_scan(tmp_path / name, RECIPE)[0].hu.shape == SHAPE


def test_missing_file_and_segmentation_as_scan(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    image.SetMetaData("Segment0_Name", "liver")
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    for path, code in ((tmp_path / "gone.nii.gz", "no_file"), (tmp_path / "a.seg.nrrd", "not_a_scan")):
        with pytest.raises(ScanError) as caught:
            read_scan(path, RECIPE)
        assert caught.value.code == code


def bad_pixels(k: int, data: Any) -> None:
    data.PixelData = data.PixelData[:-50]


def without(name: str) -> Callable[[int, Any], None]:
    def change(k: int, data: Any) -> None:
        delattr(data, name)

    return change


def turned(k: int, data: Any) -> None:
    if k % 2:
        data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def narrow(k: int, data: Any) -> None:
    if k == 3:
        data.Columns = 10
        data.PixelData = data.PixelData[: 10 * 16 * 2]


def shifted(k: int, data: Any) -> None:
    data.ImagePositionPatient = [-20 + 15 * (k > 3), -10, 3.0 * k]


def coloured(k: int, data: Any) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = bytes(data.Rows * data.Columns * 3)


def false_compression(k: int, data: Any) -> None:
    from pydicom.encaps import encapsulate

    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])


def unknown_syntax(k: int, data: Any) -> None:
    data.file_meta.TransferSyntaxUID = "1.2.999.123456789.3"


def many_frames(k: int, data: Any) -> None:
    data.NumberOfFrames = 2
    data.PixelData = data.PixelData * 2


def flat(k: int, data: Any) -> None:
    data.PixelData = bytes(len(data.PixelData))


SERIES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another modality": (None, {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "no_ct"),
    "a name in the modality": (None, {"Modality": "SECRET^NAME", "SOPClassUID": "1.2.3"}, "no_ct"),
    "no positions": (without("ImagePositionPatient"), {}, "dicom_geometry"),
    "no orientation": (without("ImageOrientationPatient"), {}, "dicom_geometry"),
    "no pixel spacing": (without("PixelSpacing"), {}, "dicom_geometry"),
    "pixel spacing of zero": (None, {"PixelSpacing": [0, 0]}, "dicom_geometry"),
    "orientation of zeros": (None, {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "dicom_geometry"),
    "slanted orientation": (None, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "dicom_geometry"),
    "localizers alone": (None, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "dicom_geometry"),
    "frames without positions": (many_frames, {}, "dicom_geometry"),
    "mixed orientations": (turned, {}, "mixed_orientation"),
    "mixed sizes": (narrow, {}, "slice_sizes"),
    "shifted slices": (shifted, {}, "slices_shifted"),
    "pixels cut short": (bad_pixels, {}, "dicom_pixels"),
    "no pixels": (without("PixelData"), {}, "dicom_pixels"),
    "false compression": (false_compression, {}, "dicom_pixels"),
    "an unknown transfer syntax": (unknown_syntax, {}, "dicom_pixels"),
    "colours": (coloured, {}, "not_scalar"),
    "one value": (flat, {}, "image_constant"),
    "pixels of no size": (None, {"PixelSpacing": [1e-4, 1e-4]}, "spacing_implausible"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("name", SERIES)
def test_broken_series(name: str, write_series: Callable[..., Path]) -> None:
    change, values, code = SERIES[name]
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 16, 8)).astype(np.int16)
    path = write_series(hu, np.arange(8) * 3.0, change=change, **values)
    with pytest.raises(ScanError) as caught:
        read_scan(path, RECIPE)
    assert caught.value.code == code
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


@pytest.mark.parametrize(
    ("heights", "code"),
    [([0.0], "single_slice"), ([0, 3, 6, 90, 93, 96], "slice_gap"), ([5.0, 5.0, 5.0], "same_position")],
)
def test_series_with_too_little(heights: list[float], code: str, write_series: Callable[..., Path]) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 16, len(heights))).astype(np.int16)
    with pytest.raises(ScanError) as caught:
        read_scan(write_series(hu, heights), RECIPE)
    assert caught.value.code == code


def test_folders_without_a_series(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no DICOM")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 500)
    for name, code in (("empty", "folder_empty"), ("text", "not_dicom"), ("broken", "dicom_damaged")):
        with pytest.raises(ScanError) as caught:
            read_scan(tmp_path / name, RECIPE)
        assert caught.value.code == code, name


def test_one_damaged_slice_is_counted_and_bridged(write_series: Callable[..., Path]) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 16, 8)).astype(np.int16)
    path = write_series(hu, np.arange(8) * 3.0)
    middle = sorted(path.iterdir())[3]
    middle.write_bytes(middle.read_bytes()[:132] + b"\xff" * 400)
    try:
        codes = {check.code for check in read_scan(path, RECIPE)[1]}
    except ScanError as error:  # the slice at either end leaves no gap
        codes = {error.code}
    assert "dicom_damaged" in codes
