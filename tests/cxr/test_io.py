"""Radiographs from disk: what is bright stays bright, whatever the file calls it; broken ones give codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ctglip.cxr.io import read_radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.views import view_of
from ctglip.errors import CTGLIPError, ScanError

RECIPE = CxrRecipe(size=64)
Writer = Callable[..., Path]


def same(found: np.ndarray, phantom: np.ndarray) -> bool:
    """Equal up to a linear scale."""
    return bool(np.corrcoef(found.ravel(), phantom.astype(float).ravel())[0, 1] > 0.999)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures(phantom: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"radiograph.{suffix}"
    Image.fromarray((phantom / 16).astype(np.uint8)).save(path, quality=95)
    radiograph, checks = read_radiograph(path, RECIPE)
    assert radiograph.pixels.shape == phantom.shape
    assert same(radiograph.pixels, phantom)
    assert (radiograph.view, radiograph.spacing_mm, checks) == (None, None, ())


def test_sixteen_bits_of_a_png_are_kept(phantom: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(phantom).save(tmp_path / "radiograph.png")
    np.testing.assert_array_equal(read_radiograph(tmp_path / "radiograph.png", RECIPE)[0].pixels, phantom)


def test_grey_in_three_channels_is_grey_and_colour_is_noticed(phantom: np.ndarray, tmp_path: Path) -> None:
    eight = (phantom / 16).astype(np.uint8)
    Image.fromarray(np.stack([eight] * 3, 2)).save(tmp_path / "grey.png")
    radiograph, checks = read_radiograph(tmp_path / "grey.png", RECIPE)
    assert same(radiograph.pixels, phantom)
    assert checks == ()
    colour = np.stack([eight, eight, eight // 3], 2)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert [check.code for check in read_radiograph(tmp_path / "colour.png", RECIPE)[1]] == ["cxr_colour"]


def test_monochrome1_is_turned_over(phantom: np.ndarray, write_dicom: Writer) -> None:
    path = write_dicom(4095 - phantom, PhotometricInterpretation="MONOCHROME1")
    radiograph, _ = read_radiograph(path, RECIPE)
    assert same(radiograph.pixels, phantom)
    assert radiograph.view == "pa"
    assert radiograph.spacing_mm == (0.2, 0.2)


@pytest.mark.parametrize("bits", [12, 16])
def test_stored_bits(phantom: np.ndarray, write_dicom: Writer, bits: int) -> None:
    scaled = phantom.astype(np.uint32) << (bits - 12)
    assert same(read_radiograph(write_dicom(scaled, bits=bits), RECIPE)[0].pixels, phantom)


def test_the_proposed_window_is_used_unless_percentiles_are_wanted(phantom: np.ndarray, write_dicom: Writer) -> None:
    path = write_dicom(phantom, WindowCenter=2000, WindowWidth=1000)
    radiograph, _ = read_radiograph(path, RECIPE)
    assert radiograph.window is not None
    shown = (radiograph.pixels - radiograph.window[0]) / (radiograph.window[1] - radiograph.window[0])
    assert shown[phantom < 1400].max() < 0.01
    assert shown[phantom > 2600].min() > 0.99
    assert read_radiograph(path, CxrRecipe(window="percentile"))[0].window is None


def test_a_lookup_table_is_applied(phantom: np.ndarray, write_dicom: Writer) -> None:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.LUTData = (np.sqrt(np.arange(4096) / 4095) * 65535).astype(np.uint16).tobytes()
    lut.add_new(0x00283006, "OW", lut.LUTData)
    radiograph, checks = read_radiograph(write_dicom(phantom, VOILUTSequence=Sequence([lut])), RECIPE)
    np.testing.assert_allclose(radiograph.pixels, np.sqrt(phantom / 4095) * 65535, atol=2)
    assert checks == ()


def test_padding_becomes_black(phantom: np.ndarray, write_dicom: Writer) -> None:
    padded = phantom.copy()
    padded[:, :15] = 4095
    padded[padded == 4095] = 4095
    radiograph, checks = read_radiograph(write_dicom(padded, PixelPaddingValue=4095), RECIPE)
    assert radiograph.pixels[:, :15].max() == radiograph.pixels.min()
    assert "padding" in {check.code for check in checks}


def test_raw_cxr_are_noticed(phantom: np.ndarray, write_dicom: Writer) -> None:
    _, checks = read_radiograph(write_dicom(phantom, PresentationIntentType="FOR PROCESSING"), RECIPE)
    assert [check.code for check in checks] == ["cxr_raw"]


BROKEN: dict[str, Callable[[Path, np.ndarray, Writer], Path]] = {}


def broken(code: str) -> Callable:
    return lambda make: BROKEN.setdefault(code, make)


@broken("no_file")
def _none(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    return folder / "absent.png"


@broken("file_empty")
def _empty(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


@broken("file_truncated")
def _truncated(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    Image.fromarray(phantom).save(folder / "cut.png")
    data = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    return folder / "cut.png"


@broken("not_an_image")
def _text(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    (folder / "text.jpg").write_text("no picture at all")
    return folder / "text.jpg"


@broken("image_constant")
def _constant(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(folder / "flat.png")
    return folder / "flat.png"


@broken("cxr_size")
def _tiny(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    Image.fromarray(phantom[:8, :8]).save(folder / "tiny.png")
    return folder / "tiny.png"


@broken("not_dicom")
def _no_dicom(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    (folder / "fake.dcm").write_bytes(b"x" * 500)
    return folder / "fake.dcm"


@broken("not_a_radiograph")
def _ct(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    return write(phantom, Modality="CT")


@broken("cxr_frames")
def _frames(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    return write(np.stack([phantom, phantom]))


@broken("dicom_pixels")
def _short(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    path = write(phantom)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


@pytest.mark.parametrize("code", BROKEN)
def test_broken_cxr_give_codes_and_no_secrets(
    code: str, tmp_path: Path, phantom: np.ndarray, write_dicom: Writer
) -> None:
    with pytest.raises(ScanError) as caught:
        read_radiograph(BROKEN[code](tmp_path, phantom, write_dicom), RECIPE)
    assert caught.value.code == code
    assert "secret" not in str(caught.value).lower()
    assert str(tmp_path) not in str(caught.value)


def test_errors_are_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError):
        read_radiograph(tmp_path, RECIPE)


@pytest.mark.parametrize(
    ("text", "view"),
    [("PA", "pa"), ("AP Supine", "ap"), ("AP_horizontal", "ap"), ("LL", "lateral"), ("Lateral", "lateral"),
     ("L", "lateral"), ("Frontal", "frontal"), ("POSTERO_ANTERIOR", "pa"), ("antero-posterior", "ap"),
     ("LLDECUB", "lateral"), ("XYZ", None), ("", None), (None, None)],
)  # fmt: skip
def test_views(text: str | None, view: str | None) -> None:
    assert view_of(text) == view
