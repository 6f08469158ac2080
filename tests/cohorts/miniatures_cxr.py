"""Miniatures of sets of radiographs: the patients under each set's own names, headers and codes, its traps included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cohorts.builders import write_file, write_json_file, write_rows
from tests.cohorts.patients import Patient, write_radiograph
from tests.cohorts.test_column_map import CHEX, MIMIC_CHEX

Patients = list[Patient]
Rows = list[dict[str, Any]]
LARGE = 1024
"""The side of radiographs whose boxes and outlines are written in pixels of 1024."""


def mimic_cxr_jpg(root: Path, patients: Patients) -> None:
    """Two radiographs of the first study, one report a study, blanks and -1 among the labels."""
    tables: dict[str, Rows] = {"metadata": [], "split": [], "chexpert": []}
    texts: Rows = []
    for patient in patients:
        subject, study = str(10000032 + patient.number), str(50414267 + patient.number)
        texts.append({"study": f"s{study}", "impression": patient.impression, "findings": patient.findings,
                      "last_paragraph": "", "comparison": "None."})  # fmt: skip
        for view in ("PA", "LATERAL")[: 2 if patient.number == 0 else 1]:
            ids = {"dicom_id": mimic_id(patient, view), "study_id": study, "subject_id": subject}
            write_radiograph(root / mimic_path(patient, view), patient)
            size = {"Rows": patient.pixels.shape[0], "Columns": patient.pixels.shape[1]}
            tables["metadata"].append(ids | size | {"ViewPosition": view, "StudyDate": "21800506"})
            tables["split"].append(ids | {"split": patient.split.replace("val", "validate")})
        blank = dict.fromkeys(MIMIC_CHEX.split(",")[2:], "")
        tables["chexpert"].append({"subject_id": subject, "study_id": study, **blank} | {
            "Cardiomegaly": float(patient.has("cardiomegaly")), "Pneumonia": "-1.0",
            "Pleural Effusion": float(patient.has("pleural_effusion")),
        })  # fmt: skip
    for name, rows in tables.items():
        write_rows(root / f"mimic-cxr-2.0.0-{name}.csv", rows)
    write_rows(root / "mimic_cxr_sectioned.csv", texts)


def mimic_id(patient: Patient, view: str = "PA") -> str:
    return f"{'02aa' if view == 'PA' else '1744'}{patient.number:04}-bde0afdd"


def mimic_path(patient: Patient, view: str = "PA") -> str:
    subject, study = 10000032 + patient.number, 50414267 + patient.number
    return f"files/p10/p{subject}/s{study}/{mimic_id(patient, view)}.jpg"


def mimic_cxr(root: Path, patients: Patients) -> None:
    """MIMIC-CXR-JPG beside scene graphs (none for the last patient) and phrases with boxes."""
    mimic_cxr_jpg(root, patients)
    for patient in patients[:-1]:
        objects = [
            {"object_id": name, "bbox_name": name.replace("_", " "), "x1": 1, "y1": 1, "x2": 9, "y2": 9,
             "original_x1": left, "original_y1": top, "original_x2": right, "original_y2": bottom}
            for name, (top, bottom, left, right) in patient.boxes.items()
        ]  # fmt: skip
        scene = {"objects": objects, "attributes": [], "relationships": []}
        write_json_file(root / f"silver_dataset/scene_graph/{mimic_id(patient)}_SceneGraph.json", scene)
    write_rows(root / "MS_CXR_Local_Alignment_v1.1.0.csv", _phrases(patients))


def _phrases(patients: Patients) -> Rows:
    """A phrase about each heart; the split of the table is not MIMIC's."""
    rows: Rows = []
    for patient in patients:
        top, bottom, left, right = patient.boxes.get("cardiac_silhouette", (10, 40, 5, 30))
        said = "enlarged heart" if patient.has("cardiomegaly") else "heart of normal size"
        rows.append({
            "dicom_id": mimic_id(patient), "category_name": "Cardiomegaly", "label_text": said,
            "path": mimic_path(patient), "x": left, "y": top, "w": right - left, "h": bottom - top,
            "image_width": patient.pixels.shape[1], "image_height": patient.pixels.shape[0], "split": "val",
        })  # fmt: skip
    return rows


def ms_cxr(root: Path, patients: Patients) -> dict[str, Any]:
    """The table of phrases alone; radiographs and split lie in MIMIC-CXR's folder."""
    mimic_cxr_jpg(root.with_name("mimic"), patients)
    write_rows(root / "MS_CXR_Local_Alignment_v1.1.0.csv", _phrases(patients))
    return {"mimic": str(root.with_name("mimic"))}


