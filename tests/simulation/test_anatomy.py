from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.errors import MaskError, ScanError
from ctglip.simulation.anatomy import Anatomy, load_template
from ctglip.simulation.labels import number, numbers_of
from ctglip.simulation.lesions import possible_kinds
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, simulate_study
from ctglip.vocabulary.organs import totalsegmentator_classes


def test_every_label_is_totalsegmentators(torso: Anatomy) -> None:
    present = {int(v) for v in np.unique(torso.labels) if v}
    assert present <= set(totalsegmentator_classes())
    assert len(present) > 90


@pytest.mark.parametrize(
    ("organ", "low_ml", "high_ml", "low_hu", "high_hu"),
    [
        ("liver", 900, 2000, 45, 65),
        ("spleen", 90, 320, 40, 56),
        ("kidney_left", 90, 230, 25, 42),
        ("kidney_right", 90, 230, 25, 42),
        ("lungs", 1800, 5000, -900, -760),
        ("heart", 350, 900, 30, 50),
        ("aorta", 80, 300, 30, 50),
        ("gallbladder", 12, 60, 0, 20),
        ("urinary_bladder", 80, 350, 0, 15),
        ("vertebrae_L3", 20, 70, 130, 400),
    ],
)
def test_organs_have_the_size_and_density_of_real_ones(
    torso: Anatomy, organ: str, low_ml: float, high_ml: float, low_hu: float, high_hu: float
) -> None:
    assert low_ml < torso.volume_ml(organ) < high_ml
    inside = np.isin(torso.labels, numbers_of(organ))
    assert low_hu < np.median(torso.hu[inside]) < high_hu


def test_the_body_lies_as_ras_says(torso: Anatomy) -> None:
    def centre(organ: str) -> np.ndarray:
        position = torso.position(organ)
        assert position is not None
        return position[0]

    assert centre("liver")[0] > centre("spleen")[0]  # x grows to the right
    assert centre("sternum")[1] > centre("vertebrae_T8")[1]  # y grows to the front
    assert centre("heart")[2] > centre("urinary_bladder")[2]  # z grows to the head
    heights = [centre(f"vertebrae_{level}")[2] for level in ("L5", "L4", "L1", "T12", "T8", "T5", "T1")]
    assert heights == sorted(heights)


def test_patients_differ_and_stay_whole(one_body: SimulationSettings) -> None:
    first, second = (simulate_study(1, index, one_body, pairs=()) for index in (0, 1))
    assert first.labels.labels.shape != second.labels.labels.shape or (first.scan.hu != second.scan.hu).any()
    for study in (first, second):
        for organ in ("liver", "spleen", "kidney_left", "gallbladder", "urinary_bladder", "aorta", "heart"):
            assert (study.labels.labels == number(organ)).sum() > 200


def _write_template(folder: Path, torso: Anatomy, shift: float = 0.0) -> tuple[Path, Path]:
    part = np.s_[::2, ::2, 60:120:2]
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(torso.hu[part].astype(np.int16), affine), folder / "ct.nii.gz")
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(torso.labels[part], affine), folder / "masks.nii.gz")
    return folder / "ct.nii.gz", folder / "masks.nii.gz"


def test_a_template_gives_only_what_it_has_organs_for(tmp_path: Path, torso: Anatomy) -> None:
    template = load_template(*_write_template(tmp_path, torso))
    pairs = {kind.pair for kind in possible_kinds(template)}
    assert "liver:liver_cyst" in pairs
    assert not {"heart:cardiomegaly", "urinary_bladder:bladder_stone", "lungs:emphysema"} & pairs
    study = simulate_study(0, 0, SimulationSettings(spacing_mm=5), template, pairs=["liver:liver_cyst"])
    assert set(study.truth) == pairs
    assert study.truth["liver:liver_cyst"] == 1


def test_a_templates_own_stones_are_removed(tmp_path: Path, torso: Anatomy) -> None:
    kidney = np.argwhere(torso.labels == number("kidney_left"))
    x, y, z = kidney[len(kidney) // 2]
    torso.hu[x, y, z] += 900
    paths = _write_template(tmp_path, torso)
    torso.hu[x, y, z] -= 900
    template = load_template(*paths)
    assert template.hu[template.labels == number("kidney_left")].max() < 200


def test_a_template_on_two_grids_is_refused(tmp_path: Path, torso: Anatomy) -> None:
    with pytest.raises(MaskError, match="affines differ"):
        load_template(*_write_template(tmp_path, torso, shift=20))


def test_a_truncated_template_is_refused(tmp_path: Path, torso: Anatomy) -> None:
    scan, masks = _write_template(tmp_path, torso)
    scan.write_bytes(scan.read_bytes()[:5000])
    with pytest.raises(ScanError, match=r"ct\.nii\.gz cannot be read"):
        load_template(scan, masks)


def test_a_study_lies_in_its_own_millimetres(twins: object) -> None:
    assert callable(twins)
    study: SimulatedStudy = twins("urinary_bladder:bladder_stone")
    lesion = max(study.lesions, key=lambda m: m.radius_mm)
    voxel = np.linalg.inv(study.scan.affine) @ [*lesion.centre_mm, 1]
    x, y, z = np.rint(voxel[:3]).astype(int)
    assert study.scan.hu[x, y, z] > 200
