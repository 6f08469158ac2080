"""Real masks are right under their own numbering, and under another one refused with the right one named."""

from __future__ import annotations

import functools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import QualityCheck, Scan
from ctglip.vocabulary.numberings import load_numberings
from ctglip.vocabulary.organs import load_organs

NUMBERINGS = load_numberings()
TRUE = {
    "a": "totalsegmentator_v2", "a_slab": "totalsegmentator_v2", "b": "totalsegmentator_v2", "d": "totalsegmentator_v1",
    "g": "eight_organs", "g_full": "eight_organs", "h": "eight_organs",
}  # fmt: skip


@functools.cache
def scan_of(path: Path) -> Scan:
    return read_scan(path, CtRecipe())[0]


def files(root: Path, name: str, folder: Path) -> tuple[Scan, Path]:
    """The scan, and its masks as one file of numbers."""
    ct = root / "ct"
    a, g, h = ct / "patient_a_abdomen", ct / "patient_g_liver", ct / "patient_h_liver"
    pairs = {
        "a": (a / "ct.nii.gz", a / "totalsegmentator_v2.nii.gz"),
        "a_slab": (a / "ct_slab.nii.gz", a / "totalsegmentator_v2_slab.nii.gz"),
        "b": (ct / "patient_b_dicom" / "dicom", ct / "patient_b_dicom" / "totalsegmentator_v2.nii.gz"),
        "g": (g / "ct_3mm.nii.gz", g / "eight_organs_3mm.nii.gz"),
        "g_full": (g / "ct.nii.gz", g / "eight_organs_3mm.nii.gz"),
        "h": (h / "ct_3mm.nii.gz", h / "eight_organs_3mm.nii.gz"),
    }
    if name != "d":
        image, masks = pairs[name]
        return scan_of(image), without_table(masks, folder)
    d, organs = ct / "patient_d_chest_v1", load_organs()
    scan = scan_of(d / "dicom")
    recipe = CtRecipe(align_masks_by_index=True)
    labels = read_masks(d / "totalsegmentator_v1_one_file_per_organ", scan, recipe, organs)[0].labels
    numbers = np.zeros(256, np.uint8)
    for number, organ in NUMBERINGS["totalsegmentator_v1"].organs.items():
        numbers[organs[organ].label or 0] = number
    nib.save(nib.Nifti1Image(numbers[labels], scan.affine), folder / "v1.nii.gz")
    return scan, folder / "v1.nii.gz"


def without_table(path: Path, folder: Path) -> Path:
    """The masks without a label table in their header, so that nothing says what the numbers mean."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), folder / "plain.nii.gz")  # type: ignore[attr-defined]
    return folder / "plain.nii.gz"


def errors(checks: tuple[QualityCheck, ...]) -> list[QualityCheck]:
    return [check for check in checks if check.severity == "error"]


@pytest.mark.parametrize("name", TRUE)
def test_each_under_its_own_and_every_other_numbering(name: str, real_data: Path, tmp_path: Path) -> None:
    scan, masks = files(real_data, name, tmp_path)
    organs, true = load_organs(), TRUE[name]
    labels, checks = read_masks(masks, scan, CtRecipe(), organs, true)
    assert not errors(checks)
    present = {organs.label_names()[int(n)] for n in np.unique(labels.labels) if n}
    for other in NUMBERINGS:
        if other == true or {other, true} == {"totalsegmentator_v2", "totalsegmentator_v3"}:
            continue
        try:
            _, checks = read_masks(masks, scan, CtRecipe(), organs, other)
        except MaskError as error:
            found = error.code
        else:
            found = errors(checks)[0].message if errors(checks) else ""
        assert true in found or found == "no_known_organ", (other, found, present)
