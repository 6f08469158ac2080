"""Every public map on a few rows written for the test in the dataset's real layout."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctglip.cohort import Cohort, read_cohort
from ctglip.cohorts.column_map import ColumnMapReader
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import CohortSummary, write_cohort
from ctglip.cxr.regions import read_regions
from ctglip.errors import CohortError
from ctglip.resources import resource
from ctglip.vocabulary.abnormalities import load_abnormalities
from tests.label_frames import label_frame

MAPS = sorted(path.stem for path in (resource("configs") / "cohorts").glob("*.yaml"))
MIMIC_CHEX = "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"  # noqa: E501
CHEX = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"  # noqa: E501
LAYOUTS: dict[str, dict[str, str]] = {
    "mimic_cxr_jpg": {
        "mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate\n"  # noqa: E501
        "02aa804e-bde0afdd,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506\n"
        "174413ec-4ec4c1f7,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506\n"
        "2a2277a9-b0ded155,10000764,57375967,CHEST (PORTABLE AP),AP,3056,2544,21800506\n",
        "mimic_cxr_sectioned.csv": "study,impression,findings,last_paragraph,comparison\n"
        's50414267,No acute cardiopulmonary process.,"There is no focal consolidation,\npleural effusion or pneumothorax.",,\n'  # noqa: E501
        "s57375967,Focal consolidation at the left lung base.,,,None.\n",
        "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\n02aa804e-bde0afdd,50414267,10000032,train\n"
        "174413ec-4ec4c1f7,50414267,10000032,train\n2a2277a9-b0ded155,57375967,10000764,validate\n",
        "mimic-cxr-2.0.0-chexpert.csv": f"{MIMIC_CHEX}\n10000032,50414267,,,0.0,,,,,,1.0,0.0,,,0.0,\n"
        "10000764,57375967,,,1.0,,,,,,,,,-1.0,,\n",
    },
    "openi": {
        "indiana_projections.csv": "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n"
        "1,1_IM-0001-3001.dcm.png,Lateral\n3,3_IM-1384-1001.dcm.png,Frontal\n",
        "indiana_reports.csv": "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        "1,normal,normal,Xray Chest PA and Lateral,Positive TB test,None.,The cardiac silhouette is normal.,Normal chest x-XXXX.\n"  # noqa: E501
        "3,normal,normal,Xray Chest PA,rib pain,None,,No displaced rib fractures.\n",
    },
    "chexpert": {
        "CheXpert-v1.0-small/train.csv": f"{CHEX}\n"
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
        "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n",
        "CheXpert-v1.0-small/valid.csv": f"{CHEX}\n"
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,PA,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
    },
    "nih_chestxray14": {
        "Data_Entry_2017.csv": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"  # noqa: E501
        "00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143,\n"
        "00000002_000.png,No Finding,0,2,81,M,AP,2500,2048,0.171,0.171,\n",
        "test_list.txt": "00000002_000.png\n",
        "train_val_list.txt": "00000001_000.png\n",
        "images_001/images/00000001_000.png": "",
    },
    "padchest": {
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,Report,Labels\n"  # noqa: E501
        "0,20536686640136348236148679891455886468_k6ga29.png,0,20140915,20536686640136348236148679891455886468,839860488694292331637988235681460987,1930.0,F,POSTEROANTERIOR,PA,sin hallazg,['normal']\n"  # noqa: E501
        "1,135803415504923515076821959678074435083_fzis7b.png,2,20150914,135803415504923515076821959678074435083,313572750430997347502932654319389875966,1929.0,M,,AP_horizontal,cardiomegali,\"['cardiomegaly', 'pleural effusion', 'laminar atelectasis']\"\n"  # noqa: E501
        "2,8323_abc.png,2,20150914,8323,555,,M,,L,,\n",
    },
    "rsna_pneumonia": {
        "stage_2_train_labels.csv": "patientId,x,y,width,height,Target\n"
        "0004cfab-14fd-4e49-80ba-63a80b6bddd6,,,,,0\n"
        "00436515-870c-4b36-a041-de91049b9ab4,264.0,152.0,213.0,379.0,1\n"
        "00436515-870c-4b36-a041-de91049b9ab4,562.0,152.0,256.0,453.0,1\n",
    },
    "covidx": {
        "train.txt": "3 SARS-10.1148rg.242035193-g04mr34g0-Fig8a-day0.jpeg pneumonia cohen\n"
        "0cf6bd4e-dfbd-4014-8c45-d4d3ad9d8fe8 0cf6bd4e-dfbd-4014-8c45-d4d3ad9d8fe8.png normal rsna\n",
        "test.txt": "19 nejmc2001573_f1a.jpeg COVID-19 cohen\n",
    },
}


def read(name: str, folder: Path) -> tuple[Cohort, CohortSummary, Path]:
    for file, text in LAYOUTS[name].items():
        path = folder / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or "pixels")
    reader = cohort_reader(name)
    for row in reader.read(Disk(folder / "data", dicom_files=True), reader.Settings()).rows:
        image = folder / "data" / str(row["image"])
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"pixels")
    found = write_cohort(reader, folder / "data", folder / "out")
    cohort = read_cohort(folder / "out" / "cohort.csv")
    assert cohort.bad == ()
    assert {row.modality for row in cohort.rows} == {"cxr"}
    assert (found.studies, found.excluded) == (len(cohort.rows), {})
    return cohort, found, folder / "out"


def test_every_map_is_tested_and_names_known_abnormalities() -> None:
    assert sorted(LAYOUTS) == MAPS
    abnormalities = load_abnormalities()
    for name in MAPS:
        mapping = ColumnMapReader(f"cohorts/{name}").map
        for label in (*mapping.labels, *(label for entry in mapping.lists for label in entry.names)):
            assert label in abnormalities.names, (name, label)


def test_mimic(tmp_path: Path) -> None:
    cohort, _, out = read("mimic_cxr_jpg", tmp_path)
    first, lateral, other = cohort.rows
    assert first.image == (tmp_path / "data/files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg").resolve()
    assert (first.view, lateral.view, other.view) == ("pa", "lateral", "ap")
    assert first.findings is not None
    assert first.findings.startswith("There is no focal consolidation")
    assert other.findings is None, "a missing section stays missing"
    assert other.impression == "Focal consolidation at the left lung base."
    assert (first.patient_id, first.split, other.split) == ("p10000032", "train", "val")
    labels = label_frame(out / "labels.csv")
    assert labels["consolidation"].to_list() == [0, 0, 1]
    assert labels["pneumonia"].to_list() == [None, None, None], "uncertain stays empty"


def test_openi(tmp_path: Path) -> None:
    cohort, _, _ = read("openi", tmp_path)
    assert [row.study_id for row in cohort.rows] == ["1_IM-0001-4001", "1_IM-0001-3001", "3_IM-1384-1001"]
    assert [row.view for row in cohort.rows] == ["frontal", "lateral", "frontal"]
    assert cohort.rows[2].findings is None
    assert cohort.rows[0].impression == "Normal chest x-XXXX."
    assert cohort.rows[0].patient_id == cohort.rows[1].patient_id


def test_chexpert(tmp_path: Path) -> None:
    cohort, _, out = read("chexpert", tmp_path)
    assert [row.study_id for row in cohort.rows] == [
        "patient00001_study1_view1_frontal", "patient00002_study2_view2_lateral", "patient64541_study1_view1_frontal",
    ]  # fmt: skip
    assert [row.view for row in cohort.rows] == ["ap", "lateral", "pa"]
    assert [row.split for row in cohort.rows] == ["train", "train", "test"]
    assert [row.sex for row in cohort.rows] == ["F", "M", "M"]
    labels = label_frame(out / "labels.csv")
    assert labels["cardiomegaly"].to_list() == [None, None, 1]
    assert labels["pleural_effusion"].to_list() == [None, 1, 0]


def test_nih(tmp_path: Path) -> None:
    cohort, _, out = read("nih_chestxray14", tmp_path)
    first, second = cohort.rows
    assert first.image == (tmp_path / "data/images_001/images/00000001_000.png").resolve()
    assert (first.split, second.split) == ("train", "test")
    assert (first.patient_id, first.age, second.view) == ("00000001", 58, "ap")
    labels = label_frame(out / "labels.csv")
    assert labels["pleural_effusion"].to_list() == [1, 0]
    assert labels["hernia"].to_list() == [0, 0]


def test_padchest(tmp_path: Path) -> None:
    cohort, _, out = read("padchest", tmp_path)
    assert [row.view for row in cohort.rows] == ["pa", "ap", "lateral"]
    assert all(row.findings is None and row.report is None for row in cohort.rows)
    labels = label_frame(out / "labels.csv")
    assert labels["atelectasis"].to_list() == [0, 1, None]
    assert cohort.rows[0].image.parent.name == "0"


def test_rsna(tmp_path: Path) -> None:
    cohort, _, out = read("rsna_pneumonia", tmp_path)
    assert len(cohort.rows) == 2
    assert label_frame(out / "labels.csv")["pneumonia"].to_list() == [0, 1]
    path = cohort.rows[1].regions
    assert path is not None
    first, second = read_regions(path)
    assert (first.name, first.row0, first.row1, first.column0, first.column1) == ("lung_opacity", 152, 531, 264, 477)
    assert second.column0 == 562
    assert cohort.rows[0].regions is None
    drawn = pl.read_csv(out / "localization.csv").select("row0", "row1", "column0", "column1", "abnormality").rows()
    assert drawn == [(152, 531, 264, 477, "lung_opacity"), (152, 605, 562, 818, "lung_opacity")]


def test_covidx(tmp_path: Path) -> None:
    cohort, _, out = read("covidx", tmp_path)
    assert [row.split for row in cohort.rows] == ["train", "train", "test"]
    assert label_frame(out / "labels.csv")["pneumonia"].to_list() == [1, 0, 1]


def test_what_is_lost_is_listed(tmp_path: Path) -> None:
    _, found, _ = read("padchest", tmp_path)
    assert found.lost == {"normal": "in no label's list (1 rows)"}
    _, found, _ = read("chexpert", tmp_path / "other")
    assert set(found.lost) == {"No Finding", "Pleural Other"}


def test_a_folder_without_the_tables(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"indiana_projections\.csv") as caught:
        write_cohort(cohort_reader("openi"), tmp_path, tmp_path / "out")
    assert caught.value.code == "no_table"


def test_a_table_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "indiana_projections.csv").write_text("id,file,projection\n1,a.png,Frontal\n")
    with pytest.raises(
        CohortError, match=r"projections\.csv has no column 'filename', 'uid'; it has id, file"
    ) as caught:
        write_cohort(cohort_reader("openi"), tmp_path, tmp_path / "out")
    assert caught.value.code == "missing_column"


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "kind: cohort_map\n"
        "card: {title: Own, modality: cxr, brings: [radiographs], source: here, licence: none, size: small}\n"
        'tables: {t.csv: null}\ncolumns: {study_id: "{id}", patient_id: "{id}", image: "{id}.png"}\n'
    )
    (tmp_path / "t.csv").write_text("id\n007\n008\n")
    (tmp_path / "007.png").write_bytes(b"x")
    (tmp_path / "008.png").write_bytes(b"")
    found = write_cohort(cohort_reader(str(tmp_path / "own.yaml")), tmp_path, tmp_path / "out")
    assert (found.name, found.studies, found.excluded) == ("own", 1, {"image_empty": 1})
