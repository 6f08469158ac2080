from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from ctglip.cohort import read_cohort
from ctglip.errors import CTGLIPError
from ctglip.simulation.cohort import simulate_cohort
from ctglip.simulation.study import SimulationSettings, patient_of, simulate_study
from tests.label_frames import label_frame

COARSE = SimulationSettings(bodies=1, contrast=0, spacing_mm=7)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctglip.simulation.cohort.draw_montage", lambda path, *_: path.write_bytes(b"png"))
        simulate_cohort(out, 4, seed=5, settings=COARSE)
    return out


@pytest.fixture(autouse=True)
def no_montage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The montage has its own test."""
    monkeypatch.setattr("ctglip.simulation.cohort.draw_montage", lambda path, *_: path.write_bytes(b"png"))


def _bytes(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_same_bytes_with_any_number_of_workers(cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    simulate_cohort(tmp_path, 4, seed=5, settings=COARSE, workers=2, progress=progress)
    assert _bytes(tmp_path) == _bytes(cohort)
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)


def test_tables_are_what_readers_expect(cohort: Path) -> None:
    table = read_cohort(cohort / "cohort.csv")
    assert [row.study_id for row in table.rows] == [f"sim-{n:05d}" for n in range(4)]
    assert table.bad == ()
    truth = label_frame(cohort / "truth.csv")
    assert truth["study_id"].to_list() == [row.study_id for row in table.rows]
    assert "kidney_left:renal_cyst" in truth.columns
    lesions = pl.read_csv(cohort / "lesions.csv")
    assert {"study_id", "organ", "abnormality", "x_mm", "y_mm", "z_mm", "radius_mm"} == set(lesions.columns)
    for row in table.rows:
        positives = {n.split(":")[1] for n in truth.columns[1:] if truth.filter(study_id=row.study_id)[n][0] == 1}
        assert positives == set(lesions.filter(study_id=row.study_id)["abnormality"])
    with (cohort / "cohort.csv").open() as stream:
        assert "split" not in next(csv.reader(stream))


def test_images_and_masks_share_a_grid_in_ras(cohort: Path) -> None:
    for row in read_cohort(cohort / "cohort.csv").rows:
        assert row.masks is not None
        image, masks = nib.load(row.image), nib.load(row.masks)
        assert image.shape == masks.shape
        assert np.array_equal(image.affine, masks.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert np.asarray(image.dataobj).dtype == np.int16
        labels = np.asarray(masks.dataobj)
        assert labels.dtype == np.uint8
        assert labels.max() <= 117


def test_a_run_taken_up_again_makes_only_what_is_missing(cohort: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, 2, seed=5, settings=COARSE)
    first = (tmp_path / "images" / "sim-00000.nii.gz").stat().st_mtime_ns
    (tmp_path / "masks" / "sim-00001.nii.gz").unlink()
    (tmp_path / "records" / "sim-00001.json").write_text("{")
    simulate_cohort(tmp_path, 4, seed=5, settings=COARSE)
    assert (tmp_path / "images" / "sim-00000.nii.gz").stat().st_mtime_ns == first
    assert _bytes(tmp_path) == _bytes(cohort)


def test_other_settings_make_other_studies(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, 1, seed=5, settings=COARSE)
    before = json.loads((tmp_path / "records" / "sim-00000.json").read_text())
    simulate_cohort(tmp_path, 1, seed=5, settings=COARSE.model_copy(update={"prevalence": 1.0}))
    after = json.loads((tmp_path / "records" / "sim-00000.json").read_text())
    assert before["hash"] != after["hash"]
    assert sum(after["truth"].values()) > sum(before["truth"].values())


def test_a_study_is_the_same_each_time_and_unlike_the_others() -> None:
    first, again, other = (simulate_study(9, index, COARSE) for index in (3, 3, 4))
    assert np.array_equal(first.scan.hu, again.scan.hu)
    assert (first.report, first.truth, first.lesions) == (again.report, again.truth, again.lesions)
    assert first.report != other.report


def test_some_patients_have_two_studies() -> None:
    settings = SimulationSettings()
    patients = [patient_of(0, index, settings) for index in range(600)]
    again = [index for index, patient in enumerate(patients) if patient != index]
    assert 0.06 < len(again) / 600 < 0.14
    assert all(patients[index] == index - 1 and patients[index - 1] == index - 1 for index in again)


def test_a_second_study_shows_the_same_patient() -> None:
    settings = SimulationSettings(second_studies=0.49, bodies=1)
    index = next(n for n in range(1, 20) if patient_of(0, n, settings) != n)
    first, second = simulate_study(0, index - 1, settings, pairs=()), simulate_study(0, index, settings, pairs=())
    assert second.patient == first.patient
    assert (first.sex, first.age + 1) == (second.sex, second.age)
    assert first.scan.hu.shape == second.scan.hu.shape
    assert (first.labels.labels == second.labels.labels).mean() > 0.9
    assert not np.array_equal(first.scan.hu, second.scan.hu)


def test_prevalence_is_kept() -> None:
    low = SimulationSettings(bodies=1, prevalence=0.0, rates={"liver_cyst": 1.0})
    study = simulate_study(1, 1, low)
    assert {pair for pair, here in study.truth.items() if here} == {"liver:liver_cyst"}


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="0 studies"):
        simulate_cohort(tmp_path, 0, seed=1)
