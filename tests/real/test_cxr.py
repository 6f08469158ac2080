"""Real radiographs and real reports of radiographs through the whole data path."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig
from PIL import Image

from ctglip.cohort import read_cohort
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import write_cohort
from ctglip.config import load_settings
from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.cxr.io import read_radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.sentence_regions import sentences_by_region
from ctglip.data.captions import NO_TEXT
from ctglip.data.cxr import CxrDataSettings
from ctglip.reports.parser import get_parser
from ctglip.reports.tags import Tagger
from ctglip.simulation.cxr import project
from ctglip.simulation.projection import BeamSettings, View
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.types import LabelMap, Report, Scan
from ctglip.vocabulary.organs import load_organs
from tests.training.tiny import radiographs_of


@pytest.fixture(scope="module")
def config() -> PreprocessConfig:
    return load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=256"])


def test_nih_radiographs(real_data: Path, tmp_path: Path, config: PreprocessConfig) -> None:
    reader, root = cohort_reader("nih_chestxray14"), real_data / "cxr" / "nih_films"
    found = write_cohort(reader, root, tmp_path / "cohort", {"lacking": "allow"})
    assert found.studies == 31
    assert found.labels["cardiomegaly"][0] >= 1
    summary = preprocess_cohort(read_cohort(Path(found.cohort)), tmp_path / "store", config)
    assert (summary.written, summary.failed) == (31, ())
    store = Store.open(tmp_path / "store")
    assert verify(store) == []
    assert set(store.table("studies")["view"]) <= {"pa", "ap"}
    for study_id in store.study_ids[::6]:
        image = store.study(study_id).image().astype(float)
        middle, sides = (
            image[60:200, 110:146].mean(),
            (image[60:160, 50:100].mean() + image[60:160, 156:206].mean()) / 2,
        )
        assert middle > sides, f"{study_id}: the mediastinum is brighter than the lungs"


def test_cxr_with_lung_masks(real_data: Path, tmp_path: Path, config: PreprocessConfig) -> None:
    """Four of the masks were drawn on radiographs cut otherwise (they lie beside the lungs when stretched): refused."""
    folder = real_data / "cxr" / "films_with_notes"
    with (folder / "metadata.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (folder / row["filename"]).is_file()]
    table = pl.DataFrame(
        {
            "study_id": [row["filename"].rsplit(".", 1)[0] for row in rows],
            "patient_id": [row["patientid"] for row in rows],
            "image": [str(folder / row["filename"]) for row in rows],
            "masks": [str(folder / "lung_masks" / row["filename"]) for row in rows],
            "report": [row["clinical notes"] for row in rows],
            "view": [row["view"] for row in rows],
        }
    )
    table.write_csv(tmp_path / "cohort.csv")
    assert len(rows) >= 10
    summary = preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", config)
    assert summary.reasons == {"mask_grid": 4}
    store = Store.open(tmp_path / "store")
    boxes = store.table("regions").pivot(on="region", index="study_id", values="column0")
    assert boxes.height == len(rows) - 4
    assert (boxes["right_lung"] < boxes["left_lung"]).all()
    for study_id in store.study_ids:
        study = store.study(study_id)
        image, organs = study.image(), study.organs()
        assert organs is not None
        body = image[image > 0]
        assert image[organs > 0].mean() < body.mean(), f"{study_id}: masked lungs are darker than the rest"
    assert (tmp_path / "store" / "radiographs.html").stat().st_size > 100_000


def _reports(real_data: Path) -> dict[str, Report]:
    with (real_data / "cxr" / "openi_reports" / "reports.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        row["uid"]: Report(findings=row["findings"].strip() or None, impression=row["impression"].strip() or None)
        for row in rows
    }


def test_all_openi_reports_give_tags_and_regions(real_data: Path) -> None:
    """Agreement with the CheXpert-style labels that come with them, and no sentence lost."""
    reports = _reports(real_data)
    parser, tagger = get_parser(), Tagger()
    names = {"Cardiomegaly": "cardiomegaly", "Pneumothorax": "pneumothorax", "Pleural Effusion": "pleural effusion",
             "Consolidation": "consolidation", "Atelectasis": "atelectasis", "Edema": "edema"}  # fmt: skip
    with (real_data / "cxr" / "openi_reports" / "chexpert_labels.csv").open(newline="") as stream:
        labels = {row["subject_id"]: row for row in csv.DictReader(stream)}
    agreed: list[bool] = []
    regions = 0
    for uid, report in reports.items():
        if report.findings is None:
            continue
        rows = parser.parse(Report(findings=report.findings))
        regions += bool(sentences_by_region(rows))
        tags = dict(zip(tagger.names, tagger.tags(rows).tolist(), strict=True))
        for theirs, ours in names.items():
            value = labels.get(uid, {}).get(theirs)
            if value in ("1", "0"):
                agreed.append(tags[ours] == int(value))
    assert len(reports) > 1900
    assert len(agreed) > 1000
    assert np.mean(agreed) > 0.85
    assert regions > 0.8 * sum(report.findings is not None for report in reports.values())


@pytest.mark.slow
def test_all_openi_reports_through_the_data_path(real_data: Path, tmp_path: Path) -> None:
    """The radiographs themselves are not here: a small stand-in takes the place of each."""
    found = cohort_reader("openi").read(Disk(real_data / "cxr" / "openi_reports"), None)
    frontal = [row for row in found.rows if row["view"] == "frontal"]
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "radiograph.png")
    for row in frontal:
        row["image"] = "radiograph.png"
    pl.DataFrame(frontal).write_csv(tmp_path / "cohort.csv")
    config = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=64"])
    summary = preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", config)
    assert {failure.code for failure in summary.failed} <= {"report_empty"}
    assert summary.written > 1700
    radiographs = radiographs_of(Store.open(tmp_path / "store"), "train", CxrDataSettings(size=32, batch=16))
    missing = [radiographs.sampled([row], 0)[0].findings == NO_TEXT for row in range(len(radiographs))]
    by_id = {row["study_id"]: row for row in frontal}
    assert missing == [by_id[study_id]["findings"] is None for study_id in radiographs.study_ids]
    assert any(missing)


@pytest.mark.parametrize("view", ["pa", "lateral"])
def test_a_real_chest_projects(view: View) -> None:
    slicerio = pytest.importorskip("slicerio", reason="slicerio brings a real chest CT")
    folder = Path(slicerio.__file__).parent / "data"
    recipe, organs = CtRecipe(spacing_mm=(3.0, 3.0, 3.0)), load_organs()
    scan, _ = read_scan(folder / "CTChest4.nrrd", recipe)
    masks, _ = read_masks(folder / "Segmentation.seg.nrrd", scan, recipe, organs)
    made = standardize(scan, masks, recipe, organs)
    assert made.organs is not None
    radiograph = project(
        Scan(made.image, made.affine),
        LabelMap(made.organs, made.affine),
        BeamSettings(),
        view,
        np.random.default_rng(0),
    )
    boxes = {region.name: region for region in radiograph.regions}
    lung, pixels = boxes["right_lung"], radiograph.pixels.astype(float)
    belly = pixels[lung.row1 - 5 :, pixels.shape[1] // 3 : 2 * pixels.shape[1] // 3].mean()
    assert belly > pixels[lung.row0 + 60 : lung.row0 + 140, lung.column0 + 40 : lung.column0 + 80].mean() + 40
    if view == "pa":
        assert lung.column1 < boxes["left_lung"].column1


def test_patients_slabs_project(real_data: Path) -> None:
    """Patient A shows the bases of the lungs alone, patient D a slab of the chest: they project all the same."""
    organs = load_organs()
    cases: Sequence[tuple[str, str, bool]] = (
        ("patient_a_abdomen/ct.nii.gz", "patient_a_abdomen/totalsegmentator_v2.nii.gz", False),
        ("patient_d_chest_v1/dicom", "patient_d_chest_v1/totalsegmentator_v1_one_file_per_organ", True),
    )
    for image, mask, by_index in cases:
        recipe = CtRecipe(spacing_mm=(3.0, 3.0, 3.0), align_masks_by_index=by_index)
        scan, _ = read_scan(real_data / "ct" / image, recipe)
        masks, _ = read_masks(real_data / "ct" / mask, scan, recipe, organs)
        made = standardize(scan, masks, recipe, organs)
        assert made.organs is not None
        chest, lungs = Scan(made.image, made.affine), LabelMap(made.organs, made.affine)
        radiograph = project(chest, lungs, BeamSettings(), "pa", np.random.default_rng(0))
        boxes = {region.name: region for region in radiograph.regions}
        assert boxes["right_lung"].column0 < boxes["left_lung"].column0
        assert np.ptp(radiograph.pixels.astype(int)) > 100


def test_every_real_cxr_reads_with_every_recipe(real_data: Path) -> None:
    for path in sorted((real_data / "cxr" / "films_with_notes").glob("*.*g"))[:4]:
        for recipe in (CxrRecipe(), CxrRecipe(window="percentile", fit="stretch", crop_borders=False)):
            radiograph, checks = read_radiograph(path, recipe)
            assert radiograph.pixels.ndim == 2
            assert "cxr_colour" not in {check.code for check in checks}
