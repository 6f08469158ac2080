"""NRRD and MetaImage are read as ITK reads them, without its faults: no header ends the process, and none names a file
outside of its folder."""

from __future__ import annotations

import bz2
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctglip import limits
from ctglip.ct.detached import data_files
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.meta_image import read_meta_image
from ctglip.ct.nrrd import read_nrrd
from ctglip.errors import ScanError

SHAPE = (5, 6, 7)
TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def image(dtype: str, seed: int = 0) -> sitk.Image:
    values = np.random.default_rng(seed).integers(0, 100, SHAPE[::-1]).astype(dtype)
    made = sitk.GetImageFromArray(values)
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    made.SetDirection(turned.ravel().tolist())
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((-11.0, 22.0, -33.5))
    return made


def as_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    read = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) * np.asarray(read.GetSpacing())
    affine[:3, 3] = read.GetOrigin()
    return sitk.GetArrayFromImage(read).T, LPS_TO_RAS @ affine


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_what_itk_writes_is_read_as_itk_reads_it(suffix: str, zipped: bool, tmp_path: Path) -> None:
    for seed, dtype in enumerate(TYPES):
        path = tmp_path / f"{dtype}{suffix}"
        sitk.WriteImage(image(dtype, seed), str(path), zipped)
        volume = read_meta_image(path) if suffix.startswith(".m") else read_nrrd(path, ScanError).layers[0]
        values, affine = as_itk(path)
        assert volume.values.dtype == values.dtype
        np.testing.assert_array_equal(volume.values, values)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


VALUES = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE, order="F")
SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "RAS", "scanner-xyz")


def nrrd(path: Path, data: bytes, **changes: str) -> Path:
    fields = {
        "type": "int16", "dimension": "3", "space": SPACES[0], "sizes": "5 6 7", "endian": "little",
        "space directions": "(2,0,0) (0,3,0.5) (0,0,4)", "encoding": "raw", "space origin": "(1,2,3)", **changes,
    }  # fmt: skip
    text = "NRRD0005\n# by hand\n" + "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    path.write_bytes(text.encode() + b"\n" + data)
    return path


@pytest.mark.parametrize("space", SPACES)
def test_spaces_of_nrrd_are_those_of_itk(space: str, tmp_path: Path) -> None:
    path = nrrd(
        tmp_path / "a.nrrd", VALUES.tobytes("F"), space=space, **{"space directions": "(2,0,0) (0,3,0) (0,0,4)"}
    )
    values, affine = as_itk(path)
    volume = read_nrrd(path, ScanError).layers[0]
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "data", "changes"),
    [
        ("raw", b"one\ntwo\n" + b"junk" + VALUES.tobytes("F"), {"line skip": "2", "byte skip": "4"}),
        ("raw", b"some head" + VALUES.tobytes("F"), {"byte skip": "-1"}),
        ("raw", VALUES.astype(">i2").tobytes("F"), {"endian": "big"}),
        ("gzip", gzip.compress(VALUES.tobytes("F")), {}),
        ("bz2", bz2.compress(VALUES.tobytes("F")), {}),
        ("text", " ".join(map(str, VALUES.ravel("F"))).encode(), {}),
        ("hex", VALUES.tobytes("F").hex().encode(), {}),
    ],
)
def test_encodings_of_nrrd(encoding: str, data: bytes, changes: dict[str, str], tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", data, encoding=encoding, **changes)
    np.testing.assert_array_equal(read_nrrd(path, ScanError).layers[0].values, VALUES)


@pytest.mark.parametrize("position", [0, 3])
def test_layers_of_segments(position: int, tmp_path: Path) -> None:
    layers = np.stack([VALUES, VALUES + 1], position)
    sizes, kinds = ["5", "6", "7"], ["domain"] * 3
    sizes.insert(position, "2")
    kinds.insert(position, "list")
    directions = ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    directions.insert(position, "none")
    path = nrrd(
        tmp_path / "a.seg.nrrd", layers.tobytes("F"), dimension="4", sizes=" ".join(sizes), kinds=" ".join(kinds),
        **{"space directions": " ".join(directions), "Segment0_Name": "=liver"},
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"Segment0_Name: =", b"Segment0_Name:="))
    file = read_nrrd(path, ScanError)
    assert [segment.name for segment in file.segments] == ["liver"]
    for layer, expected in zip(file.layers, (VALUES, VALUES + 1), strict=True):
        np.testing.assert_array_equal(layer.values, expected)


