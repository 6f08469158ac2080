"""Values, geometry and headers of mask files that are almost right: read rightly, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError, ScanError
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.organs import OrganDictionary

RECIPE = CtRecipe()
LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def scan(phantom: Any) -> Scan:
    return Scan(phantom.hu, phantom.affine)


def read(path: Path, scan: Scan, organs: OrganDictionary, **recipe: Any) -> tuple[LabelMap, list[str]]:
    masks, checks = read_masks(path, scan, CtRecipe(**recipe), organs)
    return masks, [check.code for check in checks if check.code != "organs_odd"]


def refused(path: Path, scan: Scan, organs: OrganDictionary, **recipe: Any) -> MaskError:
    with pytest.raises(MaskError) as caught:
        read(path, scan, organs, **recipe)
    return caught.value


@pytest.mark.parametrize(
    ("grey", "noticed"),
    [
        (lambda m: (m * 255).astype(np.uint8), []),
        (lambda m: m * np.float32(1 / 255) * 255, []),
        (lambda m: m * 0.9999, []),
        (lambda m: m * np.uint8(7), []),
        (lambda m: m.astype(np.int16) * 3, []),
        (lambda m: m * 0.98 + 0.013, ["grey_mask"]),  # probabilities
        (
            lambda m: np.where(m, 240, 100).astype(np.uint8) - (np.arange(m.shape[2]) % 60).astype(np.uint8),
            ["grey_mask"],
        ),
        (lambda m: m * (60.0 + np.arange(m.shape[2]) % 40), ["grey_mask"]),  # percent
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_one_organ_in_shades_of_grey(
    grey: Callable[[np.ndarray], np.ndarray], noticed: list[str], folder: bool, phantom: Any, scan: Scan,
    write_nifti: Callable[..., Path], organs: OrganDictionary,
) -> None:  # fmt: skip
    inside = phantom.labels == 5
    path = write_nifti(grey(inside), phantom.affine, "one/liver.nii.gz")
    masks, codes = read(path.parent if folder else path, scan, organs)
    assert np.array_equal(masks.labels, inside * np.uint8(5))
    assert codes == noticed


def test_parts_in_a_file_of_one_organ_are_the_organ(
    phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    inside = phantom.labels == 5
    parts = inside * np.uint8(1)
    parts[18:, :, :] *= 2  # a tumour
    masks, codes = read(write_nifti(parts, phantom.affine, "liver.nii.gz"), scan, organs)
    assert np.array_equal(masks.labels > 0, inside)
    assert codes == ["parts_joined"]


def test_what_is_no_mask_of_one_organ(
    phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    for values in (phantom.hu, phantom.hu.astype(np.float32) / 100, np.where(phantom.labels == 5, 900.0, 300.5)):
        path = write_nifti(values, phantom.affine, "one/liver.nii.gz")
        assert refused(path.parent, scan, organs).code == "not_labels"


def test_labels_a_hair_off(phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    for off in (-1e-4, 5e-3):
        masks, codes = read(write_nifti(phantom.labels + np.float32(off), phantom.affine, "m.nii.gz"), scan, organs)
        assert np.array_equal(masks.labels, phantom.labels)
        assert codes == []
    error = refused(write_nifti(phantom.labels * 0.37, phantom.affine, "m.nii.gz"), scan, organs)
    assert error.code == "not_labels"
    assert "nearest" in str(error)


def test_geometry_that_was_lost_is_refused(
    phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: OrganDictionary, tmp_path: Path
) -> None:
    def geometry(affine: np.ndarray, labels: np.ndarray = phantom.labels) -> str:
        return refused(write_nifti(labels, affine, "m.nii.gz"), scan, organs).code

    spacing, origin = phantom.affine.copy(), phantom.affine.copy()
    spacing[:3, :3] = np.diag([1.0, 1.0, 1.0])  # the origin was kept
    origin[:3, 3] = phantom.affine[:3, 3] + (10, 0, 15)  # some voxels beside
    assert geometry(np.eye(4)) == "mask_geometry"
    assert geometry(np.diag([-1.0, -1.0, 1.0, 1.0])) == "mask_geometry"
    assert geometry(np.eye(4), np.ascontiguousarray(phantom.labels.T)) == "mask_geometry"
    assert geometry(spacing) == "mask_geometry"
    assert geometry(origin) == "mask_elsewhere"
    sitk.WriteImage(sitk.GetImageFromArray(phantom.labels.T), str(tmp_path / "plain.nii.gz"))
    error = refused(tmp_path / "plain.nii.gz", scan, organs)
    assert error.code == "mask_geometry"
    assert "Nifti1Image(labels, scan.affine)" in str(error)
    image = nib.Nifti1Image(phantom.labels, None)
    image.header.set_zooms((5, 5, 5))
    nib.save(image, tmp_path / "nowhere.nii.gz")  # neither sform nor qform
    assert refused(tmp_path / "nowhere.nii.gz", scan, organs).code == "no_orientation"


def test_a_part_of_the_scan_and_a_shift_of_less_than_a_voxel_are_laid_on(
    phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    part = phantom.affine.copy()
    part[:3, 3] += (20, 20, 20)
    masks, _ = read(write_nifti(phantom.labels[4:, 4:, 4:], part, "m.nii.gz"), scan, organs)
    assert np.array_equal(masks.labels[4:, 4:, 4:], phantom.labels[4:, 4:, 4:])
    near = phantom.affine.copy()
    near[:3, 3] += 1.0
    masks, codes = read(write_nifti(phantom.labels, near, "m.nii.gz"), scan, organs)
    assert codes == ["masks_resampled"]
    assert np.array_equal(masks.labels, phantom.labels)


def header(affine: np.ndarray, **fields: Any) -> dict[str, Any]:
    """An NRRD header in LPS for a RAS affine."""
    return {
        "space": "left-posterior-superior",
        "space directions": (LPS @ affine[:3, :3]).T,
        "space origin": LPS @ affine[:3, 3],
        **fields,
    }


def test_nrrd_without_a_space_is_a_guess(phantom: Any, scan: Scan, organs: OrganDictionary, tmp_path: Path) -> None:
    directions = {
        "space dimension": 3,
        "space directions": phantom.affine[:3, :3].T,
        "space origin": phantom.affine[:3, 3],
    }
    for name, fields in (("spacings", {"spacings": [5.0, 5.0, 5.0]}), ("unnamed", directions)):
        nrrd.write(str(tmp_path / f"{name}.nrrd"), phantom.labels, fields)
        assert refused(tmp_path / f"{name}.nrrd", scan, organs).code == "no_orientation"
        nrrd.write(str(tmp_path / f"{name}_ct.nrrd"), phantom.hu, fields)
        _, checks = read_scan(tmp_path / f"{name}_ct.nrrd", RECIPE)
        assert ("no_orientation", "error") in {(check.code, check.severity) for check in checks}
    nrrd.write(str(tmp_path / "m.nrrd"), phantom.labels, header(phantom.affine))
    masks, codes = read(tmp_path / "m.nrrd", scan, organs)
    assert np.array_equal(masks.labels, phantom.labels)
    assert codes == []


def test_a_header_without_its_data_file(phantom: Any, scan: Scan, organs: OrganDictionary, tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "m.nhdr"), phantom.labels, header(phantom.affine))
    assert np.array_equal(read(tmp_path / "m.nhdr", scan, organs)[0].labels, phantom.labels)
    data = next(p for p in tmp_path.iterdir() if p.suffix in (".gz", ".raw"))
    data.rename(tmp_path / "away")
    error = refused(tmp_path / "m.nhdr", scan, organs)
    assert error.code == "no_data_file"
    assert data.name in str(error)
    with pytest.raises(ScanError, match="is not beside it"):
        read_scan(tmp_path / "m.nhdr", RECIPE)
    data.write_bytes(b"")
    assert refused(tmp_path / "m.nhdr", scan, organs).code == "file_empty"
    (tmp_path / "empty.nhdr").write_bytes(b"")
    assert refused(tmp_path / "empty.nhdr", scan, organs).code == "file_empty"
    (tmp_path / "alone.nhdr").write_bytes(b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n")
    assert refused(tmp_path / "alone.nhdr", scan, organs).code == "no_data_file"


def test_terminology_of_a_slicer_segmentation(
    phantom: Any, scan: Scan, organs: OrganDictionary, tmp_path: Path
) -> None:
    def tags(kind: str, side: str = "^^", category: str = "SCT^123037004^Anatomical Structure") -> str:
        return f"TerminologyEntry:Segmentation category and type~{category}~{kind}~{side}~Anatomic codes~^^~^^|"

    segments = (
        ("Segment_1", 5, tags("SCT^10200004^Liver")),
        ("a structure", 1, tags("SCT^64033007^Kidney", "SCT^7771000^Left")),
        ("heart", 51, tags("SCT^85756007^Tissue", category="SCT^85756007^Tissue")),
        ("urinary bladder", 21, tags("SCT^4147007^Mass", category="SCT^49755003^Morphologically Altered Structure")),
    )
    fields: dict[str, Any] = {"kinds": ["domain"] * 3}
    for position, (name, value, tag) in enumerate(segments):
        entry = {"ID": f"S{position}", "Name": name, "LabelValue": str(value), "Layer": "0", "Tags": tag}
        fields |= {f"Segment{position}_{key}": told for key, told in entry.items()}
    nrrd.write(str(tmp_path / "s.seg.nrrd"), phantom.labels, header(phantom.affine, **fields))
    masks, codes = read(tmp_path / "s.seg.nrrd", scan, organs)
    expected = {5: organs["liver"].label, 1: organs["kidney_left"].label, 51: organs["heart"].label}
    for value in np.unique(phantom.labels):
        assert set(np.unique(masks.labels[phantom.labels == value])) == {expected.get(int(value), 0)}
    assert "unknown_masks" in codes
