"""Miniatures of CT sets: the patients under each set's own names, headers and codes, its traps included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.cohorts.builders import (
    flipped,
    write_dicom_series,
    write_file,
    write_json_file,
    write_meta_image,
    write_rows,
    write_scan,
)
from tests.cohorts.patients import Patient
from tests.cohorts.test_ct_folders import ATLAS, PE, lidc_xml
from tests.cohorts.test_ct_rate import LABELS
from tests.cohorts.test_ct_tables import MERLIN
from tests.ct.conftest import Phantom
from tests.test_workbooks import workbook

Patients = list[Patient]
Rows = list[dict[str, Any]]
NO_LABELS = dict.fromkeys(LABELS, 0)
PARTS = (("train", "train", "train"), ("valid", "validation", "test"))
"""CT-RATE's names of a split in folders, in tables, and ours."""


def masks_in(patient: Patient, numbers: dict[int, int]) -> Phantom:
    """The patient's masks in other numbers: TotalSegmentator's -> theirs."""
    labels = np.zeros_like(patient.scan.labels)
    for ours, theirs in numbers.items():
        labels[patient.scan.labels == ours] = theirs
    return Phantom(patient.scan.hu, labels, patient.scan.affine)


def one_mask(path: Path, patient: Patient, number: int) -> Path:
    return write_scan(path, masks_in(patient, {number: 1}), labels=True)


def rate_name(patient: Patient, reconstruction: int = 1) -> str:
    """Of a volume of CT-RATE; its official validation studies are our test split."""
    return f"{'valid' if patient.split == 'test' else 'train'}_{9000 + patient.number}_a_{reconstruction}"


def rate_path(root: Path, top: str, name: str) -> Path:
    split, number, scan, _ = name.split("_")
    return root / top.format(split) / f"{split}_{number}" / f"{split}_{number}_{scan}" / f"{name}.nii.gz"


def rate_labels(patient: Patient) -> dict[str, int]:
    named = {"Lung nodule": "lung_nodule", "Pleural effusion": "pleural_effusion", "Cardiomegaly": "cardiomegaly",
             "Consolidation": "consolidation", "Emphysema": "emphysema"}  # fmt: skip
    return NO_LABELS | {column: patient.has(name) for column, name in named.items()}


def write_rate_tables(root: Path, patients: Patients, intercept: int = -1024) -> None:
    """Reports, labels, metadata and no-chest lists; each scan has two reconstructions, one patient a head scan."""
    for split, other, ours in PARTS:
        rows: tuple[Rows, Rows, Rows] = ([], [], [])
        some = [p for p in patients if (p.split == "test") == (ours == "test")]
        for patient in some:
            _, affine = flipped(patient.scan.hu, patient.scan.affine)
            x, y, z = affine[:3, 3].tolist()
            edges = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            for reconstruction, kernel in ((1, "['Br40f', '3']"), (2, "B70f")):
                name = {"VolumeName": f"{rate_name(patient, reconstruction)}.nii.gz"}
                rows[0].append(name | {
                    "Manufacturer": "Siemens", "ManufacturerModelName": "Flash", "PatientSex": patient.sex,
                    "PatientAge": f"{patient.age:03}Y", "ConvolutionKernel": kernel,
                    "ImagePositionPatient": f"[{-x}, {-y}, {z}]", "RescaleIntercept": f"{intercept}.0",
                    "ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]", "RescaleSlope": "1.0",
                    "XYSpacing": f"[{edges[0]}, {edges[1]}]", "ZSpacing": edges[2], "NumberofSlices": 99,
                })  # fmt: skip
                rows[1].append(name | {
                    "ClinicalInformation_EN": "Not given.", "Technique_EN": "Axial series.",
                    "Findings_EN": patient.findings, "Impressions_EN": patient.impression or "Not given.",
                })  # fmt: skip
                rows[2].append(name | rate_labels(patient))
        write_rows(root / f"metadata/{other}_metadata.csv", rows[0])
        write_rows(root / f"radiology_text_reports/{other}_reports.csv", rows[1])
        write_rows(root / f"multi_abnormality_labels/{split}_predicted_labels.csv", rows[2])
        head = f"dataset/{split}/{split}_9109/{split}_9109_a/{split}_9109_a_1.nii.gz\n"
        write_file(root / f"metadata/no_chest_{split}.txt", head)


