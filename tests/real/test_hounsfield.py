"""Real scans, whatever their padding, phase and noise, are HU; what befalls them is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.quality import check_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.types import Scan
from tests.ct.bodies import CORRUPTIONS, stored

SCANS = {
    "a": "patient_a_abdomen/ct.nii.gz", "a, slab": "patient_a_abdomen/ct_slab.nii.gz", "b": "patient_b_dicom/dicom",
    "d": "patient_d_chest_v1/dicom", "g": "patient_g_liver/ct_3mm.nii.gz", "h": "patient_h_liver/ct_3mm.nii.gz",
    "r": "patient_r_neck/ct.nii.gz",
}  # fmt: skip


def wrong(hu: np.ndarray, affine: np.ndarray) -> set[str]:
    return {check.code for check in check_scan(Scan(hu, affine)) if check.severity == "error"}


def _try(scan: Scan) -> None:
    assert wrong(scan.hu, scan.affine) == set()
    passed = {name for name, (change, _) in CORRUPTIONS.items() if not wrong(_after(change, scan), scan.affine)}
    assert passed == set()


def _after(change: Callable[[np.ndarray], np.ndarray], scan: Scan) -> np.ndarray:
    step = tuple(max(1, size // 64) for size in scan.hu.shape)
    return stored(change(scan.hu[:: step[0], :: step[1], :: step[2]].astype(np.int32)))


@pytest.mark.parametrize("name", SCANS)
def test_a_real_scan_passes_and_its_corruptions_do_not(name: str, real_data: Path) -> None:
    _try(read_scan(real_data / "ct" / SCANS[name], CtRecipe())[0])


def test_a_real_chest_with_padding() -> None:
    slicerio = pytest.importorskip("slicerio")
    _try(read_scan(Path(slicerio.__file__).parent / "data" / "CTChest4.nrrd", CtRecipe())[0])
