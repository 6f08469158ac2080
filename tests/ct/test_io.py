"""NIfTI and NRRD become exact HU, whatever type and scaling they were stored with."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctglip.ct.intensity import to_hu
from ctglip.ct.io import read_scan
from ctglip.ct.nifti import read_nifti
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import ScanError

RECIPE = CtRecipe()


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, np.dtype(">i2")])
def test_stored_types_give_the_same_hu(phantom: Any, write_nifti: Callable[..., Path], name: str, dtype: Any) -> None:
    scan, _ = read_scan(write_nifti(phantom.hu.astype(dtype), phantom.affine, name), RECIPE)
    assert scan.hu.dtype == np.int16
    assert np.array_equal(scan.hu, phantom.hu)
    assert np.allclose(scan.affine, phantom.affine)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [(np.uint16, 1, -1024), (np.int16, 2, 10), (np.int16, 0.5, -0.25), (np.uint8, 8, -1000)],
)
def test_scaled_headers_are_exact(tmp_path: Path, dtype: Any, slope: float, inter: float) -> None:
    raw = np.random.default_rng(0).integers(0, 200, (8, 9, 10)).astype(dtype)
    image = nib.Nifti1Image(raw, np.diag([2.0, 2, 2, 1]))
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii.gz")
    with nib.openers.Opener(tmp_path / "a.nii.gz") as stream:  # nibabel may rescale on saving: pin the header and data
        head = bytearray(stream.read())
    header = nib.Nifti1Header(bytes(head[:348]))
    header["scl_slope"], header["scl_inter"] = slope, inter
    head[:348] = header.binaryblock
    head[352 : 352 + raw.nbytes] = raw.tobytes(order="F")
    (tmp_path / "b.nii").write_bytes(head)
    scan, _ = read_scan(tmp_path / "b.nii", RECIPE)
    expected = np.rint(raw.astype(np.float64) * slope + inter)
    assert np.array_equal(scan.hu, expected.astype(np.int16))


def test_trailing_axis_and_wrong_suffix(phantom: Any, write_nifti: Callable[..., Path], tmp_path: Path) -> None:
    assert np.array_equal(read_scan(write_nifti(phantom.hu[..., None], phantom.affine), RECIPE)[0].hu, phantom.hu)
    zipped = write_nifti(phantom.hu, phantom.affine, "b.nii.gz")
    plain_name = zipped.rename(tmp_path / "really_zipped.nii")
    assert np.array_equal(read_scan(plain_name, RECIPE)[0].hu, phantom.hu)


def test_gzip_of_very_many_members_takes_no_longer(tmp_path: Path) -> None:
    """As bgzip writes them: a member of 64 KB after the other."""
    image = nib.Nifti1Image(np.zeros((512, 512, 128), np.int16), np.eye(4)).to_bytes()
    member = np.random.default_rng(0).integers(0, 4, 1 << 16).astype(np.uint8).tobytes()
    members = gzip.compress(image[:352]) + gzip.compress(member) * (len(image) >> 16)
    (tmp_path / "a.nii.gz").write_bytes(members)
    start = time.monotonic()
    values = read_nifti(tmp_path / "a.nii.gz", ScanError).volume.values
    assert values.tobytes("F")[-len(member) :] == member
    assert time.monotonic() - start < 5


def test_gzip_of_many_members(phantom: Any, write_nifti: Callable[..., Path]) -> None:
    path = write_nifti(phantom.hu, phantom.affine, "plain.nii")
    content = path.read_bytes()
    members = [gzip.compress(content[start : start + 4000]) for start in range(0, len(content), 4000)]
    joined = path.with_name("joined.nii.gz")
    joined.write_bytes(b"".join(members) + gzip.compress(b"") + b"\0" * 70000)
    assert np.array_equal(read_scan(joined, RECIPE)[0].hu, phantom.hu)


def test_nifti2(phantom: Any, tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(phantom.hu, phantom.affine), tmp_path / "two.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "two.nii.gz", RECIPE)[0].hu, phantom.hu)


@pytest.mark.parametrize("compressed", [False, True])
def test_nrrd_is_the_same_as_nifti(phantom: Any, tmp_path: Path, compressed: bool) -> None:
    image = sitk.GetImageFromArray(phantom.hu.T.astype(np.int32))
    image.SetSpacing(np.diag(phantom.affine)[:3].tolist())
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # RAS axes, said in LPS
    image.SetOrigin([70, 60, 30])
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"), compressed)
    scan, _ = read_scan(tmp_path / "scan.nrrd", RECIPE)
    assert np.array_equal(scan.hu, phantom.hu)
    assert np.allclose(scan.affine, phantom.affine)


def test_missing_numbers_become_air_and_are_counted(phantom: Any, write_nifti: Callable[..., Path]) -> None:
    hu = phantom.hu.astype(np.float32)
    hu[:2] = np.nan
    hu[2, 0, 0] = np.inf
    scan, checks = read_scan(write_nifti(hu, phantom.affine), RECIPE)
    check = next(check for check in checks if check.code == "not_finite")
    assert check.severity == "warning"
    assert check.value == pytest.approx((2 * 30 * 32 + 1) / hu.size)
    assert (scan.hu[:2] == -1024).all()


def test_numbers_beyond_int16_are_clipped_and_counted() -> None:
    values = np.array([[[0, 40000, -40000, 5]]], np.int32)
    hu, checks = to_hu(values)
    assert hu.ravel().tolist() == [0, 32767, -32768, 5]
    assert checks[0].code == "beyond_int16"
    assert checks[0].value == 2


def test_unscaled_int16_is_not_copied() -> None:
    values = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    assert to_hu(values)[0] is values


def test_headers_without_place_are_doubted(phantom: Any, write_nifti: Callable[..., Path]) -> None:
    path = write_nifti(phantom.hu, phantom.affine, "scan.nii")
    image = nib.load(path)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, path.with_name("lost.nii"))
    _, checks = read_scan(path.with_name("lost.nii"), RECIPE)
    assert [c.severity for c in checks if c.code == "no_orientation"] == ["error"]
    image.set_sform(phantom.affine, 1)
    moved = phantom.affine.copy()
    moved[0, 3] += 40
    image.set_qform(moved, 1)
    nib.save(image, path.with_name("two.nii"))
    _, checks = read_scan(path.with_name("two.nii"), RECIPE)
    assert [c.value for c in checks if c.code == "two_affines"] == [pytest.approx(40)]
