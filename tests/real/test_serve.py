"""Real series through the page's calls: what a radiologist would drop."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ctglip.store.tables import Store
from tests.serve.conftest import Ward, files, make_ward, trained

__all__ = ["files", "trained"]


@pytest.fixture(scope="module")
def ward(trained: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return make_ward(tmp_path_factory.mktemp("real"), [trained[1]])


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def organs_of(ward: Ward, scan_id: str) -> dict[str, dict[str, float]]:
    return {one["organ"]: one for one in ward.get(f"/api/scans/{scan_id}/organs")["organs"]}


def test_a_dicom_series_is_dropped_and_asked(ward: Ward, real_data: Path) -> None:
    folder = real_data / "ct" / "patient_b_dicom"
    scan = ward.read(files_of(folder / "dicom"), [folder / "totalsegmentator_v2.nii.gz"])
    assert scan["state"] == "ready", scan["error"]
    assert scan["about"]["image"]["voxels"] == [512, 512, 20]
    assert scan["about"]["series"][0]["slice_mm"] == 2.0
    organs = organs_of(ward, scan["id"])
    assert 30 < organs["liver"]["mean_hu"] < 160
    (answer,) = ward.post(f"/api/scans/{scan['id']}/ask", {"questions": ["liver: fatty liver"]})["answers"]
    assert 0 < answer["probability"] < 1
    assert not answer["calibrated"], "a model of boxes has not seen people"


def test_an_irregular_series_whose_masks_say_another_spacing_is_refused_in_words(
    ward: Ward, real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "ct" / "patient_d_chest_v1"
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in files_of(folder / "dicom"):
            archive.write(path, f"study/{path.name}")
    scan = ward.read([tmp_path / "study.zip"], files_of(folder / "totalsegmentator_v1_one_file_per_organ"))
    assert scan["state"] == "failed"
    assert scan["error"]["code"] == "mask_slice_spacing"
    assert "0.8 mm" in scan["error"]["message"]
    assert "--set" not in scan["error"]["fix"]
    assert any(check["code"] == "slice_gap" for check in scan["about"]["checks"])
    assert ward.client.get(f"/api/scans/{scan['id']}/pictures/coronal.png").status_code == 200


def test_a_nifti_of_the_abdomen_is_shown_with_its_organs(ward: Ward, real_data: Path) -> None:
    folder = real_data / "ct" / "patient_a_abdomen"
    scan = ward.read([folder / "ct.nii.gz"], [folder / "totalsegmentator_v2.nii.gz"])
    assert scan["state"] == "ready", scan["error"]
    organs = organs_of(ward, scan["id"])
    assert 500 < organs["liver"]["volume_ml"] < 3000
    right, left = (organs[f"kidney_{side}"]["shown"]["centre"][0] for side in ("right", "left"))
    assert right > left, "in RAS+ x grows towards the patient's right"