def ct_rate(root: Path, patients: Patients) -> None:
    """Version 2, with masks, two reconstructions a study, a head scan and a broken volume."""
    write_rate_tables(root, patients)
    for patient in patients:
        for reconstruction in (1, 2):
            write_scan(rate_path(root, "dataset/{}_fixed", rate_name(patient, reconstruction)), patient.scan)
        write_scan(rate_path(root, "ts_seg/ts_total/{}_fixed", rate_name(patient)), patient.scan, labels=True)
    for name in ("train_9109_a_1", "train_1267_a_4"):
        write_scan(rate_path(root, "dataset/{}_fixed", name), patients[0].scan)


def ct_rate_1(root: Path, patients: Patients) -> None:
    """Version 1: blank headers, stored numbers, one intercept of -8192; no masks that fit."""
    write_rate_tables(root, patients, -8192)
    for patient in patients:
        stored, _ = flipped(patient.scan.hu.astype(np.float64) + 8192, patient.scan.affine)
        path = rate_path(root, "dataset/{}", rate_name(patient))
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(stored, np.eye(4)), path)


def radgenome(root: Path, patients: Patients) -> None:
    """Preprocessed volumes that lack slope and intercept, a mask a region, sentences by place, questions."""
    write_rate_tables(root.with_name("tables"), patients, -1024)
    for part in ("train", "validation"):
        table = (root.with_name("tables") / f"metadata/{part}_metadata.csv").read_bytes()
        write_file(root / f"metadata/{part}_metadata.csv", table)
    for patient in patients:
        name = rate_name(patient)
        split, number, scan, _ = name.split("_")
        stored = Phantom(patient.scan.hu + 1024, patient.scan.labels, patient.scan.affine)
        inner = f"{split}_{number}/{split}_{number}{scan}/{name}.nii.gz"
        write_scan(root / f"dataset/{split}_preprocessed" / inner, stored)
        for region, organ in (("heart", 51), ("liver", 5), ("esophagus", 15)):
            one_mask(root / f"{split}_region_mask/seg_{name}/{region}.nii.gz", patient, organ)
    for _, other, ours in PARTS:
        some = [p for p in patients if (p.split == "test") == (ours == "test")]
        texts: Rows = []
        for patient in some:
            name = {"Volumename": f"{rate_name(patient)}.nii.gz"}
            for place in ("heart", "abdomen/liver", "esophagus", "others", ""):
                texts.append(name | {"Anatomy": place, "Sentence": _sentence(place.split("/")[-1], patient)})
        table = root / "radgenome_files"
        write_rows(table / f"{other}_region_report.csv", texts)
        write_rows(table / f"{other}_case_disorders.csv", [
            {"Volumename": f"{rate_name(p)}.nii.gz", "Disorders": "hiatal hernia, strange thing"} for p in some[:1]
        ])  # fmt: skip
        write_rows(table / f"{other}_vqa_presence.csv", [
            {"Volumename": f"{rate_name(p)}.nii.gz", "Anatomy": "heart", "Finding": "cardiomegaly",
             "Presence": "Yes." if p.has("cardiomegaly") else "No."}
            for p in some
        ])  # fmt: skip


def _sentence(organ: str, patient: Patient) -> str:
    """What is said of one place."""
    if organ == "heart":
        return "The heart is enlarged." if patient.has("cardiomegaly") else "The heart is normal in size."
    if organ == "liver":
        return "Hepatic steatosis." if patient.has("hepatic_steatosis") else "The liver is unremarkable."
    return "Hiatal hernia." if organ == "esophagus" and patient.odd else "Unremarkable."


