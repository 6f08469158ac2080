"""Real patients: what is known of their anatomy must come out of every form in which their scans and masks come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import MaskError
from ctglip.types import LabelMap, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import load_organs

EIGHT = {
    1: "spleen", 2: "pancreas", 3: "kidney_left", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach",
    8: "duodenum",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    scan: Scan
    masks: LabelMap | None
    study: Standardized
    checks: tuple[QualityCheck, ...]

    @property
    def codes(self) -> set[str]:
        return {check.code for check in self.checks}

    def centre(self, organ: str) -> np.ndarray:
        box = next(row.box for row in self.study.rows if row.organ == organ)
        return np.array([(a + b) / 2 for a, b in zip(box[::2], box[1::2], strict=True)])

    def row(self, organ: str) -> tuple[float, float, bool]:
        row = next(row for row in self.study.rows if row.organ == organ)
        return row.volume_ml, row.mean_hu, row.touches_border


def load(image: Path, masks: Path | None, **recipe: object) -> Case:
    settings = CtRecipe.model_validate({"spacing_mm": (3, 3, 3), **recipe})
    organs = load_organs()
    scan, checks = read_scan(image, settings)
    if masks is None:
        study = standardize(scan, None, settings, organs)
        return Case(scan, None, study, (*checks, *study.checks))
    labels, more = read_masks(masks, scan, settings, organs)
    study = standardize(scan, labels, settings, organs)
    return Case(scan, labels, study, (*checks, *more, *study.checks))


def test_patient_a_multilabel(real_data: Path) -> None:
    folder = real_data / "ct" / "patient_a_abdomen"
    case = load(folder / "ct.nii.gz", folder / "totalsegmentator_v2.nii.gz")
    assert case.scan.hu.min() == -1207
    assert case.scan.hu.max() == 3382
    assert not [check for check in case.checks if check.severity == "error"]
    assert case.centre("liver")[0] > case.centre("spleen")[0]
    assert case.centre("kidney_right")[0] > case.centre("kidney_left")[0]
    assert case.centre("urinary_bladder")[2] < case.centre("liver")[2]
    assert case.centre("vertebrae_L3")[1] < case.centre("aorta")[1]
    volume, hu, _ = case.row("liver")
    assert 800 < volume < 2500
    assert 20 < hu < 80


def test_patient_a_slab_by_organ_files_is_like_its_multilabel(real_data: Path) -> None:
    folder = real_data / "ct" / "patient_a_abdomen"
    one = load(folder / "ct_slab.nii.gz", folder / "slab_one_file_per_organ")
    other = load(folder / "ct_slab.nii.gz", folder / "totalsegmentator_v2_slab.nii.gz")
    assert one.masks is not None
    assert other.masks is not None
    for label in (1, 2, 3, 5):  # two runs of the same model: nearly the same
        first, second = one.masks.labels == label, other.masks.labels == label
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.95
    assert one.row("liver")[2], "the slab cuts the liver"


def test_patient_b_dicom_with_turned_masks(real_data: Path) -> None:
    folder = real_data / "ct" / "patient_b_dicom"
    case = load(folder / "dicom", folder / "totalsegmentator_v2.nii.gz")
    assert case.scan.hu.shape == (512, 512, 20)
    assert np.allclose(case.scan.spacing_mm, (0.9765625, 0.9765625, 2))
    assert (case.scan.hu.min(), case.scan.hu.max()) == (-1024, 1839)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    theirs = sitk.GetArrayFromImage(reader.Execute()).T[::-1, ::-1]
    assert np.array_equal(case.scan.hu, theirs), "SimpleITK reads the same numbers"
    assert "masks_resampled" not in case.codes, "the masks lie on the series' own grid"
    assert case.centre("liver")[0] > case.centre("spleen")[0]
    assert 60 < case.row("liver")[1] < 130
    assert 150 < case.row("aorta")[1] < 250


def test_patient_d_missing_slice_and_masks_by_index(real_data: Path) -> None:
    folder = real_data / "ct" / "patient_d_chest_v1"
    masks = folder / "totalsegmentator_v1_one_file_per_organ"
    with pytest.raises(MaskError) as caught:
        load(folder / "dicom", masks)
    assert caught.value.code == "mask_slice_spacing"
    case = load(folder / "dicom", masks, align_masks_by_index=True)
    assert case.scan.hu.shape == (512, 512, 21)
    assert case.scan.spacing_mm[2] == pytest.approx(0.8, abs=1e-3)
    assert {"slice_gap", "mask_slice_spacing"} <= case.codes
    assert case.centre("lung_right")[0] > case.centre("lung_left")[0]
    assert case.row("lungs")[1] < -750
    assert case.row("aorta")[1] == pytest.approx(20, abs=40)


@pytest.mark.parametrize("letter", ["g", "h"])
def test_patients_g_and_h_with_a_label_map(real_data: Path, letter: str) -> None:
    folder = real_data / "ct" / f"patient_{letter}_liver"
    case = load(folder / "ct_3mm.nii.gz", folder / "eight_organs_3mm.nii.gz", label_map=EIGHT)
    assert case.centre("liver")[0] > case.centre("spleen")[0]
    assert case.row("spleen")[1] > 80, "portal-venous phase"


def test_patient_g_masks_on_another_grid_agree_with_their_own(real_data: Path) -> None:
    folder = real_data / "ct" / "patient_g_liver"
    full = load(folder / "ct.nii.gz", folder / "eight_organs_3mm.nii.gz", label_map=EIGHT)
    small = load(folder / "ct_3mm.nii.gz", folder / "eight_organs_3mm.nii.gz", label_map=EIGHT)
    assert "masks_resampled" in full.codes
    for organ in ("liver", "spleen", "kidney_left"):
        volume, hu, _ = full.row(organ)
        assert volume == pytest.approx(small.row(organ)[0], rel=0.03)
        assert hu == pytest.approx(small.row(organ)[1], abs=5)


def test_patient_r_neck(real_data: Path) -> None:
    case = load(real_data / "ct" / "patient_r_neck" / "ct.nii.gz", None)
    assert case.study.organs is None
    assert not [check for check in case.checks if check.severity == "error"]


def test_slicer_chest() -> None:
    slicerio = pytest.importorskip("slicerio")
    data = Path(slicerio.__file__).parent / "data"
    case = load(data / "CTChest4.nrrd", data / "Segmentation.seg.nrrd")
    assert "padding" in case.codes
    assert case.study.image.min() == -1024
    assert case.centre("lung_right")[0] > case.centre("lung_left")[0]
    assert case.centre("thoracic_spine")[1] < case.centre("lungs")[1]
    assert case.centre("cervical_spine")[2] > case.centre("thoracic_spine")[2]
    assert 4000 < case.row("lungs")[0] < 9000
