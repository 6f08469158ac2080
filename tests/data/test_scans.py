"""Whole scans on a fixed grid: where things lie on it, what is said of size, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.data.crops import AIR_HU
from ctglip.data.images import moved, scan_reader
from ctglip.data.scans import ScanDataSettings, ScanSettings, cut_scan, render_scans
from ctglip.errors import StoreError
from ctglip.store.format import study_path
from ctglip.types import OrganRow
from tests.training.tiny import write_tiny_store

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def volume() -> tuple[np.ndarray, np.ndarray]:
    """24 x 20 x 12 voxels of air with one box of soft tissue, off the middle along every axis."""
    image, labels = np.full((24, 20, 12), -1000, np.int16), np.zeros((24, 20, 12), np.uint8)
    image[4:12, 10:20, 0:6], labels[4:12, 10:20, 0:6] = 50, 5
    return image, labels


ROW = OrganRow("liver", (4, 12, 10, 20, 0, 6), 7.68, 50.0, True)


def test_the_whole_volume_lies_on_the_grid() -> None:
    cut = cut_scan(*volume(), AFFINE, ScanSettings(grid=(12, 20, 24)))
    assert cut.hu.shape == (12, 20, 24)
    np.testing.assert_allclose(cut.voxel_mm, [4, 2, 2])
    assert cut.labels is not None
    assert {tuple(np.unique(axis)[[0, -1]]) for axis in np.nonzero(cut.labels)[:1]} == {(2, 5)}
    assert cut.hu[4, 15, 5] == 50
    assert cut.hu[9, 5, 18] == -1000
    np.testing.assert_allclose(cut.boxes([ROW]), [[2, 6, 10, 20, 0, 12]])
    inside = cut.labels > 0
    assert inside[2:6, 10:20, 0:12].all()
    assert inside.sum() == 4 * 10 * 12


def test_a_grid_of_the_volumes_own_voxels_changes_nothing() -> None:
    image, labels = volume()
    for spacing in (None, (2.0, 2.0, 4.0)):
        cut = cut_scan(image, labels, AFFINE, ScanSettings(grid=(24, 20, 12), spacing_mm=spacing))
        np.testing.assert_array_equal(cut.hu, image)
        np.testing.assert_array_equal(cut.labels, labels)


def test_a_fixed_spacing_takes_the_middle_and_pads_with_air() -> None:
    image, labels = volume()
    cut = cut_scan(image, labels, AFFINE, ScanSettings(grid=(20, 40, 12), spacing_mm=(2.0, 2.0, 4.0)))
    np.testing.assert_array_equal(cut.hu[:, 10:30], image[2:22])
    assert cut.labels is not None
    np.testing.assert_array_equal(cut.labels[:, 10:30], labels[2:22])
    assert (cut.hu[:, :10] == AIR_HU).all()
    assert not cut.labels[:, 30:].any()
    np.testing.assert_allclose(cut.boxes([ROW]), [[2, 10, 20, 30, 0, 6]])


def test_scale_and_volume_are_told_beside_the_voxels() -> None:
    fine = cut_scan(*volume(), AFFINE, ScanSettings(grid=(24, 20, 24)))
    coarse = cut_scan(*volume(), AFFINE, ScanSettings(grid=(12, 10, 12)))
    assert (coarse.sizes([ROW])[0, :3] > fine.sizes([ROW])[0, :3]).all()
    assert coarse.sizes([ROW])[0, 3] == fine.sizes([ROW])[0, 3]
    assert fine.sizes([]).shape == (0, 4)
    assert fine.boxes([]).shape == (0, 6)


def test_windows_become_channels() -> None:
    settings = ScanSettings(windows_hu=((-1000.0, 1000.0), (0.0, 100.0)))
    shown = render_scans(np.array([[[-2000, 0, 50]]], np.int16), settings)
    np.testing.assert_allclose(shown[:, 0, 0], [[-1, 0, 0.05], [-1, -1, 0]], atol=1e-6)


@pytest.mark.parametrize("keep_gb", [0.0, 1.0])
def test_a_damaged_scan_is_named_and_too_many_end_it(tmp_path: Path, keep_gb: float) -> None:
    store, _ = write_tiny_store(tmp_path / "store", 6)
    names = store.study_ids
    data = next(
        p for p in (study_path(store.path, names[1]) / "image").rglob("*") if p.is_file() and p.suffix != ".json"
    )
    data.write_bytes(b"")
    settings = ScanSettings(grid=(8, 8, 8))
    reader = scan_reader(store, settings, [*names, *map(str, range(94))], memory_gb=keep_gb, threads=2)
    for _ in range(2):
        cuts = reader.read([*names, names[0]])
        assert [cut is None for cut in cuts] == [False, True, False, False, False, False, False]
        np.testing.assert_array_equal(cuts[0].hu, cuts[-1].hu)  # pyright: ignore[reportOptionalMemberAccess]
        assert [failure.study_id for failure in reader.failures] == [names[1]]
    with pytest.raises(StoreError, match=f"1 of 6 studies cannot be read \\({names[1]}\\)"):
        scan_reader(store, settings, names, keep_gb, 1).read(names)


def test_boxes_and_labels_go_along_when_a_scan_is_shifted_and_mirrored():
    hu, labels = np.zeros((2, 16, 12, 10), np.int16)
    hu[5:9, 3:6, 2:7] = labels[5:9, 3:6, 2:7] = 1
    settings = ScanDataSettings(shift_voxels=(2, 1, 0), flip=0.5)
    seen = set()
    for seed in range(30):
        box = np.array([[5, 9, 3, 6, 2, 7]], np.float32)
        moved_hu, moved_labels, boxes = moved(hu, labels, box, settings, np.random.default_rng(seed))
        assert moved_labels is not None
        np.testing.assert_array_equal(moved_hu, moved_labels)
        for axis, place in enumerate(np.nonzero(moved_hu)):
            assert (place.min(), place.max() + 1) == tuple(boxes[0, 2 * axis : 2 * axis + 2])
        seen.add(tuple(boxes[0]))
    assert {box[4:] for box in seen} == {(2, 7), (3, 8)}, "mirrored along z, and not shifted"
    assert len({box[0] for box in seen}) > 5
