"""CT sets that are folders of scans and masks, DICOM series or MetaImages, each in its own layout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import CohortError, CTGLIPError
from ctglip.labels import read_labels
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.cohorts.builders import (
    PHANTOM,
    assert_is_phantom,
    excluded_in,
    labels_in,
    run,
    scan_of,
    write_dicom_series,
    write_file,
    write_json_file,
    write_meta_image,
    write_rows,
    write_scan,
)
from tests.ct.conftest import Phantom

ATLAS = {5: 5, 1: 8, 2: 4}
"""TotalSegmentator's liver, spleen and right kidney in AbdomenAtlas's numbers."""


def renumbered(numbers: dict[int, int]) -> Phantom:
    labels = np.zeros_like(PHANTOM.labels)
    for theirs, ours in numbers.items():
        labels[theirs == PHANTOM.labels] = ours
    return Phantom(PHANTOM.hu, labels, PHANTOM.affine)


def one_organ(path: Path, label: int) -> Path:
    return write_scan(
        path, Phantom(PHANTOM.hu, (PHANTOM.labels == label).astype(np.uint8), PHANTOM.affine), labels=True
    )


def test_abdomen_atlas(tmp_path: Path) -> None:
    root = tmp_path / "atlas"
    for case in ("BDMAP_00000001", "BDMAP_00000002"):
        write_scan(root / case / "ct.nii.gz")
        one_organ(root / case / "segmentations" / "liver.nii.gz", 5)
        one_organ(root / case / "segmentations" / "postcava.nii.gz", 2)
    write_scan(root / "BDMAP_00000001" / "combined_labels.nii.gz", renumbered(ATLAS), labels=True)
    write_scan(root / "BDMAP_00000003" / "combined_labels.nii.gz", renumbered(ATLAS), labels=True)
    cohort, summary, out = run("abdomen_atlas", root)
    first, second = cohort.rows
    assert (first.numbering, second.numbering) == ("abdomenatlas", None)
    assert second.masks is not None
    assert second.masks.name == "segmentations"
    scan = scan_of(cohort, first.study_id)
    assert_is_phantom(scan)
    organs = load_organs()
    for row in (first, second):
        assert row.masks is not None
        found, _ = read_masks(row.masks, scan, CtRecipe(), organs, row.numbering)
        assert np.array_equal(found.labels == organs["liver"].label, PHANTOM.labels == 5)
    assert excluded_in(out) == {"BDMAP_00000003": "no_image"}
    assert any("pooled from many public sets" in fact for fact in summary.facts)


def test_archives_that_are_still_packed_are_named(tmp_path: Path) -> None:
    write_file(tmp_path / "atlas" / "AbdomenAtlas1.0Mini_BDMAP_00000001_00000500.tar.gz")
    with pytest.raises(
        CohortError, match=r"no BDMAP_00000001/ct\.nii\.gz .*1 archives are still packed, first Abdomen"
    ):
        run("abdomen_atlas", tmp_path / "atlas")


def test_abdomen_atlas_3(tmp_path: Path) -> None:
    root = tmp_path / "radgpt"
    for case in ("BDMAP_00000001", "BDMAP_00000002"):
        write_scan(root / "image_only" / case / "ct.nii.gz")
        one_organ(root / "mask_only" / case / "segmentations" / "liver.nii.gz", 5)
    one_organ(root / "mask_only" / "BDMAP_00000001" / "liver_lesion.nii.gz", 2)
    base = {
        "spacing": "[1,1,1]",
        "shape": "(9,9,9)",
        "sex": "F",
        "age": "55.0",
        "scanner": "siemens",
        "contrast": "venous",
    }
    table = [
        {"BDMAP ID": case, **base, "liver volume (cm^3)": "1500", "number of liver lesion instances": count,
         "number of kidney lesion instances": "", "number of wing lesion instances": "1", "structured report": "S.",
         "narrative report": narrative}
        for case, count, narrative in (("BDMAP_00000001", "2", "N."), ("BDMAP_00000002", "0", ""),
                                       ("BDMAP_00000009", "0", "N."))
    ]  # fmt: skip
    write_rows(root / "AbdomenAtlas3.0MiniWithMeta.csv", table)
    write_rows(root / "TrainTestIDS/IID_train.csv", [{"BDMAP ID": "BDMAP_00000001"}])
    write_rows(root / "TrainTestIDS/IID_test.csv", [{"BDMAP_00000002": "x"}])
    cohort, summary, out = run("abdomen_atlas_3", root)
    first, second = cohort.rows
    assert (first.report, second.report) == ("N.", "S."), "the next where the wanted one is not there"
    assert (first.split, second.split) == ("train", "test"), "with and without a heading"
    assert (first.age, first.sex, first.scanner) == (55, "F", "siemens")
    assert first.masks is not None
    assert labels_in(out) == {
        "BDMAP_00000001": {"liver:lesion": 1, "kidneys:lesion": None},
        "BDMAP_00000002": {"liver:lesion": 0, "kidneys:lesion": None},
    }
    assert list(summary.lost) == ["number of wing lesion instances"]
    assert excluded_in(out) == {"BDMAP_00000009": "image_missing"}
    drawn = pl.read_csv(out / "localization.csv").to_dicts()
    assert [(row["study_id"], row["theirs"]) for row in drawn] == [("BDMAP_00000001", "liver_lesion")]
    structured, _, _ = run("abdomen_atlas_3", root, tmp_path / "other", report="structured", split="none")
    assert {(row.report, row.split) for row in structured.rows} == {("S.", None)}


PE = {
    "qa_motion": 0, "qa_contrast": 0, "flow_artifact": 0, "rv_lv_ratio_gte_1": 0, "rv_lv_ratio_lt_1": 1,
    "leftsided_pe": 1, "chronic_pe": 0, "true_filling_defect_not_pe": 0, "rightsided_pe": 0, "acute_and_chronic_pe": 0,
    "central_pe": 0,
}  # fmt: skip


def test_rsna_pulmonary_embolism(tmp_path: Path) -> None:
    root = tmp_path / "pe"
    rows = []
    for study, present, negative, unsure in (("e1", 1, 0, 0), ("e2", 0, 1, 0), ("e3", 0, 0, 1), ("e4", 0, 1, 0)):
        write_dicom_series(root / "train" / study / f"{study}s", slices=32 if study != "e4" else 7)
        rows += [
            {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}s", "SOPInstanceUID": f"{study}{k}",
             "pe_present_on_image": present if k == 4 else 0, "negative_exam_for_pe": negative, **PE,
             "indeterminate": unsure}
            for k in range(32)
        ]  # fmt: skip
    write_dicom_series(root / "test" / "e9" / "e9s", slices=3)
    write_rows(root / "train.csv", rows)
    cohort, summary, out = run("rsna_pe", root)
    assert [(row.study_id, row.patient_id) for row in cohort.rows] == [("e1s", "e1"), ("e2s", "e2"), ("e3s", "e3")]
    assert {name: row["pulmonary_embolism"] for name, row in labels_in(out).items()} == {
        "e1s": 1,
        "e2s": 0,
        "e3s": None,
    }
    assert excluded_in(out) == {"e4s": "series_incomplete"}
    assert set(PE) == summary.lost.keys()
    assert any("1 series are in no row (the public test)" in fact for fact in summary.facts)
    assert_is_phantom(scan_of(cohort, "e1s"))


def test_rsna_abdominal_trauma(tmp_path: Path) -> None:
    root = tmp_path / "trauma"
    for patient, series in (("10004", "21057"), ("10004", "51033"), ("10005", "18667")):
        write_dicom_series(root / "train_images" / patient / series, slices=4)
    write_rows(root / "train_series_meta.csv", [
        {"patient_id": p, "series_id": s, "aortic_hu": 146.0, "incomplete_organ": i}
        for p, s, i in (("10004", "21057", 0), ("10004", "51033", 1), ("10005", "18667", 0), ("10007", "47578", 0))
    ])  # fmt: skip
    write_rows(root / "train.csv", [
        {"patient_id": p, "bowel_healthy": 1 - b, "bowel_injury": b, "extravasation_healthy": 1,
         "extravasation_injury": 0, "liver_healthy": 1, "liver_low": 0, "liver_high": 0, "spleen_healthy": 1 - b,
         "spleen_low": 0, "spleen_high": b, "kidney_healthy": 1 - b, "kidney_low": b, "kidney_high": 0,
         "any_injury": b}
        for p, b in (("10004", 1), ("10005", 0))
    ])  # fmt: skip
    numbers = np.select([PHANTOM.labels == n for n in (5, 1, 2)], [1, 2, 4]).astype(np.uint8)
    (root / "segmentations").mkdir()
    nib.save(nib.Nifti1Image(numbers, PHANTOM.affine), root / "segmentations" / "21057.nii")
    cohort, summary, out = run("rsna_trauma", root)
    assert [(row.study_id, row.patient_id) for row in cohort.rows] == [
        ("10004_21057", "10004"), ("10004_51033", "10004"), ("10005_18667", "10005"),
    ]  # fmt: skip
    assert labels_in(out)["10004_51033"] == {
        "bowel_injury": 1, "active_extravasation": 0, "liver:laceration": 0, "spleen:laceration": 1,
        "kidneys:laceration": 1,
    }  # fmt: skip
    assert read_labels(out / "labels.csv", load_organs(), load_abnormalities()).columns[0].organ in ("liver", None)
    assert excluded_in(out) == {"10007_47578": "image_missing"}
    assert {"liver_healthy", "any_injury"} <= summary.lost.keys()
    assert not {"liver_low", "spleen_high"} & summary.lost.keys()
    assert any("1 series have masks" in fact for fact in summary.facts)
    first = cohort.rows[0]
    assert first.masks is not None
    organs = load_organs()
    whole = write_dicom_series(tmp_path / "whole_series")
    scan, _ = read_scan(whole, CtRecipe())
    found, _ = read_masks(first.masks, scan, CtRecipe(), organs, first.numbering)
    assert {organs.label_names()[int(n)] for n in np.unique(found.labels) if n} == {"liver", "spleen", "kidneys"}
    assert np.array_equal(found.labels == organs["liver"].label, PHANTOM.labels == 5)
    cohort, _, _ = run("rsna_trauma", root, tmp_path / "whole", incomplete=False)
    assert "10004_51033" not in {row.study_id for row in cohort.rows}


@pytest.mark.parametrize("version", ["1", "2"])
def test_totalsegmentators_data(version: str, tmp_path: Path) -> None:
    root = tmp_path / "ts"
    for name in ("s0000", "s0143", "s0184"):
        write_scan(root / name / "ct.nii.gz")
        one_organ(root / name / "segmentations" / "liver.nii.gz", 5)
        other = {"1": "heart_atrium_left", "2": "atrial_appendage_left"}[version]
        one_organ(root / name / "segmentations" / f"{other}.nii.gz", 51)
    write_rows(root / "meta.csv", [
        {"image_id": name, "age": "70", "gender": "m", "institute": "A", "split": split}
        for name, split in (("s0000", "train"), ("s0143", "val"), ("s0184", "test"), ("s0185", "test"))
    ], separator=";")  # fmt: skip
    cohort, summary, out = run("totalsegmentator", root)
    first, second = cohort.rows
    assert (first.study_id, first.split, first.age, first.sex) == ("s0000", "train", 70, "M")
    assert (first.masks is not None, second.masks) == (True, None)
    assert excluded_in(out) == {
        "s0184": "known_broken", "s0143/segmentations": "masks_misplaced", "s0185": "image_missing",
    }  # fmt: skip
    assert f"Masks are those of version {version}." in summary.facts
    scan = scan_of(cohort, "s0000")
    assert_is_phantom(scan)
    assert first.masks is not None
    organs = load_organs()
    found, _ = read_masks(first.masks, scan, CtRecipe(), organs)
    assert (found.labels == organs["liver"].label).sum() == (PHANTOM.labels == 5).sum()
    again, _, _ = run("totalsegmentator", root, tmp_path / "again", known_broken=True)
    assert len(again.rows) == 3


def lidc_xml(readers: int) -> str:
    nodule = "<unblindedReadNodule><noduleID>1</noduleID><characteristics><malignancy>4</malignancy></characteristics></unblindedReadNodule>"  # noqa: E501
    small = "<unblindedReadNodule><noduleID>2</noduleID></unblindedReadNodule>"
    sessions = "".join(f"<readingSession>{nodule if k < readers else small}</readingSession>" for k in range(4))
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{sessions}</LidcReadMessage>'


def test_lidc(tmp_path: Path) -> None:
    root = tmp_path / "lidc"
    for patient, series, readers in (("0001", "a", 1), ("0002", "a", 3), ("0002", "b", 0)):
        folder = write_dicom_series(root / f"LIDC-IDRI-{patient}" / "study" / series)
        write_file(folder / "069.xml", lidc_xml(readers))
    write_dicom_series(root / "LIDC-IDRI-0001" / "study" / "radiograph", slices=2)
    write_dicom_series(root / "LIDC-IDRI-0003" / "study" / "a")
    write_file(root / "LIDC-IDRI-0003" / "study" / "a" / "bad.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    cohort, summary, out = run("lidc_idri", root)
    assert [(row.study_id, row.patient_id) for row in cohort.rows] == [
        ("LIDC-IDRI-0001", "LIDC-IDRI-0001"), ("LIDC-IDRI-0002", "LIDC-IDRI-0002"),
        ("LIDC-IDRI-0002-2", "LIDC-IDRI-0002"), ("LIDC-IDRI-0003", "LIDC-IDRI-0003"),
    ]  # fmt: skip
    assert [row["lung_nodule"] for row in labels_in(out).values()] == [1, 1, 0, None]
    assert sorted(excluded_in(out).values()) == ["bad_xml", "too_few_images"]
    assert any("1 patients have several scans" in fact for fact in summary.facts)
    assert_is_phantom(scan_of(cohort, "LIDC-IDRI-0001"))
    _, _, out = run("lidc_idri", root, tmp_path / "three", readers=3)
    assert [row["lung_nodule"] for row in labels_in(out).values()] == [0, 1, 0, None]


def test_luna16(tmp_path: Path) -> None:
    root = tmp_path / "luna"
    uids = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{n}" for n in range(4)]
    for fold, uid in enumerate(uids[:3]):
        write_meta_image(root / f"subset{fold}" / f"{uid}.mhd")
    (root / "subset2" / f"{uids[2]}.raw").unlink()
    write_rows(root / "annotations.csv", [
        {"seriesuid": uid, "coordX": -24.0, "coordY": 192.1, "coordZ": -391.1, "diameter_mm": 8.1}
        for uid in (uids[0], uids[3])
    ])  # fmt: skip
    cohort, _, out = run("luna16", root, test_subset=1)
    assert [(row.study_id, row.split) for row in cohort.rows] == [(uids[0], "train"), (uids[1], "test")]
    assert [row["lung_nodule"] for row in labels_in(out).values()] == [1, 0]
    assert excluded_in(out) == {uids[2]: "no_raw_file", uids[3]: "image_missing"}
    (nodule,) = pl.read_csv(out / "localization.csv").to_dicts()
    assert (nodule["x_mm"], nodule["y_mm"], nodule["z_mm"], nodule["diameter_mm"]) == (24.0, -192.1, -391.1, 8.1)
    assert_is_phantom(scan_of(cohort, uids[0]))


def test_nlst(tmp_path: Path) -> None:
    root = tmp_path / "nlst"
    series = ((1, "1999", "STANDARD", 2.5), (2, "1999", "LUNG", 1.25), (3, "2000", "B30f", 2), (4, "1980", "B30f", 2))
    for number, year, kernel, thickness in series:
        write_dicom_series(root / "100002" / f"01-02-{year}-LSS" / f"{number}.000000-0OPLGE", PatientID="100002",
                           StudyDate=f"{year}0102", ConvolutionKernel=kernel, SliceThickness=thickness)  # fmt: skip
    write_dicom_series(root / "100002" / "01-02-1999-LSS" / "9.000000-scout", slices=1, PatientID="100002")
    write_dicom_series(root / "100002" / "01-02-1999-LSS" / "8.000000-loc", PatientID="100002", StudyDate="19990102",
                       ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # fmt: skip
    cohort, _, out = run("nlst", root)
    assert [(row.study_id, row.patient_id) for row in cohort.rows] == [("100002_T0", "100002"), ("100002_T1", "100002")]
    assert cohort.rows[0].image.name.startswith("1.")
    assert sorted(excluded_in(out).values()) == [
        "not_a_ct_volume", "other_reconstruction", "too_few_images", "unknown_round",
    ]  # fmt: skip
    assert_is_phantom(scan_of(cohort, "100002_T0"))
    thin, _, _ = run("nlst", root, tmp_path / "thin", choose=["thinnest_slices"])
    assert thin.rows[0].image.name.startswith("2.")
    every, _, _ = run("nlst", root, tmp_path / "all", reconstructions="all")
    assert [row.study_id for row in every.rows] == ["100002_T0_1", "100002_T0_2", "100002_T1_1"]


def test_a_json_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_scan(tmp_path / "amos/imagesTr/amos_0001.nii.gz")
    write_file(tmp_path / "amos/reports.json", "{")
    write_json_file(tmp_path / "amos/dataset.json", {"labels": {"0": "background"}})
    with pytest.raises(CTGLIPError, match=r"reports\.json cannot be read as JSON"):
        run("amos_mm", tmp_path / "amos")
