"""DICOM segmentations and contours become the same labels as NIfTI masks; their free text is never repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

RECIPE = CtRecipe()


@pytest.fixture
def scan(phantom: Any) -> Scan:
    return Scan(phantom.hu, phantom.affine)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentation(
    kind: str, phantom: Any, scan: Scan, make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> None:
    masks = {"Liver": phantom.labels == 5, "SECRET^NAME": phantom.labels == 51, "spleen": phantom.labels == 1}
    path = tmp_path / "dicom" / "1.2.999.123456789.dcm"
    path.parent.mkdir()
    make_segmentation(masks, phantom.affine, kind).save_as(path, enforce_file_format=True)
    expected = np.where(np.isin(phantom.labels, (1, 5)), phantom.labels, 0)
    for given in (path, path.parent):
        result, checks = read_masks(given, scan, RECIPE, organs)
        assert np.array_equal(result.labels, expected)
        assert [check.code for check in checks] == ["unknown_masks"]
        assert "SECRET" not in str(checks)
        assert "1.2.999" not in str(checks)


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def test_sides_come_from_the_modifier(
    phantom: Any, scan: Scan, make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> None:
    kidney = code("64033007", "Kidney")
    kidney.SegmentedPropertyTypeModifierCodeSequence = [code("24028007", "Right")]
    data = make_segmentation(
        {"structure 1": phantom.labels == 2}, phantom.affine, SegmentedPropertyTypeCodeSequence=[kidney]
    )
    data.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    result, _ = read_masks(tmp_path / "seg.dcm", scan, RECIPE, organs)
    assert np.array_equal(result.labels, np.where(phantom.labels == 2, organs["kidney_right"].label, 0))


def test_contours_are_filled_with_holes(scan: Scan, tmp_path: Path, organs: OrganDictionary) -> None:
    data = Dataset()
    data.Modality, data.SOPClassUID, data.SOPInstanceUID = "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3"
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, name in ((1, "Liver"), (2, "SECRET^NAME")):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for half in (4.2, 1.2):
            square = [(10 - half, 12 - half), (10 + half, 12 - half), (10 + half, 12 + half), (10 - half, 12 + half)]
            contour = Dataset()
            points = [scan.affine[:3, :3] @ [x, y, 9] + scan.affine[:3, 3] for x, y in square]
            contour.ContourData = [float(v) for x, y, z in points for v in (-x, -y, z)]
            drawn.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(drawn)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.SOPClassUID, "1.2.3"
    data.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    result, checks = read_masks(tmp_path / "rt.dcm", scan, RECIPE, organs)
    expected = np.zeros(scan.hu.shape, bool)
    expected[6:15, 8:17, 9] = True
    expected[9:12, 11:14, 9] = False
    assert np.array_equal(result.labels == 5, expected)
    assert "SECRET" not in str(checks)


def test_broken_segmentations(
    phantom: Any, scan: Scan, make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> None:
    def fails(name: str, expected: str, change: Callable[[Any], Any]) -> None:
        data = make_segmentation({"liver": phantom.labels == 5}, phantom.affine)
        change(data)
        path = tmp_path / f"{name}.dcm"
        data.save_as(path, enforce_file_format=True)
        with pytest.raises(MaskError) as caught:
            read_masks(path, scan, RECIPE, organs)
        assert caught.value.code == expected, name
        assert caught.value.__cause__ is None
        assert "1.2.999" not in str(caught.value)

    def cut(data: Any) -> None:
        data.PixelData = data.PixelData[:10]

    def nowhere(data: Any) -> None:
        del data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence

    def unnamed(data: Any) -> None:
        data.SegmentSequence[0].SegmentLabel = "SECRET^NAME"

    def numberless(data: Any) -> None:
        data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:-1]

    def elsewhere(data: Any) -> None:
        data.PixelData = bytes(len(data.PixelData))

    def a_scan(data: Any) -> None:
        data.Modality = "CT"

    fails("1.2.999.123456789.1", "masks_empty", elsewhere)
    fails("1.2.999.123456789.2", "not_masks", a_scan)
    fails("cut", "dicom_pixels", cut)
    fails("nowhere", "dicom_geometry", nowhere)
    fails("unnamed", "no_known_organ", unnamed)
    fails("numberless", "dicom_geometry", numberless)
    for name in ("a", "b"):
        data = make_segmentation({"liver": phantom.labels == 5}, phantom.affine)
        (tmp_path / "two").mkdir(exist_ok=True)
        data.save_as(tmp_path / "two" / f"{name}.dcm", enforce_file_format=True)
    with pytest.raises(MaskError) as caught:
        read_masks(tmp_path / "two", scan, RECIPE, organs)
    assert caught.value.code == "several_masks"