def rexgrounding(root: Path, patients: Patients) -> dict[str, Any]:
    """Lists by split over CT-RATE's volumes, whose folder is another one; a patient who leaks."""
    ct_rate(root.with_name("CT-RATE"), patients)
    codes = {"2d": "lung_nodule", "2e": "pleural_effusion", "1c": "emphysema"}
    lists: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": [{"name": "scan.nii.gz"}]}
    for patient in patients:
        found = [code for code, name in codes.items() if patient.has(name)] or ["2h"]
        entry = {
            "name": f"{rate_name(patient)}.nii.gz", "findings": {str(k): f"Finding {c}." for k, c in enumerate(found)},
            "categories": {str(k): code for k, code in enumerate(found)}, "shape": list(patient.scan.hu.shape),
        }  # fmt: skip
        lists[patient.split].append(entry)
        layers, _ = flipped(patient.scan.labels == 51, patient.scan.affine)
        stacked = np.stack([layers.astype(np.uint8)] * len(found))
        path = root / f"segmentations/{rate_name(patient)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(stacked, np.eye(4)), path)
    lists["val"].append(lists["train"][0] | {"name": rate_name(patients[0], 2) + ".nii.gz"})
    write_json_file(root / "dataset.json", lists)
    return {"ct_rate": str(root.with_name("CT-RATE"))}


def merlin(root: Path, patients: Patients) -> None:
    """One text a study with its impression inside, -1 as unknown, masks in TotalSegmentator's first numbers."""
    rows: list[list[object]] = [["study id", "Findings", "Split", "Few Shot"]]
    labels: Rows = []
    for patient in patients:
        name = f"AC42{patient.number:02}fbb"
        write_scan(root / f"merlinabdominalctdataset/merlin_data/{name}.nii.gz", patient.scan)
        write_scan(root / f"masks/{name}.nii.gz", masks_in(patient, {1: 1, 2: 2, 3: 3, 5: 5}), labels=True)
        rows.append([name, f"{patient.findings}\nIMPRESSION:\n{patient.impression}", patient.split, 0])
        labels.append({
            "study id": name, **dict.fromkeys(MERLIN, -1), "pleural_effusion": patient.has("pleural_effusion"),
            "hepatic_steatosis": patient.odd, "cardiomegaly": patient.has("cardiomegaly"),
        })  # fmt: skip
    write_scan(root / "merlinabdominalctdataset/merlin_data/AC9999zzz.nii.gz", patients[0].scan)
    workbook(root / "reports_final.xlsx", {"Sheet1": [*rows, ["AC8888yyy", "Normal.", "test", 0]]})
    write_rows(root / "zero_shot_findings_disease_cls.csv", labels)
    write_rows(root / "metadata.csv", [{"study id": rows[1][0], "Age": "61", "Gender": "Female", "phase": "portal"}])
    organ_texts = {str(row[0]): {"report": "x", "liver": "Fatty.", "spleen": "normal"} for row in rows[1:]}
    write_json_file(root / "merlin_report_organ_report_v1.json", organ_texts)


def rad_chestct(root: Path, patients: Patients) -> None:
    """NumPy archives, slices from the head on; labels by place; one patient with two scans, one scan not there."""
    prefix = {"train": "trn", "val": "val", "test": "tst"}
    people: Rows = []
    labels: dict[str, Rows] = {"train": [], "valid": [], "test": []}
    for patient in patients:
        name, part = f"{prefix[patient.split]}{patient.number:05}", patient.split.replace("val", "valid")
        root.mkdir(parents=True, exist_ok=True)
        volume = np.clip(patient.scan.hu, -1000, 1000)[::-1, ::-1, ::-1].transpose(2, 1, 0)
        np.savez_compressed(root / f"{name}.npz", ct=volume)
        who = 0 if patient.number == 2 else patient.number
        people.append({"MRN_DEID": f"m{who}", "NoteAcc_DEID": name, "Set_Assigned": part, "Subset_Assigned": part})
        labels[part].append({
            "NoteAcc_DEID": name, "nodule*left_upper": float(patient.odd), "nodule*right_lower": 0.0,
            "pleural_effusion*left_lung": float(patient.has("pleural_effusion")), "scarring*lung": 1.0,
        })  # fmt: skip
    gone = {"MRN_DEID": "m99", "NoteAcc_DEID": "tst00099", "Set_Assigned": "test", "Subset_Assigned": "test"}
    write_rows(root / "Summary_3630.csv", [*people, gone])
    for part, rows in labels.items():
        write_rows(root / f"img{part}_Abnormality_and_Location_Labels.csv", rows)


