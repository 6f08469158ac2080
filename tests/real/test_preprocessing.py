"""Real patients from their files into a store and out again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.driver import Summary, preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.store.export import export_study
from ctglip.store.tables import Store
from ctglip.store.verify import verify


def _slicer_chest() -> list[tuple[str, Path, Path]]:
    if (found := importlib.util.find_spec("slicerio")) is None or found.origin is None:
        return []
    data = Path(found.origin).parent / "data"
    return [("S", data / "CTChest4.nrrd", data / "Segmentation.seg.nrrd")]


@pytest.fixture(scope="module")
def done(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Store]:
    """Patients A (NIfTI, multilabel), B (DICOM, multilabel), D (DICOM, one file per organ), G, H and R (no masks), and
    the chest that comes with slicerio (NRRD, named segments) where it is installed."""
    ct, out = real_data / "ct", tmp_path_factory.mktemp("real")
    rows = [
        ("A", ct / "patient_a_abdomen/ct.nii.gz", ct / "patient_a_abdomen/totalsegmentator_v2.nii.gz"),
        ("B", ct / "patient_b_dicom/dicom", ct / "patient_b_dicom/totalsegmentator_v2.nii.gz"),
        ("D", ct / "patient_d_chest_v1/dicom", ct / "patient_d_chest_v1/totalsegmentator_v1_one_file_per_organ"),
        ("G", ct / "patient_g_liver/ct.nii.gz", None),
        ("H", ct / "patient_h_liver/ct_3mm.nii.gz", None),
        ("R", ct / "patient_r_neck/ct.nii.gz", None),
        *_slicer_chest(),
    ]
    lines = [(name, name, str(image), masks and str(masks)) for name, image, masks in rows]
    pl.DataFrame(lines, schema=["study_id", "patient_id", "image", "masks"], orient="row").write_csv(out / "cohort.csv")
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm", ["ct.align_masks_by_index=true"])
    summary = preprocess_cohort(read_cohort(out / "cohort.csv"), out / "store", config)
    return summary, Store.open(out / "store")


def test_all_become_studies_of_a_sound_store(done: tuple[Summary, Store]) -> None:
    summary, store = done
    assert (summary.written, summary.failed) == (6 + len(_slicer_chest()), ())
    assert verify(store) == []
    assert (store.path / "quality.html").stat().st_size > 20_000


def test_organs_are_where_and_as_large_as_they_were(done: tuple[Summary, Store], real_data: Path) -> None:
    masks = nib.load(real_data / "ct/patient_a_abdomen/totalsegmentator_v2.nii.gz")
    values = np.asarray(masks.dataobj)
    voxel_ml = float(np.prod(masks.header.get_zooms()[:3])) / 1000
    rows = {row["organ"]: row for row in done[1].study("A").rows("organs")}
    for name, number in (("liver", 5), ("spleen", 1), ("kidney_left", 3), ("kidney_right", 2), ("urinary_bladder", 21)):
        assert rows[name]["volume_ml"] == pytest.approx((values == number).sum() * voxel_ml, rel=0.02), name
    centre = {name: (rows[name]["x0"] + rows[name]["x1"]) / 2 for name in ("liver", "spleen")}
    assert centre["liver"] > centre["spleen"], "x grows towards the patient's right"


def test_what_is_odd_about_patient_d_is_written_down(done: tuple[Summary, Store]) -> None:
    row = done[1].table("studies").filter(study_id="D").row(0, named=True)
    codes = {check["code"] for check in json.loads(row["checks"])}
    assert {"slice_gap", "mask_slice_spacing"} <= codes
    assert row["source_spacing_mm"][2] == pytest.approx(0.8, abs=1e-3)


def test_masks_come_back_on_the_original_grid(done: tuple[Summary, Store], real_data: Path, tmp_path: Path) -> None:
    image, organs = export_study(done[1], "A", tmp_path, grid="original")[:2]
    source = nib.as_closest_canonical(nib.load(real_data / "ct/patient_a_abdomen/ct.nii.gz"))
    np.testing.assert_allclose(nib.load(image).affine, source.affine, atol=1e-4)
    masks = nib.as_closest_canonical(nib.load(real_data / "ct/patient_a_abdomen/totalsegmentator_v2.nii.gz"))
    same = np.asarray(nib.load(organs).dataobj) == np.asarray(masks.dataobj)
    assert same.mean() > 0.999


@pytest.mark.parametrize("letter", ["G", "H"])
def test_eight_organs_of_another_numbering(real_data: Path, tmp_path: Path, letter: str) -> None:
    """Patients G (masks on another grid than the full scan) and H with their own label map."""
    folder = real_data / "ct" / f"patient_{letter.lower()}_liver"
    image = folder / ("ct.nii.gz" if letter == "G" else "ct_3mm.nii.gz")
    row = ("study_id,patient_id,image,masks", f"{letter},{letter},{image},{folder / 'eight_organs_3mm.nii.gz'}")
    (tmp_path / "cohort.csv").write_text("\n".join(row))
    names = "{1: spleen, 2: pancreas, 3: kidney_left, 4: gallbladder, 5: esophagus, 6: liver, 7: stomach, 8: duodenum}"
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm", [f"ct.label_map={names}"])
    summary = preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", config)
    assert (summary.written, summary.failed) == (1, ())
    rows = {row["organ"]: row for row in Store.open(tmp_path / "store").study(letter).rows("organs")}
    assert rows["liver"]["x0"] + rows["liver"]["x1"] > rows["spleen"]["x0"] + rows["spleen"]["x1"]
    assert 60 < rows["liver"]["mean_hu"] < 180, "portal-venous phase"
    assert 5 < rows["liver"]["sd_hu"] < 80


def test_the_slicer_chest_has_lungs_and_spine(done: tuple[Summary, Store]) -> None:
    if not _slicer_chest():
        pytest.skip("slicerio is not installed")
    rows = {row["organ"]: row for row in done[1].study("S").rows("organs")}
    assert 4000 < rows["lungs"]["volume_ml"] < 9000
    assert rows["lung_right"]["x0"] + rows["lung_right"]["x1"] > rows["lung_left"]["x0"] + rows["lung_left"]["x1"]
    assert rows["thoracic_spine"]["y1"] < rows["lungs"]["y1"], "the spine is behind"
