"""Small files that ask for much memory or time are refused before room is made for what they ask."""

from __future__ import annotations

import gzip
import io
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import ScanError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

RECIPE = CtRecipe()
ROOM = 600 << 20


@contextmanager
def little_room(seconds: float = 20) -> Iterator[None]:
    """At most 600 MB more than now, and a bounded time."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    start = time.monotonic()
    resource.setrlimit(resource.RLIMIT_DATA, (int(status["VmData"].split()[0]) * 1024 + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert time.monotonic() - start < seconds


def refused(read: Callable[[], object]) -> str:
    with little_room(), pytest.raises(ScanError) as caught:
        read()
    return caught.value.code


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def test_a_sheared_affine(tmp_path: Path) -> None:
    affine = np.array([[0.06, 0, 20, 0], [0, 0.06, 20, 0], [0, 0, 0.06, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(noise((2, 2, 3000)), affine), tmp_path / "a.nii")
    assert refused(lambda: read_scan(tmp_path / "a.nii", RECIPE)) == "too_large"


def test_giant_voxels(organs: OrganDictionary) -> None:
    scan = Scan(noise((60, 60, 60)), np.diag([30.0, 30, 30, 1]))
    recipe = CtRecipe(spacing_mm=(1.0, 1.0, 1.0), crop_to_body=False)
    assert refused(lambda: standardize(scan, None, recipe, organs)) == "too_large"


def test_slices_almost_upon_each_other(write_series: Callable[..., Path]) -> None:
    heights = np.concatenate([np.arange(150) * 0.03, 24 + np.arange(150) * 0.03])
    path = write_series(noise((64, 64, 300)), heights)
    assert refused(lambda: read_scan(path, CtRecipe(slice_gaps="resample"))) in ("too_large", "spacing_implausible")


def test_a_zipped_file_of_more_than_it_says(tmp_path: Path) -> None:
    data = nib.Nifti1Image(noise((8, 8, 8)), np.eye(4)).to_bytes()
    zeros = gzip.compress(bytes(64 << 20))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data) + zeros * 40)
    assert refused(lambda: read_scan(tmp_path / "a.nii.gz", RECIPE)) == "too_large"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_of_more_than_the_file_holds(zipped: bool, tmp_path: Path) -> None:
    header = nib.Nifti1Image(noise((8, 8, 8)), np.eye(4)).header
    for shape, code in (((30_000, 30_000, 30_000), "too_large"), ((1000, 1000, 1000), "file_truncated")):
        header["dim"][1:4] = shape
        data = header.binaryblock + bytes(5000)
        path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
        path.write_bytes(gzip.compress(data) if zipped else data)
        assert refused(lambda p=path: read_scan(p, RECIPE)) == code


def test_an_archive_of_more_than_it_holds(tmp_path: Path) -> None:
    for shape, code in (("(9000, 9000, 9000)", "too_large"), ("(1000, 1000, 1000)", "file_damaged")):
        head = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}"
        stream = io.BytesIO(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(99))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("arr_0.npy", stream.getvalue())
        assert refused(lambda: read_scan(tmp_path / "a.npz", RECIPE)) == code


def test_an_archive_that_holds_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array([[[{"a": 1}]]], dtype=object))
    assert refused(lambda: read_scan(tmp_path / "a.npz", RECIPE)) == "file_damaged"