OUTSIDE = ("/etc/passwd", "../secret.raw", "sub/../../secret.raw", "link.raw", "LIST\n../secret.raw", "../%d.raw 1 1 1")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("suffix", [".nhdr", ".nrrd", ".mhd", ".mha"])
def test_no_header_names_a_file_outside_of_its_folder(suffix: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for secret in ("secret.raw", "1.raw"):
        (tmp_path / secret).write_bytes(VALUES.tobytes("F"))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    path = folder / f"a{suffix}"
    if suffix in (".nhdr", ".nrrd"):
        nrrd(path, b"", **{"data file": name})
        read = lambda: read_nrrd(path, ScanError)  # noqa: E731
    else:
        path.write_text(f"NDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = {name}\n")
        read = lambda: read_meta_image(path)  # noqa: E731
    with pytest.raises(ScanError) as caught:
        read()
    assert caught.value.code == "outside_folder"
    assert data_files(path) == [], "nor is it hashed"


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_folder_of_links_to_headers_and_their_data(suffix: str, tmp_path: Path) -> None:
    away, cohort = tmp_path / "away", tmp_path / "cohort"
    away.mkdir()
    cohort.mkdir()
    sitk.WriteImage(image("i2"), str(away / f"a{suffix}"))
    for file in away.iterdir():
        (cohort / file.name).symlink_to(file)
    path = cohort / f"a{suffix}"
    volume = read_meta_image(path) if suffix == ".mhd" else read_nrrd(path, ScanError).layers[0]
    np.testing.assert_array_equal(volume.values, as_itk(path)[0])
    assert [file.parent for file in data_files(path)] == [cohort], "they are hashed"


def test_layers_may_hold_more_than_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_VOXELS", VALUES.size)
    layers = np.stack([VALUES % 2] * 5).astype(np.uint8)
    fields = {
        "type": "uchar", "dimension": "4", "kinds": "list domain domain domain", "Segment0_Name": "=liver",
        "space directions": "none (2,0,0) (0,3,0) (0,0,4)",
    }  # fmt: skip
    path = nrrd(tmp_path / "a.seg.nrrd", layers.tobytes("F"), sizes="5 5 6 7", **fields)
    path.write_bytes(path.read_bytes().replace(b"Segment0_Name: =", b"Segment0_Name:="))
    assert len(read_nrrd(path, ScanError).layers) == 5
    for sizes in ("5 5 6 8", "9 5 6 7"):
        nrrd(path, layers.tobytes("F"), sizes=sizes, **fields)
        with pytest.raises(ScanError) as caught:
            read_nrrd(path, ScanError)
        assert caught.value.code == "too_large"


def test_headers_that_ask_for_more_than_there_is(tmp_path: Path) -> None:
    data = VALUES.tobytes("F")
    for sizes, code in (
        ("50000 50000 50000", "too_large"), ("9999999999999 9999999999999 2", "too_large"), ("-5 6 7", "bad_header"),
        ("0 6 7", "bad_header"), ("5 6 8", "file_truncated"), ("1024 1024 512", "file_truncated"),
    ):  # fmt: skip
        for encoding in ("raw", "gzip", "hex"):
            stored = gzip.compress(data) if encoding == "gzip" else data.hex().encode() if encoding == "hex" else data
            with pytest.raises(ScanError) as caught:
                read_nrrd(nrrd(tmp_path / "a.nrrd", stored, sizes=sizes, encoding=encoding), ScanError)
            assert caught.value.code == code, (sizes, encoding)


FIELDS = (
    "type", "dimension", "sizes", "endian", "encoding", "space", "space directions", "space origin", "kinds",
    "line skip", "byte skip", "data file", "spacings",
)  # fmt: skip
ODD = (
    "", "-1", "0", "99999999999999999999", "nan nan nan", "1e400", "(", "()", "(1,2)", "none", "none none none", "\0",
    "block", "%s%s%n 0 1 1", "%999d 0 1 1", "(nan,inf,0) (0,0,0) (1,2,3)", "LIST 9", "domain domain list vector", "ä",
)  # fmt: skip


def test_odd_fields_end_in_an_error_of_ours(tmp_path: Path) -> None:
    read = 0
    for name, value in itertools.product(FIELDS, ODD):
        path = nrrd(tmp_path / "a.nrrd", VALUES.tobytes("F"))
        fields = path.read_bytes().split(b"\n\n", 1)
        lines = [line for line in fields[0].split(b"\n") if not line.startswith(f"{name}:".encode())]
        path.write_bytes(b"\n".join([*lines, f"{name}: {value}".encode()]) + b"\n\n" + fields[1])
        try:
            read_nrrd(path, ScanError)
            read += 1
        except ScanError:
            pass
    assert read < len(FIELDS) * len(ODD) / 3