def openi(root: Path, patients: Patients) -> None:
    """Projections and reports apart; removed words; a frontal and a lateral radiograph of the first patient."""
    projections: Rows = []
    for patient in patients:
        for view in ("Frontal", "Lateral")[: 2 if patient.number == 0 else 1]:
            file = f"{patient.number + 1}_IM-{patient.number:04}-{4001 if view == 'Frontal' else 3001}.dcm.png"
            write_radiograph(root / "images/images_normalized" / file, patient)
            projections.append({"uid": patient.number + 1, "filename": file, "projection": view})
    write_rows(root / "indiana_projections.csv", projections)
    write_rows(root / "indiana_reports.csv", [
        {"uid": p.number + 1, "MeSH": "normal", "Problems": "normal", "image": "Xray Chest PA", "indication": "XXXX",
         "comparison": "None.", "findings": p.findings, "impression": p.impression}
        for p in patients
    ])  # fmt: skip


def chexpert(root: Path, patients: Patients) -> None:
    """The official validation is our test; -1 and blanks; a path that holds every id."""
    tables: dict[str, Rows] = {"train": [], "valid": []}
    for patient in patients:
        part = "valid" if patient.split == "test" else "train"
        path = f"CheXpert-v1.0-small/{part}/patient{patient.number + 1:05}/study1/view1_frontal.jpg"
        write_radiograph(root / path, patient)
        tables[part].append(dict.fromkeys(CHEX.split(","), "") | {
            "Path": path, "Sex": "Female", "Age": patient.age, "Frontal/Lateral": "Frontal", "AP/PA": "PA",
            "Cardiomegaly": float(patient.has("cardiomegaly")), "Pleural Effusion": float(patient.odd),
            "Consolidation": "-1.0",
        })  # fmt: skip
    for part, rows in tables.items():
        write_rows(root / f"CheXpert-v1.0-small/{part}.csv", rows)


def nih_chestxray14(root: Path, patients: Patients) -> None:
    """Labels as a list, ages in two forms, the two official lists, radiographs in numbered folders."""
    rows: Rows = []
    lists: dict[str, list[str]] = {"test": [], "train_val": []}
    for patient in patients:
        file = f"{patient.number + 1:08}_000.png"
        write_radiograph(root / f"images_{patient.number % 2 + 1:03}/images/{file}", patient)
        found = ["Effusion"] * patient.odd + ["Cardiomegaly"] * patient.has("cardiomegaly")
        rows.append({
            "Image Index": file, "Finding Labels": "|".join(found) or "No Finding", "Follow-up #": 0,
            "Patient ID": patient.number + 1, "Patient Age": f"{patient.age:03}Y", "Patient Gender": patient.sex,
            "View Position": "PA", "OriginalImage[Width,Height]": "2682,2749", "OriginalImagePixelSpacing[x,y]": "0.1",
        })  # fmt: skip
        lists["test" if patient.split == "test" else "train_val"].append(file)
    write_rows(root / "Data_Entry_2017.csv", rows)
    for name, files in lists.items():
        write_file(root / f"{name}_list.txt", "\n".join(files) + "\n")


