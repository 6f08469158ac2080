"""Each doubt about a scan or its masks is raised by what causes it, and by nothing on a sound scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ctglip.ct.doctor import examine
from ctglip.ct.mask_checks import check_masks
from ctglip.ct.quality import check_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.types import LabelMap, OrganRow, Scan
from ctglip.vocabulary.organs import OrganDictionary


def noisy(hu: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 15, hu.shape)
    return np.maximum(np.rint(hu + noise), -1024).astype(np.int16)


def test_a_sound_scan_raises_no_doubt(phantom: Any) -> None:
    assert check_scan(Scan(noisy(phantom.hu), phantom.affine)) == ()


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        (lambda hu: hu - 1024, "rescale_twice", "error"),
        (lambda hu: hu - 8192, "intercept_8192", "error"),
        (lambda hu: hu + 1024, "intercept_missing", "error"),
        (lambda hu: (np.clip(hu, -160, 240) + 160) * 255 // 400, "not_hu", "error"),
        (lambda hu: (hu > 0) * 1, "not_hu", "error"),
        (lambda hu: np.where(hu < -500, -3024, hu), "padding", "info"),
        (lambda hu: np.maximum(hu, -200), "hu_clipped", "warning"),
        (lambda hu: hu[8:20, 8:20, 6:26], "no_air", "warning"),
        (lambda hu: np.minimum(hu, 100), "no_bone", "warning"),
        (lambda hu: np.where((hu > -200) & (hu < 300), 1000, hu), "not_hu", "error"),
        (lambda hu: np.where(hu > -500, hu + 250, hu), "tissue_peak", "warning"),
    ],
)
def test_numbers(phantom: Any, change: Callable[[np.ndarray], np.ndarray], code: str, severity: str) -> None:
    hu = change(noisy(phantom.hu).astype(np.int32)).astype(np.int16)
    found = {check.code: check for check in check_scan(Scan(hu, phantom.affine))}
    assert found[code].severity == severity
    assert found[code].value is not None
    if severity == "error":
        assert len(found) == 1, "one cause, one doubt"


@pytest.mark.parametrize(
    ("spacing", "codes"),
    [
        ((0.1, 0.1, 5), {"spacing_unusual", "thin_slab"}),
        ((5, 5, 12), {"spacing_unusual"}),
        ((5, 5, 0.5), {"thin_slab"}),
        ((0.5, 0.5, 0.5), {"extent_implausible", "thin_slab"}),
        ((10, 10, 80), {"spacing_unusual", "extent_implausible"}),
    ],
)
def test_grids(phantom: Any, spacing: tuple[float, ...], codes: set[str]) -> None:
    scan = Scan(noisy(phantom.hu), np.diag([*spacing, 1.0]))
    assert {check.code for check in check_scan(scan)} == codes


@pytest.mark.parametrize(("axis", "code"), [(0, "left_right"), (1, "front_back"), (2, "up_down")])
def test_mirrored_masks(phantom: Any, organs: OrganDictionary, axis: int, code: str) -> None:
    recipe = CtRecipe(spacing_mm=(5, 5, 5))
    flipped = Scan(np.flip(phantom.hu, axis), phantom.affine), LabelMap(np.flip(phantom.labels, axis), phantom.affine)
    checks = {check.code: check for check in standardize(*flipped, recipe, organs).checks}
    assert checks[code].severity == "error"
    assert checks[code].value == 1
    assert set(checks) == {code}


def test_masks_beside_their_organs(phantom: Any, organs: OrganDictionary) -> None:
    moved = LabelMap(np.roll(phantom.labels, 10, axis=0), phantom.affine)
    checks = standardize(Scan(phantom.hu, phantom.affine), moved, CtRecipe(spacing_mm=(5, 5, 5)), organs).checks
    assert "organ_hu" in {check.code for check in checks}


def test_organs_cut_alike_are_not_out_of_order() -> None:
    both = (0, 50, 0, 50, 0, 7)
    rows = [OrganRow("liver", both, 100, 60, True), OrganRow("heart", both, 100, 60, True)]
    assert check_masks(rows) == ()


def test_doctor_says_everything(phantom: Any, write_nifti: Callable[..., Any], tmp_path: Any) -> None:
    recipe = CtRecipe(spacing_mm=(5, 5, 5))
    scan = write_nifti(noisy(phantom.hu), phantom.affine)
    masks = write_nifti(phantom.labels, phantom.affine, "masks.nii.gz")
    checks, summary = examine(scan, masks, recipe)
    assert checks == ()
    assert summary.shape == (28, 30, 32)
    assert summary.spacing_mm == (5, 5, 5)
    assert summary.extent_mm == (140, 150, 160)
    assert summary.organs["liver"] == pytest.approx((phantom.labels == 5).sum() * 0.125)
    assert "kidneys" not in summary.cut_organs
    mirrored = write_nifti(phantom.labels[::-1], phantom.affine, "mirrored.nii.gz")
    checks, _ = examine(scan, mirrored, recipe)
    assert {"left_right"} <= {check.code for check in checks}
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    checks, summary = examine(tmp_path / "empty.nii.gz", None, recipe)
    assert [(check.code, check.severity) for check in checks] == [("file_empty", "error")]
    assert summary.shape is None
    checks, summary = examine(scan, tmp_path / "empty.nii.gz", recipe)
    assert [(check.code, check.severity) for check in checks] == [("file_empty", "error")]
    assert summary.shape == (28, 30, 32)


def test_a_round_field_of_view_cuts_organs(phantom: Any, organs: OrganDictionary) -> None:
    hu = phantom.hu.copy()
    x = np.arange(28)[:, None, None]
    hu[np.broadcast_to(x > 19, hu.shape)] = -3024
    labels = np.where(x > 19, 0, phantom.labels).astype(np.uint8)
    recipe = CtRecipe(spacing_mm=(5, 5, 5))
    rows = standardize(Scan(hu, phantom.affine), LabelMap(labels, phantom.affine), recipe, organs).rows
    cut = {row.organ: row.touches_border for row in rows}
    assert cut["liver"]
    assert not cut["spleen"]