def inspect_pe(root: Path, patients: Patients) -> None:
    """Tables joined by the impression's id; a label that is censored; impressions alone."""
    every = [(f"PE4a{p.number}", str(100 + p.number), p) for p in patients]
    for name, _, patient in every:
        write_scan(root / f"CTPA/{name}.nii.gz", patient.scan)
    write_rows(root / "Final_metadata.csv", [{"image_id": f"{n}.nii.gz", "impression_id": i} for n, i, _ in every])
    texts = [{"impression_id": i, "impressions": p.impression or p.findings} for _, i, p in every]
    write_rows(root / "Final_Impressions.csv", texts)
    write_rows(root / "Final_labels_20250611.tsv", [
        {"impression_id": i, "pe_positive_nlp": "Censored" if p.number == 0 else str(bool(p.odd)),
         "pe_acute": "False", "12_month_PH": "Censored"}
        for _, i, p in every
    ], separator="\t")  # fmt: skip
    splits = [{"impression_id": i, "split": p.split.replace("val", "valid")} for _, i, p in every]
    write_rows(root / "Final_splits.csv", splits)
    people = [{"PatientID": f"p{p.number}", "impression_id": i} for _, i, p in every]
    write_rows(root / "cohort_0.2.0_master_file_anon.csv", people)


def abdomen_atlas(root: Path, patients: Patients) -> None:
    """Combined labels or a folder of organs in the atlas's names, a case without a scan."""
    for patient in patients:
        case = root / f"BDMAP_{patient.number + 1:08}"
        write_scan(case / "ct.nii.gz", patient.scan)
        one_mask(case / "segmentations/liver.nii.gz", patient, 5)
        one_mask(case / "segmentations/postcava.nii.gz", patient, 63)
        if patient.number % 2:
            write_scan(case / "combined_labels.nii.gz", masks_in(patient, ATLAS), labels=True)
    write_scan(root / "BDMAP_00000099/combined_labels.nii.gz", masks_in(patients[0], ATLAS), labels=True)


def abdomen_atlas_3(root: Path, patients: Patients) -> None:
    """Reports of a program, counts of lesions, masks of lesions, official lists with and without a heading."""
    table: Rows = []
    for patient in patients:
        case = f"BDMAP_{patient.number + 1:08}"
        write_scan(root / "image_only" / case / "ct.nii.gz", patient.scan)
        for organ, number in (("liver", 5), ("spleen", 1), ("kidney_left", 3), ("gall_bladder", 4)):
            one_mask(root / "mask_only" / case / f"segmentations/{organ}.nii.gz", patient, number)
        if patient.odd:
            one_mask(root / "mask_only" / case / "liver_lesion.nii.gz", patient, 5)
        table.append({
            "BDMAP ID": case, "spacing": "[6,6,6]", "shape": "(9,9,9)", "sex": patient.sex, "age": f"{patient.age}.0",
            "scanner": "siemens", "contrast": "venous", "liver volume (cm^3)": "1500",
            "number of liver lesion instances": patient.odd, "number of kidney lesion instances": "",
            "structured report": patient.findings, "narrative report": "" if patient.number == 1 else patient.findings,
        })  # fmt: skip
    write_rows(root / "AbdomenAtlas3.0MiniWithMeta.csv", [*table, table[0] | {"BDMAP ID": "BDMAP_00000099"}])
    train = [{"BDMAP ID": f"BDMAP_{p.number + 1:08}"} for p in patients if p.split != "test"]
    write_rows(root / "TrainTestIDS/IID_train.csv", train)
    test = [f"BDMAP_{p.number + 1:08}" for p in patients if p.split == "test"]
    write_file(root / "TrainTestIDS/IID_test.csv", "\n".join(test) + "\n")


