"""Films from disk: what is bright stays bright, whatever the file calls it; broken ones give codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ctglip.errors import CTGLIPError, ScanError
from ctglip.film.io import read_film
from ctglip.film.recipe import FilmRecipe
from ctglip.film.views import view_of

RECIPE = FilmRecipe(size=64)
Writer = Callable[..., Path]


def same(found: np.ndarray, phantom: np.ndarray) -> bool:
    """Equal up to a linear scale."""
    return bool(np.corrcoef(found.ravel(), phantom.astype(float).ravel())[0, 1] > 0.999)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures(phantom: np.ndarray, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    Image.fromarray((phantom / 16).astype(np.uint8)).save(path, quality=95)
    film, checks = read_film(path, RECIPE)
    assert film.pixels.shape == phantom.shape
    assert same(film.pixels, phantom)
    assert (film.view, film.spacing_mm, checks) == (None, None, ())


def test_sixteen_bits_of_a_png_are_kept(phantom: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(phantom).save(tmp_path / "film.png")
    np.testing.assert_array_equal(read_film(tmp_path / "film.png", RECIPE)[0].pixels, phantom)


def test_grey_in_three_channels_is_grey_and_colour_is_noticed(phantom: np.ndarray, tmp_path: Path) -> None:
    eight = (phantom / 16).astype(np.uint8)
    Image.fromarray(np.stack([eight] * 3, 2)).save(tmp_path / "grey.png")
    film, checks = read_film(tmp_path / "grey.png", RECIPE)
    assert same(film.pixels, phantom)
    assert checks == ()
    colour = np.stack([eight, eight, eight // 3], 2)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert [check.code for check in read_film(tmp_path / "colour.png", RECIPE)[1]] == ["film_colour"]


def test_monochrome1_is_turned_over(phantom: np.ndarray, write_dicom: Writer) -> None:
    path = write_dicom(4095 - phantom, PhotometricInterpretation="MONOCHROME1")
    film, _ = read_film(path, RECIPE)
    assert same(film.pixels, phantom)
    assert film.view == "pa"
    assert film.spacing_mm == (0.2, 0.2)


@pytest.mark.parametrize("bits", [12, 16])
def test_stored_bits(phantom: np.ndarray, write_dicom: Writer, bits: int) -> None:
    scaled = phantom.astype(np.uint32) << (bits - 12)
    assert same(read_film(write_dicom(scaled, bits=bits), RECIPE)[0].pixels, phantom)


def test_the_proposed_window_is_used_unless_percentiles_are_wanted(phantom: np.ndarray, write_dicom: Writer) -> None:
    path = write_dicom(phantom, WindowCenter=2000, WindowWidth=1000)
    film, _ = read_film(path, RECIPE)
    assert film.window is not None
    shown = (film.pixels - film.window[0]) / (film.window[1] - film.window[0])
    assert shown[phantom < 1400].max() < 0.01
    assert shown[phantom > 2600].min() > 0.99
    assert read_film(path, FilmRecipe(window="percentile"))[0].window is None


def test_a_lookup_table_is_applied(phantom: np.ndarray, write_dicom: Writer) -> None:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.LUTData = (np.sqrt(np.arange(4096) / 4095) * 65535).astype(np.uint16).tobytes()
    lut.add_new(0x00283006, "OW", lut.LUTData)
    film, checks = read_film(write_dicom(phantom, VOILUTSequence=Sequence([lut])), RECIPE)
    np.testing.assert_allclose(film.pixels, np.sqrt(phantom / 4095) * 65535, atol=2)
    assert checks == ()


def test_padding_becomes_black(phantom: np.ndarray, write_dicom: Writer) -> None:
    padded = phantom.copy()
    padded[:, :15] = 4095
    padded[padded == 4095] = 4095
    film, checks = read_film(write_dicom(padded, PixelPaddingValue=4095), RECIPE)
    assert film.pixels[:, :15].max() == film.pixels.min()
    assert "padding" in {check.code for check in checks}


def test_raw_films_are_noticed(phantom: np.ndarray, write_dicom: Writer) -> None:
    _, checks = read_film(write_dicom(phantom, PresentationIntentType="FOR PROCESSING"), RECIPE)
    assert [check.code for check in checks] == ["film_raw"]


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


@broken("film_size")
def _tiny(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    Image.fromarray(phantom[:8, :8]).save(folder / "tiny.png")
    return folder / "tiny.png"


@broken("not_dicom")
def _no_dicom(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    (folder / "fake.dcm").write_bytes(b"x" * 500)
    return folder / "fake.dcm"


@broken("not_a_film")
def _ct(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    return write(phantom, Modality="CT")


@broken("film_frames")
def _frames(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    return write(np.stack([phantom, phantom]))


@broken("dicom_pixels")
def _short(folder: Path, phantom: np.ndarray, write: Writer) -> Path:
    path = write(phantom)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


@pytest.mark.parametrize("code", BROKEN)
def test_broken_films_give_codes_and_no_secrets(
    code: str, tmp_path: Path, phantom: np.ndarray, write_dicom: Writer
) -> None:
    with pytest.raises(ScanError) as caught:
        read_film(BROKEN[code](tmp_path, phantom, write_dicom), RECIPE)
    assert caught.value.code == code
    assert "secret" not in str(caught.value).lower()
    assert str(tmp_path) not in str(caught.value)


def test_errors_are_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError):
        read_film(tmp_path, RECIPE)


@pytest.mark.parametrize(
    ("text", "view"),
    [("PA", "pa"), ("AP Supine", "ap"), ("AP_horizontal", "ap"), ("LL", "lateral"), ("Lateral", "lateral"),
     ("L", "lateral"), ("Frontal", "frontal"), ("POSTERO_ANTERIOR", "pa"), ("antero-posterior", "ap"),
     ("LLDECUB", "lateral"), ("XYZ", None), ("", None), (None, None)],
)  # fmt: skip
def test_views(text: str | None, view: str | None) -> None:
    assert view_of(text) == view