def padchest(root: Path, patients: Patients) -> None:
    """Labels as Python lists, Spanish stemmed reports, ids of forty digits, a row without labels."""
    rows: Rows = []
    for patient in patients:
        study = f"2053668664013634823614867989145588{patient.number:04}"
        file = f"{study}_k6ga29.png"
        write_radiograph(root / f"{patient.number % 3}/{file}", patient)
        found = [*["pleural effusion"] * patient.odd, *["cardiomegaly"] * patient.has("cardiomegaly"), "unchanged"]
        rows.append({
            "": patient.number, "ImageID": file, "ImageDir": patient.number % 3, "StudyDate_DICOM": "20140915",
            "StudyID": study, "PatientID": f"83986048869449233163798823568146{patient.number:04}",
            "PatientBirth": 1930.0, "PatientSex_DICOM": "F", "ViewPosition_DICOM": "POSTEROANTERIOR",
            "Projection": "PA", "Report": "sin hallazg", "Labels": str(found),
        })  # fmt: skip
    write_rows(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", rows)


def rsna_pneumonia(root: Path, patients: Patients) -> None:
    """A row a box: several rows of one radiograph, and rows without a box."""
    rows: Rows = []
    for patient in patients:
        name = f"0004cfab-14fd-4e49-80ba-{patient.number:012}"
        write_radiograph(root / f"stage_2_train_images/{name}.dcm", patient)
        box = {"patientId": name, "x": 20.0, "y": 30.0, "width": 15.0, "height": 12.0, "Target": 1}
        empty = {"patientId": name, "x": "", "y": "", "width": "", "height": "", "Target": 0}
        rows += [box, box | {"x": 40.0}] if patient.odd else [empty]
    write_rows(root / "stage_2_train_labels.csv", rows)


def covidx(root: Path, patients: Patients) -> None:
    """Lists without a heading, three classes."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for patient in patients:
        part = "test" if patient.split == "test" else "train"
        file = f"SARS-10.1148rg-{patient.number}.png"
        write_radiograph(root / part / file, patient)
        kind = ("COVID-19" if patient.number % 2 else "pneumonia") if patient.odd else "normal"
        lines[part].append(f"{patient.number} {file} {kind} cohen")
    for part, rows in lines.items():
        write_file(root / f"{part}.txt", "\n".join(rows) + "\n")


def vindr_cxr(root: Path, patients: Patients) -> None:
    """Three readers a training radiograph, one consensus in the test, boxes that are blank, MONOCHROME1."""
    tables: dict[str, Rows] = {"train": [], "test": []}
    for patient in patients:
        part = "test" if patient.split == "test" else "train"
        name = f"{patient.number:032x}"
        write_radiograph(root / part / f"{name}.dicom", patient, negative=patient.number % 2 == 1)
        for reader in ("R1", "R2", "R3")[: 3 if part == "train" else 1]:
            who = {"image_id": name} | ({"rad_id": reader} if part == "train" else {})
            edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), (10.5, 20, 30, 40), strict=True))
            if patient.odd:
                tables[part].append(who | {"class_name": "Pleural effusion"} | edges)
            else:
                tables[part].append(who | {"class_name": "No finding"} | dict.fromkeys(edges, ""))
    for part, rows in tables.items():
        write_rows(root / f"annotations/annotations_{part}.csv", rows)


def object_cxr(root: Path, patients: Patients) -> None:
    """Boxes, ellipses and polygons; the test's column has another name; the same names in two folders."""
    parts = {"train": "train", "val": "dev", "test": "test"}
    tables: dict[str, Rows] = {part: [] for part in parts.values()}
    for patient in patients:
        part = parts[patient.split]
        file = f"{len(tables[part]) + 1:05}.jpg"
        write_radiograph(root / part / file, patient)
        key = {"image_path": f"test/{file}"} if part == "test" else {"image_name": file}
        tables[part].append(key | {"annotation": "0 10 20 30 40;2 5 5 9 5 7 12;1 1 2 3 4" if patient.odd else ""})
    for part, rows in tables.items():
        write_rows(root / f"{part}.csv", rows)


def siim_pneumothorax(root: Path, patients: Patients) -> None:
    """A heading with a blank, -1 as empty, run lengths down the columns, several rows of one radiograph."""
    lines = ["ImageId, EncodedPixels"]
    for patient in patients:
        uid = f"1.2.276.0.7230010.3.1.4.{patient.number}"
        write_radiograph(root / f"dicom-images-train/1.2/1.4/{uid}.dcm", patient)
        lines += [f"{uid}, 100250 30 994 30", f"{uid},5000 20"] if patient.odd else [f"{uid}, -1"]
    write_file(root / "train-rle.csv", "\n".join(lines) + "\n")


def jsrt(root: Path, patients: Patients) -> None:
    """Headerless numbers, big-endian; some where 0 is white; a clinical table with a line that says nothing."""
    lines = ["JPCLN099.IMG\t?"]
    for patient in patients:
        name = f"JPC{'LN' if patient.odd else 'NN'}{patient.number + 1:03}"
        write_radiograph(root / f"All247images/{name}.IMG", patient, negative=patient.number % 2 == 1)
        if patient.odd:
            line = f"{name}.IMG\t5\t15\t{patient.age}\tfemale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer"
            lines.append(line)
    write_file(root / "Clinical_Information/CLNDAT_EN.txt", "\n".join(lines) + "\n")


def tbx11k(root: Path, patients: Patients) -> None:
    """Classes by folder, lists of splits, boxes in the form of COCO in two files, radiographs without a label."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    images: Rows = []
    for patient in patients:
        kind = "tb" if patient.odd else ("health", "sick")[patient.number % 2]
        file = f"{kind}/{kind[0]}{patient.number:04}.png"
        write_radiograph(root / "imgs" / file, patient)
        lists["train" if patient.split == "train" else "val"].append(file)
        if patient.odd:
            images.append({"id": patient.number, "file_name": file})
    for inner in ("test/t0001.png", "extra/da+db/train/p0001.png"):
        write_radiograph(root / "imgs" / inner, patients[0])
    for part, files in lists.items():
        write_file(root / f"lists/TBX11K_{part}.txt", "\n".join(files) + "\n")
    tree = {
        "images": images, "categories": [{"id": 1, "name": "ActiveTuberculosis"}],
        "annotations": [{"image_id": one["id"], "category_id": 1, "bbox": [10.2, 20.0, 30.0, 40.0]} for one in images],
    }  # fmt: skip
    for name in ("TBX11K_train", "TBX11K_trainval"):
        write_json_file(root / f"annotations/json/{name}.json", tree)


CXR_MINIATURES: dict[str, Callable[[Path, Patients], dict[str, Any] | None]] = {
    "mimic_cxr": mimic_cxr, "mimic_cxr_jpg": mimic_cxr_jpg, "ms_cxr": ms_cxr, "openi": openi, "chexpert": chexpert,
    "nih_chestxray14": nih_chestxray14, "padchest": padchest, "rsna_pneumonia": rsna_pneumonia, "covidx": covidx,
    "vindr_cxr": vindr_cxr, "object_cxr": object_cxr, "siim_pneumothorax": siim_pneumothorax, "jsrt": jsrt,
    "tbx11k": tbx11k,
}  # fmt: skip
"""Each writes the patients as its set has them, and returns the settings that its reader needs."""
