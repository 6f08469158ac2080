"""Masks in every form become the same label map on the scan's grid, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

RECIPE = CtRecipe()
NAMES = {5: "liver", 1: "spleen", 51: "heart", 21: "urinary_bladder", 29: "vertebrae_L3", 2: "kidney_right"}


@pytest.fixture
def scan(phantom: Any) -> Scan:
    return Scan(phantom.hu, phantom.affine)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_multilabel(phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: Any, dtype: Any) -> None:
    masks, checks = read_masks(write_nifti(phantom.labels.astype(dtype), phantom.affine), scan, RECIPE, organs)
    assert masks.labels.dtype == np.uint8
    assert np.array_equal(masks.labels, phantom.labels)
    assert checks == ()


def test_label_map_of_the_recipe(phantom: Any, scan: Scan, write_nifti: Callable[..., Path], organs: Any) -> None:
    path = write_nifti((phantom.labels == 5) * np.uint8(1) + (phantom.labels == 1) * np.uint8(2), phantom.affine)
    recipe = CtRecipe(label_map={1: "liver", 2: "phlogiston"})
    masks, checks = read_masks(path, scan, recipe, organs)
    assert np.array_equal(masks.labels, np.where(phantom.labels == 5, 5, 0))
    assert checks[0].code == "unknown_masks"
    assert "phlogiston" in checks[0].message


def test_label_table_in_the_file(phantom: Any, scan: Scan, tmp_path: Path, organs: OrganDictionary) -> None:
    image = nib.Nifti1Image((phantom.labels == 5) * np.uint8(200), phantom.affine)
    xml = (
        b'<CaretExtension><LabelTable><Label Key="200" Red="1"><![CDATA[liver]]></Label></LabelTable></CaretExtension>'
    )
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml))
    nib.save(image, tmp_path / "named.nii.gz")
    masks, _ = read_masks(tmp_path / "named.nii.gz", scan, RECIPE, organs)
    assert np.array_equal(masks.labels, np.where(phantom.labels == 5, 5, 0))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_one_file_per_organ(
    phantom: Any, scan: Scan, write_nifti: Callable[..., Path], tmp_path: Path, organs: Any, suffix: str
) -> None:
    for label, name in NAMES.items():
        one = (phantom.labels == label).astype(np.uint8)
        if suffix == ".nrrd":
            (tmp_path / "organs").mkdir(exist_ok=True)
            sitk.WriteImage(as_sitk(one), str(tmp_path / "organs" / f"{name}.nrrd"))
        else:
            write_nifti(one, phantom.affine, f"organs/{name}{suffix}")
    write_nifti(phantom.labels * 0, phantom.affine, "organs/phlogiston.nii.gz")
    (tmp_path / "organs" / "statistics.json").write_text("{}")
    masks, checks = read_masks(tmp_path / "organs", scan, RECIPE, organs)
    assert np.array_equal(masks.labels, phantom.labels)
    assert [check.code for check in checks] == ["unknown_masks"]


def as_sitk(array: np.ndarray) -> sitk.Image:
    """An image on the phantom's grid."""
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing([5, 5, 5])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin([70, 60, 30])
    return image


def test_v1_names_and_parts_over_wholes(
    scan: Scan, phantom: Any, write_nifti: Callable[..., Path], organs: Any
) -> None:
    liver = (phantom.labels == 5).astype(np.uint8)
    write_nifti(liver, phantom.affine, "v1/heart_ventricle_left.nii.gz")
    write_nifti((phantom.labels > 0).astype(np.uint8), phantom.affine, "v1/lung_right.nii.gz")
    path = write_nifti(liver * 0, phantom.affine, "v1/lung_upper_lobe_right.nii.gz").parent
    masks, _ = read_masks(path, scan, RECIPE, organs)
    assert set(np.unique(masks.labels)) == {0, organs["heart_ventricle_left"].label, organs["lung_right"].label}


def test_slicer_segmentation_by_segment_names(scan: Scan, phantom: Any, tmp_path: Path, organs: Any) -> None:
    image = as_sitk((phantom.labels == 5) * np.uint8(3) + (phantom.labels == 1) * np.uint8(4))
    for k, (name, value) in enumerate((("Liver", 3), ("tissue", 9), ("spleen", 4))):
        image.SetMetaData(f"Segment{k}_Name", name)
        image.SetMetaData(f"Segment{k}_LabelValue", str(value))
        image.SetMetaData(f"Segment{k}_Layer", "0")
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"), True)
    masks, checks = read_masks(tmp_path / "a.seg.nrrd", scan, RECIPE, organs)
    assert np.array_equal(masks.labels, np.where(np.isin(phantom.labels, (1, 5)), phantom.labels, 0))
    assert "tissue" in checks[0].message


