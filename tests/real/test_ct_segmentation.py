"""Real scans are segmented from file to file. The model is tiny and has seen these very scans for a few steps: what is
tested is that masks lie on each scan's own voxels and that every score is told, not how good they are."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import validate
from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.store.tables import Store
from ctglip.tasks.ct_segmenter import ScanSegmenter
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.tuning import finetune

EIGHT = {1: "spleen", 2: "pancreas", 3: "kidney_left", 4: "gallbladder", 5: "esophagus", 6: "liver", 7: "stomach",
         8: "duodenum"}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, one a split, 8 mm, a network drawn for this."""
    folder, ct = tmp_path_factory.mktemp("real"), real_data / "ct"
    rows = [("g", "train", "ct_3mm.nii.gz"), ("h", "val", "ct_3mm.nii.gz"), ("h2", "test", "ct_3mm.nii.gz")]
    table = [
        {"study_id": name, "patient_id": name, "split": split,
         "image": str(ct / f"patient_{name[0]}_liver" / image),
         "masks": str(ct / f"patient_{name[0]}_liver" / "eight_organs_3mm.nii.gz")}
        for name, split, image in rows
    ]  # fmt: skip
    pl.DataFrame(table).write_csv(folder / "cohort.csv")
    config = PreprocessConfig.model_validate({"ct": {"spacing_mm": [8, 8, 8], "label_map": EIGHT}})
    preprocess_cohort(read_cohort(folder / "cohort.csv"), folder / "store", config, workers=1)
    fit = {"epochs": 3, "patience": 0, "batch": 1, "device": "cpu"}
    own = {"targets": ["liver", "spleen"], "width": 8, "patch": [32, 32, 32], "overlap": 0.25, "val_scans": 1}
    tree = {"task": "ct_segmentation", "segmentation": own, "scratch_fit": fit, "evaluate": {"draws": 10},
            "scratch_optim": {"lr": 0.01, "warmup": 0}}  # fmt: skip
    results = finetune(Path("cnn"), folder / "store", folder / "out", None, validate(FinetuneConfig, tree, "test"))
    (point,) = results.points
    assert {"liver Dice", "liver NSD", "liver HD95 (mm)", "spleen Dice"} <= point.more.keys()
    assert Store.open(folder / "store").info.modality == "ct"
    return folder / "out"


def test_masks_lie_on_the_voxels_of_a_nifti(tuned: Path, real_data: Path, tmp_path: Path) -> None:
    segmenter = ScanSegmenter(tuned)
    file = real_data / "ct" / "patient_g_liver" / "ct.nii.gz"
    segmenter.write(segmenter.segment(file), tmp_path)
    written, given = nib.load(tmp_path / "segmentation.nii.gz"), nib.load(file)
    assert written.shape == given.shape
    assert np.allclose(written.affine, given.affine, atol=1e-3)
    values = np.unique(np.asarray(written.dataobj))
    assert set(values.tolist()) <= {0, 1, 2}


def test_a_series_without_uids_gets_a_nifti_on_its_own_slices(tuned: Path, real_data: Path, tmp_path: Path) -> None:
    segmenter = ScanSegmenter(tuned)
    series = real_data / "ct" / "patient_b_dicom" / "dicom"
    found = segmenter.segment(series)
    files, missing = segmenter.write(found, tmp_path)
    assert "slices have no UIDs" in missing, "they were taken away with what names the patient"
    assert [file.name for file in files] == ["segmentation.nii.gz", "segmentation.json"]
    scan, _ = read_scan(series, CtRecipe())
    written = nib.as_closest_canonical(nib.load(files[0]))
    assert written.shape == scan.hu.shape
    assert np.allclose(written.affine, scan.affine, atol=1e-3)


def test_a_series_that_lacks_a_slice_is_segmented_on_even_ones(tuned: Path, real_data: Path, tmp_path: Path) -> None:
    segmenter = ScanSegmenter(tuned)
    found = segmenter.segment(real_data / "ct" / "patient_d_chest_v1" / "dicom")
    assert found.labels.shape == (512, 512, 21)
    assert found.slices == (), "a DICOM segmentation would refer to a slice that is not there"
    assert "slice_gap" in {check.code for check in found.checks}