def amos_mm(root: Path, patients: Patients) -> None:
    """Reports by part of the body in one JSON, in AMOS's numbers; the test scans have none."""
    folders = {"train": "Tr", "val": "Va", "test": "Ts"}
    reports: dict[str, Any] = {}
    for patient in patients:
        name, folder = f"amos_{patient.number + 1:04}", folders[patient.split]
        write_scan(root / f"images{folder}/{name}.nii.gz", patient.scan)
        numbers = {1: 1, 2: 2, 3: 3, 4: 4, 15: 5, 5: 6}
        write_scan(root / f"labels{folder}/{name}.nii.gz", masks_in(patient, numbers), labels=True)
        chest, _, rest = patient.findings.partition(". ")
        reports[f"{name}.nii.gz"] = {"findings": {"chest": chest, "abdomen": rest, "pelvis": ""}}
    write_json_file(root / "report_generation_train_val_test.json", reports)


def rsna_pe(root: Path, patients: Patients) -> None:
    """A row an image; a series that lacks images, one of the public test, an exam without a decision."""
    rows: Rows = []
    for patient in patients:
        study, series = f"1.2.826.1.{patient.number}", f"1.2.826.2.{patient.number}"
        slices = patient.scan.hu.shape[2]
        write_dicom_series(root / f"train/{study}/{series}", patient.scan)
        rows += [
            {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{k}",
             "pe_present_on_image": int(patient.odd and k == 4), "negative_exam_for_pe": 1 - patient.odd, **PE,
             "indeterminate": 0}
            for k in range(slices)
        ]  # fmt: skip
    short = [row | {"StudyInstanceUID": "1.2.826.1.99", "SeriesInstanceUID": "1.2.826.2.99"} for row in rows[:9]]
    write_dicom_series(root / "train/1.2.826.1.99/1.2.826.2.99", patients[0].scan, slices=7)
    write_dicom_series(root / "test/1.2.826.1.98/1.2.826.2.98", patients[0].scan, slices=3)
    write_rows(root / "train.csv", [*rows, *short])


def rsna_trauma(root: Path, patients: Patients) -> None:
    """Labels of patients over series, one of them with two; grades of organs; a series that is not there."""
    series: Rows = []
    for patient in patients:
        ids = [str(21000 + patient.number), "51033"][: 2 if patient.number == 0 else 1]
        for name in ids:
            write_dicom_series(root / f"train_images/{10004 + patient.number}/{name}", patient.scan)
            series.append({"patient_id": 10004 + patient.number, "series_id": name, "aortic_hu": 146.0,
                           "incomplete_organ": 0})  # fmt: skip
    write_rows(root / "train_series_meta.csv", [*series, series[-1] | {"series_id": "47578"}])
    write_rows(root / "train.csv", [
        {"patient_id": 10004 + p.number, "bowel_healthy": 1 - p.odd, "bowel_injury": p.odd, "extravasation_healthy": 1,
         "extravasation_injury": 0, "kidney_healthy": 1, "kidney_low": 0, "kidney_high": 0,
         "liver_healthy": 1 - p.odd, "liver_low": p.odd, "liver_high": 0, "spleen_healthy": 1, "spleen_low": 0,
         "spleen_high": 0, "any_injury": p.odd}
        for p in patients
    ])  # fmt: skip


def totalsegmentator(root: Path, patients: Patients) -> None:
    """A folder of organs, semicolons, a scan with corrupt HU, one whose heart is misplaced."""
    names = ["s0143", "s0184", *(f"s1{p.number:03}" for p in patients)]
    for name, patient in zip(names, [*patients[:2], *patients], strict=True):
        write_scan(root / name / "ct.nii.gz", patient.scan)
        for organ, number in (("liver", 5), ("spleen", 1), ("kidney_left", 3), ("atrial_appendage_left", 61)):
            one_mask(root / name / f"segmentations/{organ}.nii.gz", patient, number)
    write_rows(root / "meta.csv", [
        {"image_id": f"s1{p.number:03}", "age": p.age, "gender": p.sex.lower(), "institute": "A", "split": p.split}
        for p in patients
    ], separator=";")  # fmt: skip