def test_single_organ_file_by_its_name(scan: Scan, phantom: Any, write_nifti: Callable[..., Path], organs: Any) -> None:
    path = write_nifti((phantom.labels == 5).astype(np.uint8), phantom.affine, "liver.nii.gz")
    assert set(np.unique(read_masks(path, scan, RECIPE, organs)[0].labels)) == {0, 5}


def test_coarser_masks_are_resampled(scan: Scan, phantom: Any, write_nifti: Callable[..., Path], organs: Any) -> None:
    affine = phantom.affine.copy()
    affine[:3, :3] *= 2
    affine[:3, 3] += 2.5
    path = write_nifti(phantom.labels[::2, ::2, ::2], affine)
    masks, checks = read_masks(path, scan, RECIPE, organs)
    assert [check.code for check in checks] == ["masks_resampled"]
    assert masks.labels.shape == phantom.labels.shape
    before, after = phantom.labels == 5, masks.labels == 5
    assert 2 * (before & after).sum() / (before.sum() + after.sum()) > 0.6
    part = phantom.affine.copy()
    part[:3, 3] += [0, 0, 50]
    masks, _ = read_masks(write_nifti(phantom.labels[..., 10:], part, "part.nii"), scan, RECIPE, organs)
    assert np.array_equal(masks.labels[..., 10:], phantom.labels[..., 10:])
    assert not masks.labels[..., :10].any()


def test_masks_elsewhere_are_refused(scan: Scan, phantom: Any, write_nifti: Callable[..., Path], organs: Any) -> None:
    affine = phantom.affine.copy()
    affine[2, 3] += 120
    with pytest.raises(MaskError) as caught:
        read_masks(write_nifti(phantom.labels, affine), scan, RECIPE, organs)
    assert caught.value.code == "mask_elsewhere"


def test_another_slice_spacing_needs_leave(
    scan: Scan, phantom: Any, write_nifti: Callable[..., Path], organs: Any
) -> None:
    path = write_nifti(phantom.labels, phantom.affine @ np.diag([1, 1, 2.0, 1]))
    with pytest.raises(MaskError) as caught:
        read_masks(path, scan, RECIPE, organs)
    assert caught.value.code == "mask_slice_spacing"
    masks, checks = read_masks(path, scan, CtRecipe(align_masks_by_index=True), organs)
    assert np.array_equal(masks.labels, phantom.labels)
    assert [check.severity for check in checks] == ["warning"]


@pytest.mark.parametrize("spacing", [3.0, 6.0])
def test_uneven_series_with_masks_slice_by_slice(
    write_series: Callable[..., Path], write_nifti: Callable[..., Path], organs: Any, spacing: float
) -> None:
    hu = np.random.default_rng(0).integers(-500, 500, (20, 16, 8)).astype(np.int16)
    path = write_series(hu, np.arange(8) * 3.0, change=lambda k, data: k != 4)
    series, _ = read_scan(path, RECIPE)
    labels = np.zeros((20, 16, 7), np.uint8)
    for k in range(7):
        labels[:, :, k] = k + 1
    affine = series.affine @ np.diag([1, 1, spacing / 3.0, 1])
    masks_path = write_nifti(labels, affine)
    with pytest.raises(MaskError):
        read_masks(masks_path, series, RECIPE, organs)
    masks, _ = read_masks(masks_path, series, CtRecipe(align_masks_by_index=True), organs)
    assert masks.labels[0, 0].tolist() == [1, 2, 3, 4, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("array", "recipe", "code"),
    [
        (np.full((28, 30, 32), 250, np.uint8), RECIPE, "no_known_organ"),
        (np.full((28, 30, 32), 0.5, np.float32), RECIPE, "not_labels"),
        (np.full((28, 30, 32), -4, np.int16), RECIPE, "not_labels"),
        (np.zeros((28, 30, 32), np.uint8), RECIPE, "masks_empty"),
        (np.zeros((28, 30, 32, 2), np.uint8), RECIPE, "image_4d"),
        (np.ones((28, 30, 32), np.uint8), CtRecipe(label_map={1: "phlogiston"}), "no_known_organ"),
    ],
)
def test_unusable_masks(
    array: np.ndarray, recipe: CtRecipe, code: str, scan: Scan, write_nifti: Callable[..., Path], organs: Any
) -> None:
    with pytest.raises(MaskError) as caught:
        read_masks(write_nifti(array, scan.affine), scan, recipe, organs)
    assert caught.value.code == code


def test_unusable_paths(scan: Scan, tmp_path: Path, write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "masks.txt").write_text("x")
    strange = write_nifti(np.ones((28, 30, 32), np.uint8), scan.affine, "strange/phlogiston.nii.gz").parent
    for path, code in (
        (tmp_path / "gone.nii.gz", "no_file"),
        (tmp_path / "nothing", "folder_empty"),
        (tmp_path / "masks.txt", "not_masks"),
        (strange, "no_known_organ"),
    ):
        with pytest.raises(MaskError) as caught:
            read_masks(path, scan, RECIPE, organs)
        assert caught.value.code == code, path.name
