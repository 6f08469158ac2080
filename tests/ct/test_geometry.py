"""Orientation and laterality: one asymmetric phantom, written in every orientation, comes back as the same anatomy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ctglip.ct.geometry import (
    canonical,
    check_affine,
    crop_affine,
    overlap,
    regrid,
    same_grid,
    shear_degrees,
    upright_grid,
)  # fmt: skip
from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import ScanError
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.organs import OrganDictionary

ORIENTATIONS = [
    "".join(order[k][flips[k]] for k in range(3))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for flips in itertools.product((0, 1), repeat=3)
]
RECIPE = CtRecipe(spacing_mm=(5, 5, 5))


def turned(array: np.ndarray, affine: np.ndarray, code: str) -> tuple[np.ndarray, np.ndarray]:
    """The same anatomy, stored in another orientation."""
    image = nib.Nifti1Image(array, affine)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    )
    moved = image.as_reoriented(change)
    return np.asarray(moved.dataobj), moved.affine


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_reads_as_the_same_volume(
    code: str, phantom: Any, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    scan_path = write_nifti(*turned(phantom.hu, phantom.affine, code), "scan.nii")
    mask_path = write_nifti(*turned(phantom.labels, phantom.affine, code), "masks.nii")
    scan, _ = read_scan(scan_path, RECIPE)
    masks, checks = read_masks(mask_path, scan, RECIPE, organs)
    assert np.array_equal(scan.hu, phantom.hu)
    assert np.allclose(scan.affine, phantom.affine)
    assert np.array_equal(masks.labels, phantom.labels)
    assert not checks
    result = standardize(scan, masks, RECIPE, organs)
    box = {row.organ: row.box for row in result.rows}
    assert box["liver"][0] > box["spleen"][1] - 1, "the liver is on the right, so its x is larger"
    assert box["vertebrae_L3"][3] < box["liver"][3], "the spine is behind"
    assert box["urinary_bladder"][5] < box["liver"][4], "the bladder is below"
    assert not [check for check in result.checks if check.code in ("left_right", "front_back", "up_down")]


@st.composite
def affines(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """Any of the 48 orientations, turned by up to 20 degrees, anisotropic."""
    code = draw(st.sampled_from(ORIENTATIONS))
    angles = draw(st.tuples(*[st.floats(-20, 20)] * 3))
    spacing = draw(st.tuples(*[st.floats(1.5, 8)] * 3))
    position = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = position
    return code, affine


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=affines())
def test_any_affine_keeps_the_anatomy(case: tuple[str, np.ndarray], phantom: Any, organs: OrganDictionary) -> None:
    code, affine = case
    hu, stored = turned(phantom.hu, affine, code)
    labels, _ = turned(phantom.labels, affine, code)
    view, placed = canonical(hu, stored)
    masks, _ = canonical(labels, stored)
    assert np.array_equal(view, phantom.hu)
    assert np.allclose(placed, affine, atol=1e-6)
    recipe = CtRecipe(spacing_mm=(3, 3, 3))
    result = standardize(Scan(view, placed), LabelMap(masks, placed), recipe, organs)
    for label in (5, 1, 51):
        before = (np.argwhere(phantom.labels == label).mean(0) @ affine[:3, :3].T) + affine[:3, 3]
        after = (np.argwhere(result.organs == label).mean(0) @ result.affine[:3, :3].T) + result.affine[:3, 3]
        assert np.linalg.norm(after - before) < 3.0, "the organ stays where it is in millimetres"


def test_slanted_slices_become_upright(phantom: Any, write_nifti: Callable[..., Path]) -> None:
    affine = phantom.affine.copy()
    affine[:3, 2] = (0, 5 * np.tan(np.radians(15)), 5)
    scan, checks = read_scan(write_nifti(phantom.hu, affine), RECIPE)
    assert shear_degrees(scan.affine) < 1e-3
    assert [check.code for check in checks if check.code == "gantry_tilt"]
    spot = np.argwhere(phantom.labels == 51).mean(0) @ affine[:3, :3].T + affine[:3, 3]
    index = np.rint(np.linalg.solve(scan.affine, [*spot, 1])[:3]).astype(int)
    assert abs(scan.hu[tuple(index)] - 120) <= 1, "the middle of the heart is where it was"
    shape, upright = upright_grid(phantom.hu.shape, affine)
    assert np.allclose(np.linalg.norm(upright[:3, :3], axis=0), 5)
    assert shape[0] == 28
    assert shape[1] > 30


@pytest.mark.parametrize(
    ("affine", "code"),
    [
        (np.diag([1.0, 1, 0, 1]), "bad_affine"),
        (np.full((4, 4), np.nan), "bad_affine"),
        (np.diag([0.01, 1, 1, 1]), "spacing_implausible"),
        (np.diag([1.0, 1, 80, 1]), "spacing_implausible"),
    ],
)
def test_impossible_affines(affine: np.ndarray, code: str) -> None:
    with pytest.raises(ScanError) as caught:
        check_affine(affine, "scan.nii.gz")
    assert caught.value.code == code


def test_same_grid_and_overlap() -> None:
    shape, affine = (10, 12, 14), np.diag([2.0, 2, 3, 1])
    moved = crop_affine(affine, (5, 0, 0))
    assert same_grid(shape, affine, shape, affine + 1e-6)
    assert not same_grid(shape, affine, shape, moved)
    assert not same_grid(shape, affine, (10, 12, 13), affine)
    assert overlap(shape, affine, shape, moved) == pytest.approx(0.5)
    assert overlap(shape, affine, shape, crop_affine(affine, (50, 0, 0))) == 0
    assert overlap(shape, affine, (5, 5, 5), affine) == pytest.approx(1.0)


def test_regrid_keeps_the_low_edge_and_the_extent() -> None:
    affine = np.diag([0.8, 0.8, 2.5, 1])
    affine[:3, 3] = (10, 20, 30)
    shape, new = regrid(affine, (10, 110, 0, 100, 4, 24), (1.6, 1.6, 5.0))
    assert shape == (50, 50, 10)
    edge = affine @ [9.5, -0.5, 3.5, 1]
    assert np.allclose(new @ [-0.5, -0.5, -0.5, 1], edge)
