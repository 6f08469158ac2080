"""Sets of radiographs with boxes, outlines and headerless files, each in its own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ctglip.cohorts.drawn_cxr import decode_runs
from ctglip.cxr.io import read_radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.regions import read_regions
from ctglip.errors import CohortError, ScanError
from tests.cohorts.builders import excluded_in, labels_in, run, write_file, write_json_file, write_rows
from tests.cohorts.test_column_map import LAYOUTS

BOX = ("row0", "row1", "column0", "column1")


def boxes_in(out: Path) -> list[tuple[object, ...]]:
    return (
        pl.read_csv(out / "localization.csv", infer_schema_length=None).select("study_id", "abnormality", *BOX).rows()
    )


def mimic(root: Path) -> Path:
    for file, text in LAYOUTS["mimic_cxr_jpg"].items():
        write_file(root / file, text)
    for inner in ("p10000032/s50414267/02aa804e-bde0afdd", "p10000032/s50414267/174413ec-4ec4c1f7",
                  "p10000764/s57375967/2a2277a9-b0ded155"):  # fmt: skip
        write_file(root / f"files/p10/{inner}.jpg")
    return root


SCENE = {
    "objects": [
        {"object_id": "a", "bbox_name": "right lung", "x1": 1, "y1": 1, "x2": 9, "y2": 9, "original_x1": 100,
         "original_y1": 200, "original_x2": 900, "original_y2": 1500}
    ],
    "attributes": [], "relationships": [],
}  # fmt: skip
MS = {"dicom_id": "02aa804e-bde0afdd", "category_name": "Pneumonia", "label_text": "left base opacity",
      "path": "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg", "x": 900, "y": 1500, "w": 400, "h": 300,
      "image_width": 2544, "image_height": 3056, "split": "val"}  # fmt: skip


def test_mimic_with_boxes_of_regions_and_phrases(tmp_path: Path) -> None:
    root = mimic(tmp_path / "mimic")
    write_json_file(root / "silver_dataset/scene_graph/02aa804e-bde0afdd_SceneGraph.json", SCENE)
    write_rows(root / "MS_CXR_Local_Alignment_v1.1.0.csv", [MS, MS | {"dicom_id": "other"}])
    cohort, summary, out = run("mimic_cxr", root)
    first, lateral, other = cohort.rows
    assert first.regions is not None
    (region,) = read_regions(first.regions)
    assert (region.name, region.row0, region.column1) == ("right_lung", 200, 900)
    assert (lateral.regions, other.regions) == (None, None)
    assert (first.patient_id, first.split, other.split) == ("p10000032", "train", "val")
    assert boxes_in(out) == [("02aa804e-bde0afdd", "pneumonia", 1500, 1800, 900, 1300)]
    assert "1 of 3 radiographs have a scene graph of Chest ImaGenome." in summary.facts
    assert labels_in(out)["02aa804e-bde0afdd"]["consolidation"] == 0


def test_scene_graphs_that_are_still_packed(tmp_path: Path) -> None:
    root = mimic(tmp_path / "mimic")
    write_file(root / "silver_dataset/scene_graph.zip")
    _, summary, _ = run("mimic_cxr", root)
    assert any("scene_graph.zip is still packed" in fact for fact in summary.facts)


def test_ms_cxr_keeps_mimics_split(tmp_path: Path) -> None:
    root = mimic(tmp_path / "mimic")
    table = tmp_path / "ms" / "MS_CXR_Local_Alignment_v1.1.0.csv"
    write_rows(table, [MS, MS | {"label_text": "Small effusion.", "category_name": "Pleural Effusion", "x": 10}])
    cohort, summary, out = run("ms_cxr", tmp_path / "ms", mimic=str(root))
    (row,) = cohort.rows
    assert (row.patient_id, row.split, row.findings) == ("p10000032", "train", "left base opacity. Small effusion.")
    assert row.image.is_file()
    assert [box[1] for box in boxes_in(out)] == ["pneumonia", "pleural_effusion"]
    assert any("differs for 1 radiographs" in fact for fact in summary.facts)
    with pytest.raises(CohortError, match=r"1 of 1 images that the tables name are not there"):
        run("ms_cxr", tmp_path / "ms", tmp_path / "alone")
    with pytest.raises(CohortError, match=r"no table MS_CXR\*\.csv"):
        run("ms_cxr", root, tmp_path / "none")


def vindr(root: Path) -> Path:
    def row(image: str, reader: str, name: str, *box: float) -> dict[str, object]:
        edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), box or ("",) * 4, strict=True))
        return {"image_id": image, "rad_id": reader, "class_name": name, **edges}

    write_rows(root / "annotations/annotations_train.csv", [
        row("a", "R1", "Cardiomegaly", 10.5, 20, 30, 40), row("a", "R2", "Cardiomegaly", 11, 21, 31, 41),
        row("a", "R3", "Nodule/Mass", 1, 2, 3, 4), row("b", "R1", "No finding"), row("b", "R2", "No finding"),
        row("b", "R3", "Other lesion", 5, 5, 9, 9),
    ])  # fmt: skip
    test = {key: value for key, value in row("c", "", "Pneumothorax", 5, 6, 7, 8).items() if key != "rad_id"}
    write_rows(root / "annotations/annotations_test.csv", [test])
    for path in ("train/a.dicom", "train/b.dicom", "test/c.dicom"):
        write_file(root / path)
    return root


def test_vindr(tmp_path: Path) -> None:
    cohort, summary, out = run("vindr_cxr", vindr(tmp_path / "vindr"))
    assert [(row.study_id, row.split) for row in cohort.rows] == [("a", "train"), ("b", "train"), ("c", "test")]
    labels = labels_in(out)
    assert (labels["a"]["cardiomegaly"], labels["a"]["lesion"], labels["b"]["lesion"]) == (1, 1, 0)
    assert labels["c"]["pneumothorax"] == 1
    assert boxes_in(out)[0] == ("a", "cardiomegaly", 20, 40, 10, 30)
    assert len(boxes_in(out)) == 5
    assert set(summary.lost) == {"No finding", "Other lesion"}
    _, _, out = run("vindr_cxr", tmp_path / "vindr", tmp_path / "most", readers="majority")
    assert (labels_in(out)["a"]["cardiomegaly"], labels_in(out)["a"]["lesion"]) == (1, 0)


def test_object_cxr(tmp_path: Path) -> None:
    root = tmp_path / "object"
    write_rows(root / "train.csv", [{"image_name": "00001.jpg", "annotation": "0 10 20 30 40;2 5 5 9 5 7 12"},
                                    {"image_name": "00002.jpg", "annotation": ""}])  # fmt: skip
    write_rows(root / "dev.csv", [{"image_name": "00001.jpg", "annotation": "1 1 2 3 4"}])
    write_rows(root / "test.csv", [{"image_path": "test/00003.jpg", "annotation": "broken"}])
    for path in ("train/00001.jpg", "train/00002.jpg", "dev/00001.jpg", "test/00003.jpg"):
        write_file(root / path)
    cohort, _, out = run("object_cxr", root)
    assert [(row.study_id, row.split) for row in cohort.rows] == [
        ("train_00001", "train"), ("train_00002", "train"), ("dev_00001", "val"), ("test_00003", "test"),
    ]  # fmt: skip
    assert cohort.rows[2].image.parent.name == "dev"
    assert [row["foreign_body"] for row in labels_in(out).values()] == [1, 0, 1, 0]
    assert boxes_in(out) == [
        ("train_00001", "foreign_body", 20, 40, 10, 30), ("train_00001", "foreign_body", 5, 12, 5, 9),
        ("dev_00001", "foreign_body", 2, 4, 1, 3),
    ]  # fmt: skip
    write_rows(root / "dev.csv", [{"file": "00001.jpg", "annotation": ""}])
    with pytest.raises(CohortError, match=r"dev\.csv has neither image_name nor image_path; it has file, annotation"):
        run("object_cxr", root)


def test_siim_outlines(tmp_path: Path) -> None:
    root = tmp_path / "siim"
    table = "ImageId, EncodedPixels\n1.2.3.1, -1\n1.2.3.2,10250 3 1021 3 \n1.2.3.2,0 2\n1.2.3.3,5 6 7\n"
    write_file(root / "train-rle.csv", table)
    for uid in ("1.2.3.1", "1.2.3.2", "1.2.3.3"):
        write_file(root / f"dicom-images-train/1.2/1.4/{uid}.dcm")
    cohort, _, out = run("siim_pneumothorax", root)
    assert [row.study_id for row in cohort.rows] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"], "rows of one are one study"
    assert [row["pneumothorax"] for row in labels_in(out).values()] == [0, 1, 1]
    assert boxes_in(out) == [("1.2.3.2", "pneumothorax", 10, 13, 10, 12), ("1.2.3.2", "pneumothorax", 0, 2, 0, 1)]
    mask = np.asarray(Image.open(out / "lesions" / "1.2.3.2.png"))
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [
        (0, 0), (1, 0), (10, 10), (10, 11), (11, 10), (11, 11), (12, 10), (12, 11),
    ], "runs go down the columns, gaps count from the last run's end"  # fmt: skip
    paths = pl.read_csv(out / "localization.csv")["mask"].to_list()
    assert {Path(path) for path in paths} == {(out / "lesions" / "1.2.3.2.png").resolve()}
    assert excluded_in(out) == {"1.2.3.3": "bad_run_lengths"}


@pytest.mark.parametrize("text", ["", "1", "1048570 10", "5 0", "-3 4"])
def test_run_lengths_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"pairs|leaves"):
        decode_runs(text)


def test_tbx11k(tmp_path: Path) -> None:
    root = tmp_path / "TBX11K"
    for inner in ("health/h0001", "sick/s0001", "tb/tb0001", "test/t0001", "extra/da+db/train/p0001"):
        write_file(root / f"imgs/{inner}.png")
    write_file(root / "lists/TBX11K_train.txt", "health/h0001.png\ntb/tb0001.png\n")
    write_file(root / "lists/TBX11K_val.txt", "sick/s0001.png\n")
    tree = {
        "images": [{"id": 7, "file_name": "tb/tb0001.png"}],
        "categories": [{"id": 1, "name": "ActiveTuberculosis"}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": [10.2, 20.0, 30.0, 40.0]}],
    }
    write_json_file(root / "annotations/json/TBX11K_train.json", tree)
    write_json_file(root / "annotations/json/TBX11K_trainval.json", tree)
    write_json_file(root / "annotations/json/all_train.json", {"images": []})
    cohort, summary, out = run("tbx11k", root)
    rows = {row.study_id: row.split for row in cohort.rows}
    assert rows == {"h0001": "train", "s0001": "test", "tb0001": "train", "t0001": None, "da_db_train_p0001": None}
    labels = {name: row["tuberculosis"] for name, row in labels_in(out).items()}
    assert (labels["h0001"], labels["s0001"], labels["tb0001"], labels["t0001"]) == (0, 0, 1, None)
    assert boxes_in(out) == [("tb0001", "tuberculosis", 20, 60, 10, 41)], "a box in two lists is one"
    assert any("all_train.json has not the form of COCO" in fact for fact in summary.facts)
    cohort, _, _ = run("tbx11k", root, tmp_path / "val", valid_as="val")
    assert {row.study_id: row.split for row in cohort.rows}["s0001"] == "val"


def jsrt_pixels(white_is_zero: bool) -> np.ndarray:
    pixels = np.full((2048, 2048), 2000, np.uint16)
    pixels[400:1500, 300:800] = pixels[400:1500, 1250:1750] = 700
    pixels[:, 850:1200] = 3500
    pixels[0, :5] = [0, 1, 2, 3, 4095]
    return 4095 - pixels if white_is_zero else pixels


@pytest.mark.parametrize("white_is_zero", [True, False])
def test_jsrt(white_is_zero: bool, tmp_path: Path) -> None:
    root = tmp_path / "jsrt"
    for name in ("JPCLN001", "JPCNN001"):
        write_file(root / f"All247images/{name}.IMG", jsrt_pixels(white_is_zero).astype(">u2").tobytes())
    line = "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer\n"
    write_file(root / "Clinical_Information/CLNDAT_EN.txt", f"{line}JPCLN002.IMG\t?\n")
    cohort, summary, out = run("jsrt", root)
    nodule, normal = cohort.rows
    assert (nodule.age, nodule.sex, normal.age) == (53, "M", None)
    assert [row["lung_nodule"] for row in labels_in(out).values()] == [1, 0]
    assert boxes_in(out) == [("JPCLN001", "lung_nodule", 692 - 43, 692 + 43, 1634 - 43, 1634 + 43)]
    radiograph, checks = read_radiograph(nodule.image, CxrRecipe())
    assert np.array_equal(radiograph.pixels, jsrt_pixels(False)), "bone is bright, whatever 0 stands for"
    assert radiograph.spacing_mm == (0.175, 0.175)
    assert ("cxr_turned_over" in [check.code for check in checks]) is white_is_zero
    assert any("1 lines of the clinical tables" in fact for fact in summary.facts)


def test_a_headerless_file_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="has 100 bytes, expected 8388608"):
        read_radiograph(write_file(tmp_path / "a.IMG", b"\0" * 100), CxrRecipe())
    with pytest.raises(ScanError, match="expected at most 4095"):
        read_radiograph(write_file(tmp_path / "b.IMG", b"\xff" * 8388608), CxrRecipe())
