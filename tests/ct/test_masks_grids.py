"""Masks on another grid than the scan, in RadGenome's form (a folder of one file a structure): resampled where their
headers say where they lie, refused where these cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctglip.ct.mask_checks import check_masks
from ctglip.ct.masks import read_masks
from ctglip.ct.organs import organ_table
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import OrganDictionary
from tests.ct import torso

STRUCTURES = {"liver": 5, "spleen": 1, "heart": 51, "lumbar vertebrae 3 (l3)": 29, "right kidney": 2}


def write(folder: Path, labels: np.ndarray, affine: np.ndarray | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in STRUCTURES.items():
        nib.save(nib.Nifti1Image((labels == number).astype(np.uint8), affine), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(labels.shape, np.uint8), affine), folder / "celiac trunk.nii.gz")
    return folder


def read(path: Path, phantom: Any, organs: OrganDictionary) -> tuple[LabelMap, tuple[QualityCheck, ...]]:
    return read_masks(path, Scan(phantom.hu, phantom.affine), CtRecipe(), organs)


def drawn(phantom: Any) -> np.ndarray:
    return np.where(np.isin(phantom.labels, list(STRUCTURES.values())), phantom.labels, 0)


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * float(((found == true) & (true > 0)).sum()) / float((found > 0).sum() + (true > 0).sum())


def test_the_scans_own_grid(phantom: Any, organs: OrganDictionary, tmp_path: Path) -> None:
    masks, checks = read(write(tmp_path / "seg_a", phantom.labels, phantom.affine), phantom, organs)
    assert np.array_equal(masks.labels, drawn(phantom))
    assert [check.code for check in checks] == ["unknown_masks"]
    assert "celiac trunk" in checks[0].message


def test_headers_that_allow_it(phantom: Any, organs: OrganDictionary, tmp_path: Path) -> None:
    finer = phantom.affine @ np.diag([0.5, 0.5, 1, 1])
    finer[:3, 3] -= (1.25, 1.25, 0)
    turned = phantom.affine @ np.diag([-1.0, 1, 1, 1])
    turned[:3, 3] += phantom.affine[:3, 0] * (phantom.labels.shape[0] - 1)
    cropped = phantom.affine.copy()
    cropped[:3, 3] += phantom.affine[:3, :3] @ (2, 3, 1)
    cases = {
        "other_spacing": (phantom.labels.repeat(2, 0).repeat(2, 1), finer),
        "turned_axis": (phantom.labels[::-1], turned),
        "cropped_and_shifted": (phantom.labels[2:, 3:, 1:], cropped),
        "other_order": (np.moveaxis(phantom.labels, 2, 0), phantom.affine[:, [2, 0, 1, 3]]),
    }
    for name, (labels, affine) in cases.items():
        masks, _ = read(write(tmp_path / name, labels, affine), phantom, organs)
        assert overlap(masks.labels, drawn(phantom)) > 0.95, name


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("shifted_origin", "mask_elsewhere"), ("far_away", "mask_elsewhere"), ("other_spacing", "mask_geometry"),
        ("flipped_axis", "mask_elsewhere"), ("identity", "mask_geometry"), ("identity_other_size", "mask_geometry"),
        ("no_affine", "no_orientation"),
    ],
)  # fmt: skip
def test_headers_that_lie(phantom: Any, organs: OrganDictionary, tmp_path: Path, change: str, code: str) -> None:
    affine: np.ndarray | None = phantom.affine.copy()
    labels = phantom.labels
    assert affine is not None
    if change == "shifted_origin":
        affine[:3, 3] += (0, 12, 0)
    elif change == "far_away":
        affine[:3, 3] += (0, 0, 900)
    elif change == "other_spacing":  # that of the scan before it was resampled
        affine = affine @ np.diag([0.3, 0.2, 0.2, 1])
    elif change == "flipped_axis":
        affine = affine @ np.diag([-1.0, 1, 1, 1])
    elif change == "identity":
        affine = np.eye(4)
    elif change == "identity_other_size":  # slices first, 3 x 1 x 1 mm, as preprocessing left them
        labels, affine = np.moveaxis(labels, 2, 0), np.eye(4)
    elif change == "no_affine":
        affine = None
    with pytest.raises(MaskError) as caught:
        read(write(tmp_path / "seg_a", labels, affine), phantom, organs)
    assert caught.value.code == code


def test_an_axis_that_was_turned_without_its_header_is_caught_by_anatomy(
    phantom: Any, organs: OrganDictionary, tmp_path: Path
) -> None:
    masks, checks = read(write(tmp_path / "seg_a", phantom.labels[::-1], phantom.affine), phantom, organs)
    rows = organ_table(masks.labels, phantom.hu, phantom.affine, organs)
    found = {check.code for check in (*checks, *check_masks(rows)) if check.severity == "error"}
    assert found & {"left_right", "organ_hu", "masks_unlike_anatomy"}


def test_a_scan_and_masks_that_both_lost_their_headers_are_refused_by_anatomy(
    organs: OrganDictionary, tmp_path: Path
) -> None:
    """Slices first and voxels of 1 mm, as preprocessed volumes were published: their grids agree, and are wrong."""
    whole = torso.scan()
    folder = tmp_path / "seg_a"
    folder.mkdir()
    for organ in ("liver", "spleen", "heart", "kidney_left", "kidney_right", "aorta"):
        mask = np.moveaxis(torso.inside(organ), 2, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(mask), np.eye(4)), folder / f"{organ}.nii.gz")
    scan = Scan(np.ascontiguousarray(np.moveaxis(whole.hu, 2, 0)), np.eye(4))
    _, checks = read_masks(folder, scan, CtRecipe(), organs)
    assert [check.code for check in checks if check.severity == "error"] == ["masks_unlike_anatomy"]
