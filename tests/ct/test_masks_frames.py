"""DICOM frames and contours lie where they say: spheres whose place and volume are known by formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from ctglip.ct.masks import read_masks
from ctglip.ct.masks_contours import fill_polygon
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

CENTRE, RADIUS = np.array([10.0, -20.0, 30.0]), 30.0  # mm, RAS
VOLUME = 4 / 3 * np.pi * RADIUS**3


def scan_with(step: float, count: int) -> Scan:
    """2 mm in plane, slices ``step`` apart, around the sphere."""
    affine = np.diag([2.0, 2.0, step, 1.0])
    affine[:3, 3] = (-80, -110, 30 - step * (count - 1) / 2)
    hu = np.full((90, 90, count), 40, np.int16)
    hu[:5] = hu[-5:] = -1000
    return Scan(hu, affine)


def disc(height: float) -> np.ndarray:
    """The sphere's section at a height on the scan's grid in plane, ``[x, y]``."""
    x, y = np.meshgrid(-80 + 2.0 * np.arange(90), -110 + 2.0 * np.arange(90), indexing="ij")
    return (x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (height - CENTRE[2]) ** 2 < RADIUS**2


def segmentation(heights: Sequence[float], make: Callable[..., Any], spacing: float | None, said: Any = None) -> Any:
    """A segmentation of the sphere with a frame at each height; ``said`` are the heights that it states."""
    stack = np.stack([disc(height) for height in heights], axis=2)
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = (-80, -110, 0)
    data = make({"liver": stack}, affine)
    shown = [height for height, plane in zip(said or heights, np.moveaxis(stack, 2, 0), strict=True) if plane.any()]
    for frame, height in zip(data.PerFrameFunctionalGroupsSequence, shown, strict=True):
        frame.PlanePositionSequence[0].ImagePositionPatient = [80, 110, f"{height:.6g}"]
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SliceThickness
    if spacing is not None:
        measures.SliceThickness = spacing
    return data


def drawn(data: Any, scan: Scan, tmp_path: Path, organs: OrganDictionary) -> np.ndarray:
    data.save_as(tmp_path / "m.dcm", enforce_file_format=True)
    masks, _ = read_masks(tmp_path / "m.dcm", scan, CtRecipe(), organs)
    return masks.labels == organs["liver"].label


def measured(mask: np.ndarray, scan: Scan) -> tuple[float, np.ndarray]:
    """Volume in mm³ and centre in mm."""
    centre = scan.affine[:3, :3] @ np.argwhere(mask).mean(0) + scan.affine[:3, 3]
    return float(mask.sum() * abs(np.linalg.det(scan.affine[:3, :3]))), centre


@pytest.mark.parametrize(
    ("frames", "slices", "spacing"),
    [(4, 4, 4), (4, 4, None), (2, 4, 2), (2, 4, None), (4, 1, 4), (5, 2, None), (3, 4, 3), (1, 5, 1)],
)
def test_frames_on_scans_of_other_slices(
    frames: int, slices: int, spacing: float | None, make_segmentation: Callable[..., Any], tmp_path: Path,
    organs: OrganDictionary,
) -> None:  # fmt: skip
    heights = np.arange(-20, 80, frames) + 0.5
    scan = scan_with(slices, 120 // slices)
    mask = drawn(segmentation(list(heights), make_segmentation, spacing), scan, tmp_path, organs)
    volume, centre = measured(mask, scan)
    assert volume == pytest.approx(VOLUME, rel=0.08)
    assert np.abs(centre - CENTRE).max() < 1.5
    shown = np.flatnonzero(mask.any((0, 1)))
    assert len(shown) == np.ptp(shown) + 1, "no slice is skipped"


@pytest.mark.parametrize("change", ["jitter", "rounded", "reversed", "shuffled"])
def test_what_is_said_of_a_frame_may_be_a_little_off(
    change: str, make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> None:
    scan = scan_with(0.625, 160)
    heights = list(scan.affine[2, 3] + 0.625 * np.arange(160))
    rng = np.random.default_rng(0)
    said = {
        "jitter": [height + rng.uniform(-0.04, 0.04) for height in heights],
        "rounded": [round(height, 1) for height in heights],
    }.get(change, heights)
    data = segmentation(heights, make_segmentation, 0.625, said)
    order = np.arange(int(data.NumberOfFrames))
    order = order[::-1] if change == "reversed" else rng.permutation(order) if change == "shuffled" else order
    pixels = data.pixel_array[order]
    from pydicom.pixels.utils import pack_bits

    data.PerFrameFunctionalGroupsSequence = [data.PerFrameFunctionalGroupsSequence[int(k)] for k in order]
    data.PixelData = pack_bits(pixels)
    mask = drawn(data, scan, tmp_path, organs)
    assert np.array_equal(mask, np.stack([disc(height) for height in heights], axis=2))


def test_missing_frames_are_background(
    make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> None:
    scan = scan_with(4, 30)
    heights = scan.affine[2, 3] + 4.0 * np.arange(30)
    kept = [height for k, height in enumerate(heights) if k not in (12, 13, 17)]
    mask = drawn(segmentation(kept, make_segmentation, 4), scan, tmp_path, organs)
    for k, height in enumerate(heights):
        assert np.array_equal(mask[:, :, k], disc(height) if k not in (12, 13, 17) else np.zeros((90, 90), bool))


def test_frames_beside_the_scan(make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary) -> None:
    scan, heights = scan_with(4, 30), list(np.arange(-20.0, 80, 4))
    with pytest.raises(MaskError) as caught:
        drawn(segmentation(heights, make_segmentation, 4, [h + 400 for h in heights]), scan, tmp_path, organs)
    assert caught.value.code == "mask_elsewhere"


def circle(height: float, radius: float, count: int = 120) -> np.ndarray:
    """Points in LPS mm of a circle around the sphere's axis."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = CENTRE[0] + radius * np.cos(angle), CENTRE[1] + radius * np.sin(angle)
    return np.stack([-x, -y, np.full(count, height)], axis=1)


