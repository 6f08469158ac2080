"""CT-RATE in both versions, with their traps: what is chosen, left out, and whether the numbers are HU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctglip.cohort import read_cohort
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import write_cohort
from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import CohortError, ScanError
from tests.cohorts.builders import (
    PHANTOM,
    assert_is_phantom,
    excluded_in,
    flipped,
    labels_in,
    run,
    scan_of,
    write_file,
    write_rows,
    write_scan,
)

LABELS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule",
    "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip
VOLUMES = {
    # name: (intercept, slice spacing, kernel)
    "train_9001_a_1": (-1024, 6.0, "B70f"),
    "train_9001_a_2": (-8192, 6.0, "['Br40f', '3']"),
    "train_9001_b_1": (-1024, 6.0, "B30f"),
    "train_9002_a_1": (-8192, 6.0, "B30f"),
    "train_1267_a_4": (-1024, 6.0, "B30f"),
    "train_9003_a_1": (-1024, 6.0, "B30f"),
    "valid_9001_a_1": (-1024, 6.0, "B30f"),
    "valid_9001_a_2": (-1024, 3.0, "B70f"),
}


def folder_of(name: str, ending: str) -> str:
    split, patient, scan, _ = name.split("_")
    return f"dataset/{split}{ending}/{split}_{patient}/{split}_{patient}_{scan}/{name}.nii.gz"


def metadata(name: str) -> dict[str, Any]:
    intercept, depth, kernel = VOLUMES[name]
    _, affine = flipped(PHANTOM.hu, PHANTOM.affine)
    x, y, z = affine[:3, 3].tolist()
    return {
        "VolumeName": f"{name}.nii.gz", "Manufacturer": "Siemens", "ManufacturerModelName": "Flash", "PatientSex": "F",
        "PatientAge": "036Y", "ConvolutionKernel": kernel, "ImagePositionPatient": f"[{-x}, {-y}, {z}]",
        "ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]", "XYSpacing": "[4.0, 4.0]",
        "RescaleIntercept": f"{intercept}.0", "RescaleSlope": "1.0", "NumberofSlices": 32, "ZSpacing": depth,
    }  # fmt: skip


def write_v1(path: Path, intercept: int) -> Path:
    """Stored numbers as floats, axes LPS, a header that says nothing."""
    stored, _ = flipped(PHANTOM.hu.astype(np.float64) - intercept, PHANTOM.affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(stored, np.eye(4)), path)
    return path


def write_tables(root: Path) -> None:
    for split, other in (("train", "train"), ("valid", "validation")):
        names = [name for name in VOLUMES if name.startswith(split)]
        write_rows(root / f"metadata/{other}_metadata.csv", [metadata(name) for name in names])
        reports = [
            {"VolumeName": f"{n}.nii.gz", "ClinicalInformation_EN": "Not given.", "Technique_EN": "Axial series.",
             "Findings_EN": f"Apical nodule, scan {n.split('_')[2]}.", "Impressions_EN": "Not given."}
            for n in names
        ]  # fmt: skip
        write_rows(root / f"radiology_text_reports/{other}_reports.csv", reports)
        labels = [
            {"VolumeName": f"{n}.nii.gz", **dict.fromkeys(LABELS, 0), "Lung nodule": int(n.endswith("a_1"))}
            for n in names
        ]
        write_rows(root / f"multi_abnormality_labels/{split}_predicted_labels.csv", labels)
    write_file(root / "metadata/no_chest_train.txt", "dataset/train/train_9003/train_9003_a/train_9003_a_1.nii.gz\n")
    write_file(root / "metadata/no_chest_valid.txt", "")


@pytest.fixture(scope="module")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("v1") / "CT-RATE"
    write_tables(root)
    for name, (intercept, _, _) in VOLUMES.items():
        write_v1(root / folder_of(name, ""), intercept)
    return root


@pytest.fixture(scope="module")
def second_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("v2") / "CT-RATE"
    write_tables(root)
    for name in VOLUMES:
        write_scan(root / folder_of(name, "_fixed"))
    masks = folder_of("train_9001_a_2", "_fixed").removeprefix("dataset/")
    write_scan(root / "ts_seg/ts_total" / masks, labels=True)
    return root


@pytest.mark.parametrize("version", ["first_version", "second_version"])
def test_hu_ids_and_splits(version: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cohort, summary, out = run("ct_rate", request.getfixturevalue(version), tmp_path)
    rows = {row.study_id: row for row in cohort.rows}
    assert set(rows) == {"train_9001_a", "train_9001_b", "train_9002_a", "valid_9001_a"}
    assert {row.patient_id for row in cohort.rows} == {"train_9001", "train_9002", "valid_9001"}
    assert (rows["train_9001_b"].split, rows["valid_9001_a"].split) == ("train", "test")
    assert (rows["train_9001_a"].age, rows["train_9001_a"].sex, rows["train_9001_a"].scanner) == (
        36,
        "F",
        "Siemens Flash",
    )
    assert rows["train_9001_b"].findings == "Apical nodule, scan b."
    assert rows["train_9001_b"].impression is None, "'Not given.' is no text"
    assert rows["train_9001_a"].image.name == "train_9001_a_2.nii.gz", "the softer kernel, equal slices"
    assert rows["valid_9001_a"].image.name == "valid_9001_a_2.nii.gz", "the thinner slices"
    for study_id in ("train_9001_a", "train_9001_b", "train_9002_a"):
        assert_is_phantom(scan_of(cohort, study_id))
    assert excluded_in(out) == {
        "train_9001_a_1": "other_reconstruction", "valid_9001_a_1": "other_reconstruction",
        "train_1267_a_4": "known_broken", "train_9003_a_1": "no_chest",
    }  # fmt: skip
    labels = labels_in(out)
    assert len(labels["train_9001_a"]) == 18
    assert labels["train_9001_a"]["lung_nodule"] == 1, "1 where any reconstruction of the study says so"
    assert labels["train_9001_b"]["lung_nodule"] == 0
    assert summary.lost == {}


def test_the_version_is_said_and_the_first_one_alone_is_rescaled(
    first_version: Path, second_version: Path, tmp_path: Path
) -> None:
    first, said, _ = run("ct_rate", first_version, tmp_path / "1")
    assert {(row.hu_slope, row.hu_intercept) for row in first.rows} == {(1.0, -1024.0), (1.0, -8192.0)}
    assert any("of version 1: slope, intercept" in fact for fact in said.facts)
    second, said, _ = run("ct_rate", second_version, tmp_path / "2")
    assert {row.scan_header() for row in second.rows} == {None}
    assert any("of version 2: numbers are HU as stored" in fact for fact in said.facts)
    masked = {row.study_id: row.masks for row in second.rows if row.masks}
    assert list(masked) == ["train_9001_a"]
    assert {row.numbering for row in second.rows} == {None, "totalsegmentator_v2"}


def test_all_reconstructions(second_version: Path, tmp_path: Path) -> None:
    cohort, summary, out = run("ct_rate", second_version, tmp_path, reconstructions="all")
    assert len(cohort.rows) == 6
    assert {row.patient_id for row in cohort.rows} == {"train_9001", "train_9002", "valid_9001"}
    assert summary.excluded == {"no_chest": 1, "known_broken": 1}
    assert labels_in(out)["train_9001_a_1"]["lung_nodule"] == 1
    assert labels_in(out)["train_9001_a_2"]["lung_nodule"] == 0


def test_the_rule_can_be_set(second_version: Path, tmp_path: Path) -> None:
    cohort, _, _ = run("ct_rate", second_version, tmp_path, choose=["sharp_kernel"], valid_as="val")
    rows = {row.study_id: row for row in cohort.rows}
    assert rows["train_9001_a"].image.name == "train_9001_a_1.nii.gz"
    assert rows["valid_9001_a"].split == "val"


def test_two_versions_side_by_side(first_version: Path, second_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "both"
    shutil.copytree(second_version, root)
    shutil.copytree(first_version / "dataset", root / "dataset", dirs_exist_ok=True)
    cohort, summary, _ = run("ct_rate", root)
    assert all("_fixed" in str(row.image) for row in cohort.rows)
    assert any("8 volumes of version 1 lie beside" in fact for fact in summary.facts)
    cohort, _, _ = run("ct_rate", root, tmp_path / "first", version="1")
    assert_is_phantom(scan_of(cohort, "train_9002_a"))


def test_files_of_the_other_version_in_a_folder(first_version: Path, second_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(first_version, root)
    name = folder_of("train_9002_a_1", "")
    shutil.copy(second_version / folder_of("train_9002_a_1", "_fixed"), root / name)
    with pytest.raises(
        CohortError, match=r"train_9002_a_1.*version 1, whose header is blank; found a filled-in"
    ) as caught:
        run("ct_rate", root)
    assert caught.value.code == "mixed_versions"
    cohort, _, _ = run("ct_rate", root, headers=0)
    with pytest.raises(ScanError, match="corrected version") as refused:
        scan_of(cohort, "train_9002_a")
    assert refused.value.code == "header_twice", "no volume is rescaled twice, looked into beforehand or not"


def test_renamed_folders(first_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for name, (intercept, _, _) in list(VOLUMES.items())[:4]:
        write_v1(root / "images" / f"{name}.nii.gz", intercept)
    shutil.copy(first_version / "metadata/train_metadata.csv", write_file(root / "csv" / "train_metadata.csv"))
    cohort, summary, _ = run("ct_rate", root, lacking="allow")
    assert_is_phantom(scan_of(cohort, "train_9001_a"))
    assert any("by the headers of 4 files it is 1" in fact for fact in summary.facts)
    assert any("no table of reports" in fact for fact in summary.facts)


def test_the_first_version_without_its_table(first_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    shutil.copytree(first_version / "dataset", root / "dataset")
    with pytest.raises(CohortError, match="train_9001_a_1: It has no row in the metadata table") as caught:
        run("ct_rate", root)
    assert caught.value.code == "no_studies"


def test_a_half_download(second_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "half"
    shutil.copytree(second_version, root)
    (root / folder_of("train_9002_a_1", "_fixed")).write_bytes(b"")
    (root / folder_of("valid_9001_a_2", "_fixed")).rename(root / "valid_9001_a_2.nii.gz.incomplete")
    cohort, _, out = run("ct_rate", root)
    assert excluded_in(out)["train_9002_a"] == "image_empty"
    assert excluded_in(out)["valid_9001_a_2.nii.gz.incomplete"] == "download_unfinished"
    rows = {row.study_id: row for row in cohort.rows}
    assert rows["valid_9001_a"].image.name == "valid_9001_a_1.nii.gz", "what is there is taken"
    with pytest.raises(CohortError, match="has no volume of version 2") as caught:
        write_cohort(cohort_reader("ct_rate"), tmp_path / "half" / "metadata", tmp_path / "none", {"version": "2"})
    assert caught.value.code == "no_images"


def test_repeated_findings_can_be_left_out(second_version: Path, tmp_path: Path) -> None:
    cohort, summary, _ = run("ct_rate", second_version, tmp_path, repeated_findings="exclude")
    assert [row.study_id for row in cohort.rows] == ["train_9001_a", "train_9001_b", "valid_9001_a"]
    assert summary.excluded["repeated_findings"] == 1


def test_a_scan_of_version_one_needs_the_table(first_version: Path) -> None:
    _, checks = read_scan(first_version / folder_of("train_9001_b_1", ""), CtRecipe())
    assert {"no_orientation", "intercept_missing"} & {check.code for check in checks if check.severity == "error"}


def test_an_unknown_column_of_labels_is_listed(second_version: Path, tmp_path: Path) -> None:
    root = tmp_path / "more"
    shutil.copytree(second_version, root)
    path = root / "multi_abnormality_labels/train_predicted_labels.csv"
    lines = path.read_text().replace("Hiatal hernia", "Hernia of the hiatus").splitlines()
    path.write_text("\n".join([lines[0] + ",Fracture", *(line + ",2" for line in lines[1:])]))
    _, summary, _ = run("ct_rate", root)
    assert set(summary.lost) == {"Fracture", "Hernia of the hiatus"}
    assert any("no column 'Hiatal hernia'" in fact for fact in summary.facts)


def test_the_table_can_be_read_by_its_documented_columns(first_version: Path, tmp_path: Path) -> None:
    run("ct_rate", first_version, tmp_path)
    assert {"hu_slope", "hu_intercept", "affine"} <= set(read_cohort(tmp_path / "cohort.csv").columns)
