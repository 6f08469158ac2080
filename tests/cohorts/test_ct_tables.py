"""CT sets that come with reports or tables of labels, each in its own layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.organ_text import read_organ_text

from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import CohortError
from tests.cohorts.builders import (
    PHANTOM,
    assert_is_phantom,
    excluded_in,
    labels_in,
    run,
    scan_of,
    write_file,
    write_json_file,
    write_rows,
    write_scan,
)
from tests.cohorts.test_ct_rate import write_tables
from tests.test_workbooks import workbook

MERLIN = (
    "submucosal_edema", "renal_hypodensities", "aortic_valve_calcification", "coronary_calcification", "thrombosis",
    "metastatic_disease", "pancreatic_atrophy", "renal_cyst", "osteopenia", "surgically_absent_gallbladder",
    "atelectasis", "abdominal_aortic_aneurysm", "anasarca", "hiatal_hernia", "lymphadenopathy", "prostatomegaly",
    "biliary_ductal_dilation", "cardiomegaly", "splenomegaly", "hepatomegaly", "atherosclerosis", "ascites",
    "pleural_effusion", "hepatic_steatosis", "appendicitis", "gallstones", "hydronephrosis", "bowel_obstruction",
    "free_air", "fracture",
)  # fmt: skip


def merlin(root: Path) -> Path:
    for name, ending in (("AC4213fbb", ".nii.gz"), ("AC4213fbc", ".nii"), ("AC4213fbd", ".nii.gz")):
        write_scan(root / f"merlinabdominalctdataset/merlin_data/{name}{ending}")
    workbook(root / "reports_final.xlsx", {"Sheet1": [
        ["study id", "Findings", "Split", "Few Shot"],
        ["AC4213fbb", "Liver: Fatty.\nIMPRESSION:\n1. Steatosis.", "train", 0],
        ["AC4213fbc", "Liver: Normal.", "val", 0],
        ["AC4213fbe", "Spleen: Normal.", "test", 0],
    ]})  # fmt: skip
    write_rows(root / "zero_shot_findings_disease_cls.csv", [
        {"study id": "AC4213fbb", **dict.fromkeys(MERLIN, -1), "hepatic_steatosis": 1, "free_air": 0},
        {"study id": "AC4213fbc", **dict.fromkeys(MERLIN, 0)},
    ])  # fmt: skip
    write_rows(root / "metadata.csv", [{"Study ID": "AC4213fbb", "Age": "61", "Gender": "Female", "phase": "portal"}])
    write_json_file(root / "merlin_report_organ_report_v1.json", {"AC4213fbb": {"report": "x", "liver": "Fatty."}})
    write_json_file(root / "merlin_report_organ_normal_v1.json", {"AC4213fbb": {"report": "x", "spleen": "normal"}})
    return root


def test_merlin(tmp_path: Path) -> None:
    cohort, summary, out = run("merlin", merlin(tmp_path / "merlin"))
    first, second = cohort.rows
    assert (first.study_id, first.findings, first.impression) == ("AC4213fbb", "Liver: Fatty.", "1. Steatosis.")
    assert (first.age, first.sex, second.impression) == (61, "F", None)
    assert [row.split for row in cohort.rows] == ["train", "val"]
    assert_is_phantom(scan_of(cohort, "AC4213fbb"))
    assert second.image.name == "AC4213fbc.nii"
    assert excluded_in(out) == {"AC4213fbd": "no_report", "AC4213fbe": "image_missing"}
    labels = labels_in(out)
    assert len(labels["AC4213fbb"]) == 30
    assert labels["AC4213fbb"]["hepatic_steatosis"] == 1
    assert labels["AC4213fbb"]["pneumoperitoneum"] == 0
    assert labels["AC4213fbb"]["renal_cyst"] is None, "-1 is not known"
    assert any("No column names the patient" in fact for fact in summary.facts)
    assert any("'Study ID' was taken as 'study id'" in fact for fact in summary.facts)
    texts = pl.read_csv(out / "organ_text.csv").sort("organ").select("organ", "sentence", "status").rows()
    assert texts == [("liver", "Fatty.", None), ("spleen", "normal", "normal")]


def test_merlin_with_patients(tmp_path: Path) -> None:
    root = merlin(tmp_path / "merlin")
    (root / "reports_final.xlsx").unlink()
    write_rows(root / "reports_final.csv", [
        {"study id": f"AC4213fb{end}", "Patient ID": patient, "Findings": "Normal.", "Split": split}
        for end, patient, split in (("b", "p1", "train"), ("c", "p1", "test"), ("d", "p2", "train"))
    ])  # fmt: skip
    cohort, summary, out = run("merlin", root)
    assert [(row.patient_id, row.split) for row in cohort.rows] == [("p1", "test"), ("p2", "train")]
    assert excluded_in(out)["AC4213fbb"] == "leaking_patient"
    assert any("p1 (test, train)" in fact and "keep_test" in fact for fact in summary.facts)
    cohort, _, _ = run("merlin", root, tmp_path / "moved", leaks="move_to_train")
    assert {row.split for row in cohort.rows} == {"train"}
    with pytest.raises(CohortError, match=r"1 patients stand in several splits: p1") as caught:
        run("merlin", root, tmp_path / "refused", leaks="refuse")
    assert caught.value.code == "leaking_patients"


def test_merlin_without_its_table(tmp_path: Path) -> None:
    root = merlin(tmp_path / "merlin")
    (root / "reports_final.xlsx").rename(root / "reports_v2.xlsx")
    with pytest.raises(CohortError, match=r"no table reports_final\.xlsx or reports_final\.csv; .*reports_v2\.xlsx"):
        run("merlin", root)
    (root / "reports_v2.xlsx").rename(root / "reports_final.xlsx")
    (root / "zero_shot_findings_disease_cls.csv").write_bytes(b"")
    with pytest.raises(CohortError, match=r"zero_shot_findings_disease_cls\.csv is empty"):
        run("merlin", root)


def rad_chestct(root: Path) -> Path:
    volume = np.clip(PHANTOM.hu, -1000, 1000)[::-1, ::-1, ::-1].transpose(2, 1, 0)
    root.mkdir()
    for name in ("trn00001", "trn00002", "val00001", "tst00001"):
        np.savez_compressed(root / f"{name}.npz", ct=volume)
    write_rows(root / "Summary_3630.csv", [
        {"MRN_DEID": mrn, "NoteAcc_DEID": name, "Set_Assigned": part, "Subset_Assigned": f"img{part}"}
        for mrn, name, part in (("m1", "trn00001", "train"), ("m1", "trn00002", "train"), ("m2", "val00001", "valid"),
                                ("m3", "tst00001", "test"), ("m4", "tst00002", "test"))
    ])  # fmt: skip
    for part, name in (("train", "trn00001"), ("valid", "val00001"), ("test", "tst00001")):
        write_rows(root / f"img{part}_Abnormality_and_Location_Labels.csv", [{
            "NoteAcc_DEID": name, "nodule*left_upper": 0.0, "nodule*right_lower": 1.0, "mass*left_upper": 0.0,
            "calcification*heart": 1.0, "scarring*lung": 1.0, "pleural_effusion*other_location": 0.0,
        }])  # fmt: skip
    return root


def test_rad_chestct(tmp_path: Path) -> None:
    cohort, summary, out = run("rad_chestct", rad_chestct(tmp_path / "rad"))
    assert {row.study_id: (row.patient_id, row.split) for row in cohort.rows} == {
        "trn00001": ("m1", "train"), "trn00002": ("m1", "train"), "val00001": ("m2", "val"), "tst00001": ("m3", "test"),
    }  # fmt: skip
    scan = scan_of(cohort, "trn00001")
    assert np.array_equal(scan.hu, PHANTOM.hu), "axes are those of the body, numbers are HU as stored"
    assert np.allclose(scan.spacing_mm, 0.8)
    labels = labels_in(out)["trn00001"]
    assert (labels["lung_nodule"], labels["mass"], labels["calcification"], labels["pleural_effusion"]) == (1, 0, 1, 0)
    assert "scarring" in summary.lost
    assert excluded_in(out) == {"tst00002": "image_missing"}
    assert any("slices from the head on" in fact for fact in summary.facts)


def test_rad_chestct_by_organ_and_from_the_feet(tmp_path: Path) -> None:
    cohort, _, out = run("rad_chestct", rad_chestct(tmp_path / "rad"), by_organ=True, first_slice="feet")
    labels = labels_in(out)["val00001"]
    assert labels["lung_lower_lobe_right:lung_nodule"] == 1
    assert labels["lung_upper_lobe_left:lung_nodule"] == 0
    assert np.array_equal(scan_of(cohort, "val00001").hu, PHANTOM.hu[:, :, ::-1])


def test_an_archive_alone_has_no_place(tmp_path: Path) -> None:
    _, checks = read_scan(rad_chestct(tmp_path / "rad") / "trn00001.npz", CtRecipe())
    assert "no_orientation" in [check.code for check in checks if check.severity == "error"]


def inspect_pe(root: Path, upper: bool = False) -> Path:
    for name in ("PE4a1", "PE4a2", "PE4a3"):
        write_scan(root / f"CTPA/{name}.nii.gz")
    key = "Impression_ID" if upper else "impression_id"
    write_rows(root / "Final_metadata.csv", [
        {"image_id": f"{name}.nii.gz", key: i} for name, i in (("PE4a1", "1"), ("PE4a2", "2"), ("PE4a3", "3"))
    ])  # fmt: skip
    write_rows(root / "Final_Impressions.csv", [
        {key: "1", "impressions": "Acute embolism."}, {key: "2", "impressions": "No embolism."},
    ])  # fmt: skip
    write_rows(root / "Final_labels_20250611.tsv", [
        {key: i, "pe_positive_nlp": p, "pe_acute": p, "12_month_PH": "Censored"}
        for i, p in (("1", "True"), ("2", "False"), ("3", "Censored"))
    ], separator="\t")  # fmt: skip
    write_rows(root / "Final_splits.csv", [{key: "1", "split": "train"}, {key: "2", "split": "valid"},
                                           {key: "3", "split": "test"}])  # fmt: skip
    write_rows(root / "cohort_0.2.0_master_file_anon.csv", [
        {"PatientID": "p1", key: "1"}, {"PatientID": "p2", key: "2"}, {"PatientID": "p3", key: "3"},
    ])  # fmt: skip
    return root


@pytest.mark.parametrize("upper", [False, True])
def test_inspect(upper: bool, tmp_path: Path) -> None:
    cohort, summary, out = run("inspect_pe", inspect_pe(tmp_path / "inspect", upper))
    assert [(row.study_id, row.patient_id, row.split) for row in cohort.rows] == [
        ("PE4a1", "p1", "train"), ("PE4a2", "p2", "val"), ("PE4a3", "p3", "test"),
    ]  # fmt: skip
    assert [row.impression for row in cohort.rows] == ["Acute embolism.", "No embolism.", None]
    assert [row["pulmonary_embolism"] for row in labels_in(out).values()] == [1, 0, None]
    assert {"pe_acute", "12_month_PH"} <= summary.lost.keys()
    assert_is_phantom(scan_of(cohort, "PE4a1"))


def test_inspect_without_patients(tmp_path: Path) -> None:
    root = inspect_pe(tmp_path / "inspect")
    (root / "cohort_0.2.0_master_file_anon.csv").unlink()
    (root / "Final_splits.csv").unlink()
    cohort, summary, _ = run("inspect_pe", root, lacking="allow")
    assert [row.patient_id for row in cohort.rows] == ["PE4a1", "PE4a2", "PE4a3"]
    assert any("No table names the patient" in fact for fact in summary.facts)
    assert any("no table Final_splits" in fact for fact in summary.facts)


def amos(root: Path) -> Path:
    for folder, number in (("imagesTr", 1), ("imagesTr", 2), ("imagesVa", 3), ("imagesTs", 4)):
        write_scan(root / folder / f"amos_{number:04d}.nii.gz")
    write_scan(root / "labelsTr" / "amos_0001.nii.gz", labels=True)
    return root


@pytest.mark.parametrize("layout", ["plain", "nested", "listed"])
def test_amos_mm(layout: str, tmp_path: Path) -> None:
    root = amos(tmp_path / "amos")
    report = {"findings": {"abdomen": "Liver cyst.", "Chest": "Clear.", "pelvis": ""}}
    tree: object = {"amos_0001.nii.gz": report, "AMOS_0003.nii.gz": report}
    if layout == "nested":
        tree = {"training": {"amos_0001": report}, "validation": {"amos_0003": report}}
    elif layout == "listed":
        tree = {"training": [{"image": "imagesTr/amos_0001.nii.gz", **report}, {"image": "amos_0003.nii.gz", **report}]}
    write_json_file(root / "report_generation_train_val.json", tree)
    cohort, _, _ = run("amos_mm", root)
    rows = {row.study_id: row for row in cohort.rows}
    assert rows["amos_0001"].findings == "Chest: Clear.\nAbdomen: Liver cyst."
    assert rows["amos_0002"].findings is None
    assert rows["amos_0004"].split == "test"
    assert (rows["amos_0001"].numbering, rows["amos_0002"].masks) == ("amos", None)
    assert_is_phantom(scan_of(cohort, "amos_0003"))


def test_m3d_cap_is_refused_with_its_reason(tmp_path: Path) -> None:
    write_file(tmp_path / "M3D_Cap.json", json.dumps({"train": []}))
    with pytest.raises(CohortError, match="8 bits without HU or spacing") as caught:
        run("m3d_cap", tmp_path, tmp_path / "out")
    assert caught.value.code == "no_hounsfield"


def radgenome(root: Path) -> Path:
    for split, patient in (("train", 9001), ("train", 9002), ("valid", 9001)):
        name = f"{split}_{patient}_a_1"
        write_scan(root / f"dataset/{split}_preprocessed/{split}_{patient}/{split}_{patient}a/{name}.nii.gz")
        write_scan(root / f"{split}_region_mask/seg_{name}/lung.nii.gz", labels=True)
    rows = [("lung/lung/lung lower lobe/left lung lower lobe", "Linear band."), ("trachea and bronchie", "Open."),
            ("", "Supine."), ("others", "Old fracture."), ("pleura/pleura", "No effusion.")]  # fmt: skip
    for part, names in (("train", ("train_9001_a_1", "train_9003_a_1")), ("validation", ("valid_9001_a_1",))):
        write_rows(root / f"radgenome_files/{part}_region_report.csv", [
            {"Volumename": f"{name}.nii.gz", "Anatomy": anatomy, "Sentence": text}
            for name in names for anatomy, text in rows
        ])  # fmt: skip
        write_rows(root / f"radgenome_files/{part}_case_disorders.csv", [
            {"Volumename": f"{names[0]}.nii.gz", "Disorders": "emphysema, hiatal hernia,strange thing"}
        ])  # fmt: skip
        write_rows(root / f"radgenome_files/{part}_vqa_presence.csv", [
            {"Volumename": f"{names[0]}.nii.gz", "Anatomy": "lung", "Finding": finding, "Presence": answer}
            for finding, answer in (("Pleural effusion", "No."), ("emphysema", "No."), ("bronchiectasis", "Yes."))
        ])  # fmt: skip
    return root


def test_radgenome(tmp_path: Path) -> None:
    cohort, summary, out = run("radgenome", radgenome(tmp_path / "rg"), lacking="allow")
    rows = {row.study_id: row for row in cohort.rows}
    assert {name: (row.patient_id, row.split) for name, row in rows.items()} == {
        "train_9001_a_1": ("train_9001", "train"), "train_9002_a_1": ("train_9002", "train"),
        "valid_9001_a_1": ("valid_9001", "test"),
    }  # fmt: skip
    assert rows["train_9001_a_1"].findings == "Linear band. Open. Supine. Old fracture. No effusion."
    assert rows["train_9001_a_1"].masks is not None
    assert excluded_in(out) == {"train_9003_a_1": "image_missing"}
    texts = pl.read_csv(out / "organ_text.csv").filter(study_id="valid_9001_a_1")
    assert dict(texts.select("sentence", "organ").iter_rows()) == {
        "Linear band.": "lung_lower_lobe_left", "Open.": "trachea", "Supine.": None, "Old fracture.": None,
        "No effusion.": "pleura",
    }  # fmt: skip
    given = read_organ_text(cohort)
    assert [text.organ for text in given.texts["valid_9001_a_1"]].count(None) == 2
    assert given.notes == ("organ_text.csv: no organ of ours: no place (2), others (2).",)
    labels = labels_in(out)["train_9001_a_1"]
    assert (labels["hiatal_hernia"], labels["pleural_effusion"], labels["bronchiectasis"]) == (1, 0, 1)
    assert labels["emphysema"] == 1, "a disorder of the case counts more than one region's answer"
    assert summary.lost == {"strange thing": "no abnormality of ours (2 times)"}
    assert any("CT-RATE's metadata table is not there" in fact for fact in summary.facts)


def test_radgenome_takes_the_intercept_from_ct_rates_table(tmp_path: Path) -> None:
    root = radgenome(tmp_path / "rg")
    write_tables(root)
    shifted = type(PHANTOM)(PHANTOM.hu + 1024, PHANTOM.labels, PHANTOM.affine)
    write_scan(root / "dataset/train_preprocessed/train_9002/train_9002a/train_9002_a_1.nii.gz", shifted)
    shifted = type(PHANTOM)(PHANTOM.hu + 8192, PHANTOM.labels, PHANTOM.affine)
    write_scan(root / "dataset/train_preprocessed/train_9002/train_9002a/train_9002_a_1.nii.gz", shifted)
    cohort, _, _ = run("radgenome", root)
    row = next(row for row in cohort.rows if row.study_id == "train_9002_a_1")
    assert (row.hu_slope, row.hu_intercept, row.affine) == (1.0, -8192.0, None)
    assert_is_phantom(scan_of(cohort, "train_9002_a_1"))


def ct_rate(root: Path) -> Path:
    write_tables(root)
    for name in ("train_9001_a_1", "train_9001_b_1", "valid_9001_a_1", "train_9002_a_1"):
        split, patient, scan, _ = name.split("_")
        write_scan(root / f"dataset/{split}_fixed/{split}_{patient}/{split}_{patient}_{scan}/{name}.nii.gz")
    return root


def test_radgenome_on_ct_rates_volumes(tmp_path: Path) -> None:
    root, other = radgenome(tmp_path / "rg"), ct_rate(tmp_path / "ct")
    cohort, _, _ = run("radgenome", root, ct_rate=str(other), valid_as="val")
    assert [row.study_id for row in cohort.rows] == ["train_9001_a_1", "valid_9001_a_1"]
    assert cohort.rows[1].split == "val"
    assert "train_fixed" in str(cohort.rows[0].image)
    assert cohort.rows[0].findings == "Apical nodule, scan a."
    assert cohort.rows[0].masks is None, "RadGenome's masks do not fit them"


def rex(root: Path) -> Path:
    def entry(name: str, *codes: str) -> dict[str, object]:
        return {
            "name": f"{name}.nii.gz", "findings": {str(i): f"Finding {code}." for i, code in enumerate(codes)},
            "categories": {str(i): code for i, code in enumerate(codes)}, "shape": [28, 30, 32],
        }  # fmt: skip

    write_json_file(root / "dataset.json", {
        "train": [entry("train_9001_a_1", "1b", "2d"), entry("train_9002_a_1", "2c")],
        "val": [entry("train_9001_b_1", "1c")],
        "test": [entry("valid_9001_a_1", "2g"), {"name": "scan.nii.gz"}],
    })  # fmt: skip
    for name in ("train_9001_a_1", "train_9002_a_1"):
        write_scan(root / f"segmentations/{name}.nii.gz", labels=True)
    return root


def test_rexgrounding_finds_patients_that_leak(tmp_path: Path) -> None:
    root = rex(tmp_path / "rex")
    cohort, summary, out = run("rexgrounding", root, ct_rate=str(ct_rate(tmp_path / "ct")))
    assert {row.study_id: row.split for row in cohort.rows} == {
        "train_9002_a_1": "train", "train_9001_b_1": "val", "valid_9001_a_1": "test",
    }  # fmt: skip
    assert excluded_in(out) == {"train_9001_a_1": "leaking_patient", "scan": "bad_name"}
    assert any("1 names begin with another split" in fact for fact in summary.facts)
    assert cohort.rows[0].findings == "Apical nodule, scan a."
    drawn = pl.read_csv(out / "localization.csv", infer_schema=False).to_dicts()
    first = next(row for row in drawn if row["study_id"] == "train_9002_a_1")
    assert (first["theirs"], first["abnormality"], first["layer"]) == ("Finding 2c.", "ground_glass_opacity", "0")
    assert Path(str(first["mask"])).is_file()
    assert labels_in(out)["valid_9001_a_1"]["pneumothorax"] == 1
    moved, _, _ = run("rexgrounding", root, tmp_path / "moved", ct_rate=str(tmp_path / "ct"), leaks="move_to_train")
    assert {row.study_id: row.split for row in moved.rows}["train_9001_b_1"] == "train"
    with pytest.raises(CohortError, match=r"train_9001 \(train, val\)"):
        run("rexgrounding", root, tmp_path / "no", ct_rate=str(tmp_path / "ct"), leaks="refuse")


def test_rexgrounding_alone(tmp_path: Path) -> None:
    root = rex(tmp_path / "rex")
    with pytest.raises(CohortError, match=r"4 of 4 images that the tables name are not there"):
        run("rexgrounding", root)
    with pytest.raises(CohortError, match=r"has no MICCAI_challenge_dataset\.json"):
        run("rexgrounding", root, edition="challenge")