def lidc_idri(root: Path, patients: Patients) -> None:
    """XML of four readers beside the slices, a radiograph of a patient, a patient with two scans."""
    for patient in patients:
        folder = root / f"LIDC-IDRI-{patient.number + 1:04}" / "1.3.6.1.1"
        write_dicom_series(folder / f"1.3.6.1.2.{patient.number}", patient.scan)
        write_file(folder / f"1.3.6.1.2.{patient.number}" / "069.xml", lidc_xml(4 * patient.odd))
    write_dicom_series(folder / "1.3.6.1.9", patients[0].scan)
    write_dicom_series(root / "LIDC-IDRI-0001" / "1.3.6.1.4" / "1.3.6.1.5", patients[0].scan, slices=2)


def luna16(root: Path, patients: Patients) -> dict[str, Any]:
    """MetaImages by fold, nodules in world millimetres; a header whose voxels are not there."""
    nodules: Rows = []
    for patient in patients:
        uid, fold = f"1.3.6.1.7.{patient.number}", 1 if patient.split == "test" else 0
        write_meta_image(root / f"subset{fold}/{uid}.mhd", patient.scan)
        if patient.odd:
            place = np.array(patient.scan.hu.shape) * (0.7, 0.3, 0.4)
            x, y, z = (patient.scan.affine @ [*place, 1])[:3].tolist()
            nodules.append({"seriesuid": uid, "coordX": -x, "coordY": -y, "coordZ": z, "diameter_mm": 8.1})
    write_meta_image(root / "subset0/1.3.6.1.7.99.mhd", patients[0].scan).with_suffix(".raw").unlink()
    write_rows(root / "annotations.csv", [*nodules, nodules[0] | {"seriesuid": "1.3.6.1.7.98"}])
    return {"test_subset": 1}


def nlst(root: Path, patients: Patients) -> None:
    """Rounds by year, two reconstructions, a scout."""
    for patient in patients:
        who = str(100002 + patient.number)
        for number, kernel in ((1, "STANDARD"), (2, "LUNG")):
            write_dicom_series(root / who / "01-02-1999-LSS" / f"{number}.000000-0OPLGE", patient.scan, PatientID=who,
                               StudyDate="19990102", ConvolutionKernel=kernel, SliceThickness=2)  # fmt: skip
    write_dicom_series(root / who / "01-02-1999-LSS" / "9.000000-scout", slices=1, PatientID=who)


def dicom(root: Path, patients: Patients) -> dict[str, Any]:
    """A PACS export: two series a study and a dose report in one folder, reports by accession number."""
    reports: Rows = []
    for patient in patients:
        study = {"PatientID": f"PID-{patient.number}", "StudyInstanceUID": f"1.2.3.{patient.number}",
                 "AccessionNumber": f"ACC{patient.number}", "PatientName": "Quexley^Zebediah"}  # fmt: skip
        for number, kernel in ((2, "B30f"), (3, "B70f")):
            write_dicom_series(root / f"{patient.number}" / str(number), patient.scan, SeriesNumber=number,
                               SeriesInstanceUID=f"1.2.3.{patient.number}.{number}", ConvolutionKernel=kernel,
                               **study)  # fmt: skip
        other = {"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "SeriesInstanceUID": "1.2.3.9"}
        write_dicom_series(root / f"{patient.number}" / "dose", patient.scan, 1, **study, **other)
        reports.append({"Accession Number": f"ACC{patient.number}",
                        "Report": f"FINDINGS: {patient.findings}\nIMPRESSION: {patient.impression}"})  # fmt: skip
    table = write_rows(root.with_name("reports.csv"), [*reports, {"Accession Number": "ACC99", "Report": "Nobody's."}])
    return {"reports": str(table)}


CT_MINIATURES: dict[str, Callable[[Path, Patients], dict[str, Any] | None]] = {
    "ct_rate": ct_rate, "radgenome": radgenome, "rexgrounding": rexgrounding, "merlin": merlin,
    "rad_chestct": rad_chestct, "inspect_pe": inspect_pe, "abdomen_atlas": abdomen_atlas,
    "abdomen_atlas_3": abdomen_atlas_3, "amos_mm": amos_mm, "rsna_pe": rsna_pe, "rsna_trauma": rsna_trauma,
    "totalsegmentator": totalsegmentator, "lidc_idri": lidc_idri, "luna16": luna16, "nlst": nlst, "dicom": dicom,
}  # fmt: skip
"""Each writes the patients as its set has them, and returns the settings that its reader needs."""