def structures(contours: Sequence[np.ndarray], kind: str = "CLOSED_PLANAR") -> Dataset:
    data, roi, outline = Dataset(), Dataset(), Dataset()
    data.Modality, data.SOPClassUID, data.SOPInstanceUID = "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3"
    roi.ROINumber, roi.ROIName, outline.ReferencedROINumber, outline.ContourSequence = 1, "Liver", 1, []
    for points in contours:
        item = Dataset()
        item.ContourGeometricType = kind
        item.ContourData = [f"{value:.4f}" for value in points.ravel()]
        outline.ContourSequence.append(item)
    data.StructureSetROISequence, data.ROIContourSequence = [roi], [outline]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3"
    return data


def sphere(step: float, inner: float = 0.0) -> list[np.ndarray]:
    """Contours of the sphere, of a shell where ``inner`` is the radius of its hollow."""
    found = []
    for height in np.arange(0.3, 60, step):
        for radius in (RADIUS, inner):
            rest = radius**2 - (height - CENTRE[2]) ** 2
            if rest > 1:
                found.append(circle(height, np.sqrt(rest)))
    return found


@pytest.mark.parametrize(("step", "slices"), [(2, 4), (1, 5), (3, 4), (4, 4), (8, 4), (12, 4), (5, 1), (5, 2)])
def test_contours_on_scans_of_other_slices(step: float, slices: float, tmp_path: Path, organs: OrganDictionary) -> None:
    scan = scan_with(slices, int(120 / slices))
    for inner in (0.0, 15.0):
        contours = sphere(step, inner)
        np.random.default_rng(1).shuffle(contours)  # pyright: ignore[reportArgumentType]
        volume, centre = measured(drawn(structures(contours), scan, tmp_path, organs), scan)
        assert volume == pytest.approx(VOLUME - 4 / 3 * np.pi * inner**3, rel=0.1)
        assert np.abs(centre - CENTRE).max() < slices / 2 + 0.5


def test_a_gap_is_filled_by_half_the_spacing_and_no_more(tmp_path: Path, organs: OrganDictionary) -> None:
    scan = scan_with(1, 120)
    heights = [0, 3, 6, 9, 12, 30, 33, 36]
    mask = drawn(structures([circle(height, 20) for height in heights]), scan, tmp_path, organs)
    found = scan.affine[2, 3] + np.flatnonzero(mask.any((0, 1)))
    assert np.allclose(found, [h + 0.5 for h in range(-10, 60) if any(abs(h + 0.5 - at) <= 1.5 for at in heights)])


def test_contours_that_are_doubled_or_open_or_tilted(tmp_path: Path, organs: OrganDictionary) -> None:
    scan = scan_with(4, 30)
    once = drawn(structures(sphere(4)), scan, tmp_path, organs)
    assert np.array_equal(drawn(structures([c for c in sphere(4) for _ in range(2)]), scan, tmp_path, organs), once)
    off = [contour + np.random.default_rng(2).uniform(-0.03, 0.03, contour.shape) for contour in sphere(4)]
    assert (drawn(structures(off), scan, tmp_path, organs) ^ once).sum() < 0.02 * once.sum()
    tilted = [np.c_[c[:, :2], c[:, 2] + 0.3 * c[:, 0]] for c in sphere(4)]
    with pytest.raises(MaskError) as caught:
        drawn(structures(tilted), scan, tmp_path, organs)
    assert caught.value.code == "dicom_geometry"
    with pytest.raises(MaskError) as caught:
        drawn(structures(sphere(4), "OPEN_PLANAR"), scan, tmp_path, organs)
    assert caught.value.code == "masks_empty"
    with pytest.raises(MaskError) as caught:
        drawn(structures([c + np.array([0, 0, 500]) for c in sphere(4)]), scan, tmp_path, organs)
    assert caught.value.code == "mask_elsewhere"


def test_a_keyhole_bounds_a_hole() -> None:
    outer = np.array([[2.2, 2.2], [17.7, 2.2], [17.7, 17.7], [2.2, 17.7]])
    inner = np.array([[7.3, 7.3], [7.3, 12.6], [12.6, 12.6], [12.6, 7.3]])
    one = np.concatenate([outer, outer[:1], inner, inner[:1]])
    expected = np.zeros((20, 20), bool)
    expected[3:18, 3:18] = True
    expected[8:13, 8:13] = False
    assert np.array_equal(fill_polygon(one, (20, 20)), expected)
