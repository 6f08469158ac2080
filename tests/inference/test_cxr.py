"""One radiograph and its answers: the same pixels as preprocessing stores and training sees; from a box, a query, the
whole radiograph; heat maps on the radiograph's own pixels; other modalities refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
import torch
from ctglip_preprocessing.case import Case, Plan, run_case
from ctglip_preprocessing.settings import PreprocessConfig
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from ctglip.api import load_model
from ctglip.cohort import CohortRow
from ctglip.cxr.picture import Radiograph
from ctglip.data.cxr import cxr_input
from ctglip.errors import ModelError, ScanError, VocabularyError
from ctglip.inference.cxr_maps import cxr_maps
from ctglip.inference.cxr_organs import boxes_of, organ_box
from ctglip.inference.maps import resample_map
from ctglip.inference.model_readers import reader_of
from ctglip.inference.page import answers_page
from ctglip.inference.pipeline import Pipeline
from ctglip.models.region_readers import Regions
from ctglip.pages.answers import render
from ctglip.store.format import StoreInfo, study_path
from ctglip.store.study import StudyReader
from ctglip.store.tables import create_store
from ctglip.vocabulary.organs import load_organs
from tests.inference.tiny_cxr import BOXES, FILMS, RECIPE, cxr_release, draw_radiograph, saved, write_cxr_store
from tests.training.tiny import radiographs_of, write_word_bert

QUESTIONS = ["heart: cardiomegaly", "pleural effusion left?"]
Releases = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def model(bert: Path) -> Releases:
    return lambda **settings: Pipeline(cxr_release(bert, **settings))


@pytest.fixture
def radiograph(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    truth = {"heart:cardiomegaly": 1, "pleura_left:pleural_effusion": 1, "pleura_right:pleural_effusion": 0}
    Image.fromarray(draw_radiograph(rng, truth)).save(tmp_path / "radiograph.png")
    return tmp_path / "radiograph.png"


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    pl.DataFrame([box.columns() for box in BOXES]).write_csv(tmp_path / "boxes.csv")
    return tmp_path / "boxes.csv"


@pytest.fixture
def lungs(tmp_path: Path) -> Path:
    mask = np.zeros((120, 100), np.uint8)
    mask[20:90, 10:42] = mask[20:90, 58:90] = 255
    Image.fromarray(mask).save(tmp_path / "lungs.png")
    return tmp_path / "lungs.png"


def test_a_question_sees_the_very_pixels_that_preprocessing_stores(
    model: Releases, radiograph: Path, boxes: Path, lungs: Path, tmp_path: Path
) -> None:
    row = CohortRow(study_id="f", patient_id="p", image=radiograph, masks=lungs, regions=boxes, modality="cxr")
    store = create_store(tmp_path / "store", StoreInfo(modality="cxr", recipe=RECIPE.stored(), recipe_hash=RECIPE.hash))
    plan = Plan(store.path, PreprocessConfig(cxr=RECIPE), RECIPE.hash, requires_report=False)
    assert run_case(Case(row, plan)).status == "done"
    stored = StudyReader(study_path(store.path, "f"))
    asked = model().standardize(radiograph, lungs, boxes)
    assert_array_equal(asked.image, stored.image())
    assert_array_equal(np.asarray(asked.organs), np.asarray(stored.organs()))
    assert_array_equal(asked.affine, stored.affine)
    boxes_stored = [{"study_id": "f", **region.columns()} for region in asked.regions]
    assert stored.rows("regions") == boxes_stored
    assert len(boxes_stored) >= len(BOXES)


def test_a_question_sees_the_very_window_that_training_sees(tmp_path: Path) -> None:
    store, _ = write_cxr_store(tmp_path / "store", 3)
    radiographs = radiographs_of(store, "train", FILMS, training=False)
    for row, study_id in enumerate(radiographs.study_ids):
        sample, asked = radiographs.sampled([row], 0)[0], cxr_input(store.study(study_id).image(), FILMS)
        assert_array_equal(asked.image, sample.image)
        stored = {r["region"]: r for r in store.study(study_id).rows("regions")}
        names = [radiographs.regions[i] for i in sample.organ_id]
        edges = np.array([[stored[n][e] for e in ("row0", "row1", "column0", "column1")] for n in names])
        assert_allclose(asked.boxes(edges), sample.boxes[0], atol=1e-4)


def test_answers_say_where_they_were_read(model: Releases, radiograph: Path, boxes: Path, lungs: Path) -> None:
    def said(answers: Any) -> list[str]:
        assert all(0 < answer.probability < 1 for answer in answers.answers)
        return [answer.read_from for answer in answers.answers]

    assert said(model().query(radiograph, QUESTIONS)) == ["the whole radiograph"] * 2
    asking = model(regions={"name": "query"}, trained={})
    assert said(asking.query(radiograph, QUESTIONS)) == ["a learned query"] * 2
    assert said(asking.query(radiograph, ["lungs: emphysema"])) == ["the whole radiograph"], (
        "no one region is the lungs"
    )
    boxed = model(regions={"name": "box"})
    assert said(boxed.query(radiograph, QUESTIONS, regions=boxes)) == [
        "the box of the cardiac silhouette",
        "the box of the left costophrenic angle",
    ]
    both = boxed.query(radiograph, QUESTIONS, masks=lungs)
    assert said(both) == ["the whole radiograph", "the box of the left lung"]
    assert both.masks == "lungs.png"
    assert {region.name for region in both.standardized.regions} == {"right_lung", "left_lung"}
    told = (
        model(regions={"name": "box"}, image=None).query(radiograph, [*QUESTIONS, "gallstones?"], masks=lungs).answers
    )
    assert told[0].probability is None
    assert told[0].reason == "There is no box of the heart."
    assert told[1].probability is not None
    wide = model(regions={"name": "box"}, trained={}).query(radiograph, ["lungs: emphysema"], masks=lungs).answers[0]
    assert wide.read_from == "the boxes of the right lung and the left lung"


def _as_dicom(picture: Path, path: Path) -> Path:
    pixels = np.asarray(Image.open(picture)).astype(np.uint16)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4567"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = pydicom.Dataset()
    file.file_meta, file.Modality, file.PatientName, file.StudyInstanceUID = meta, "DX", "Secret^Name", "1.2.3.4568"
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PhotometricInterpretation, file.SamplesPerPixel, file.PixelRepresentation = "MONOCHROME2", 1, 0
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 8, 7
    file.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", ["radiograph.dcm", "1.2.3.4567"])
def test_a_dicom_cxr_is_asked_like_its_picture(
    model: Releases, radiograph: Path, boxes: Path, tmp_path: Path, name: str
) -> None:
    asking = model(regions={"name": "box"})
    told, expected = (
        asking.query(path, QUESTIONS, regions=boxes) for path in (_as_dicom(radiograph, tmp_path / name), radiograph)
    )
    for one, other in zip(told.answers, expected.answers, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-3)
        assert one.read_from == other.read_from
    page = render(answers_page(told))
    for secret in ("Secret", "1.2.3.4567", "1.2.3.4568"):
        assert secret not in page + json.dumps(told.to_json())


def test_the_answer_is_that_of_the_box(bert: Path, radiograph: Path, boxes: Path) -> None:
    """By hand: standardise, cut the window, pool the box, compare with the prompts."""
    release = cxr_release(bert, regions={"name": "box"})
    pipeline = Pipeline(release)
    answer = pipeline.query(radiograph, QUESTIONS[:1], regions=boxes).answers[0]
    standardized = pipeline.standardize(radiograph, regions=boxes)
    found = organ_box("heart", boxes_of(standardized.regions), load_organs())
    assert found is not None
    window = cxr_input(standardized.image, FILMS)
    with torch.no_grad():
        asked = Regions(study_index=torch.tensor([0]), boxes=torch.from_numpy(window.boxes(np.array([found[0].box]))))
        features = release.model(torch.from_numpy(window.image[None]), asked)
        vector = release.model.diagnosis(features).numpy()
    difference = pipeline.scorer.differences(vector, [("heart", "cardiomegaly")])
    assert answer.probability == pytest.approx(pipeline.scorer.calibration.probabilities(difference)[0, 0], abs=1e-6)


def test_each_cxr_passes_the_encoder_once_and_batches_do_not_matter(bert: Path) -> None:
    release, rng = cxr_release(bert, regions={"name": "box"}), np.random.default_rng(0)
    radiographs = [cxr_input(rng.integers(0, 4096, (64, 64)).astype(np.uint16), FILMS) for _ in range(5)]
    boxes = {"left_lung": (10, 50, 34, 60), "cardiac_silhouette": (30, 52, 20, 44)}
    organs = load_organs()
    rows = [[found[0] for name in names if (found := organ_box(name, boxes, organs))] for names in
            (("heart", "lung_left"), (), ("heart",), ("lung_left",), ("lung_left", "heart"))]  # fmt: skip
    reader = reader_of(release)
    whole = reader.encode(radiographs, rows, "box")
    parts = reader.encode(radiographs, rows, "box", batch=2)
    assert whole.diagnosis.shape == (6, 16)
    assert_allclose(whole.diagnosis, parts.diagnosis, atol=1e-5)
    alone = reader.encode(radiographs[2:3], rows[2:3], "box")
    assert_allclose(alone.diagnosis[0], whole.diagnosis[2], atol=1e-5)


@pytest.mark.parametrize("reading", ["none", "query", "box"])
def test_maps_lie_on_the_cxr_own_pixels(model: Releases, radiograph: Path, boxes: Path, reading: str) -> None:
    pipeline = model(regions=None if reading == "none" else {"name": reading})
    answers = pipeline.query(radiograph, QUESTIONS, regions=boxes)
    found = list(pipeline.heat_maps(answers))
    assert [(one.organ, one.abnormality) for one in found] == [
        ("heart", "cardiomegaly"), ("pleura_left", "pleural_effusion"),
    ]  # fmt: skip
    for one in found:
        laid = resample_map(one.values, np.linalg.inv(answers.original.affine) @ one.affine, (120, 100))
        assert laid.shape == (120, 100)
        known = np.argwhere(np.isfinite(laid))
        if reading == "box":
            box = next(b for b in BOXES if b.name.startswith("card" if one.organ == "heart" else "left_cost"))
            low, high = known.min(0), known.max(0) + 1
            assert_allclose([low[0], high[0], low[1], high[1]], [box.row0, box.row1, box.column0, box.column1], atol=4)
        else:
            assert len(known) > 0.6 * laid.size


def test_a_map_of_the_whole_cxr_is_how_similar_each_patch_is(bert: Path) -> None:
    """A radiograph whose lower right differs: the map differs there, and where the radiograph is even the map is."""
    release = cxr_release(bert)
    image = np.full((64, 64), 1000, np.uint16)
    image[44:54, 44:54] = 4000
    axis = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    values = cxr_maps(release.model, cxr_input(image, FILMS).image, np.zeros(4), 0, "whole", axis)[0]
    away = np.abs(values - np.median(values))
    peak = np.unravel_index(away.argmax(), away.shape)
    assert min(peak) > 24, "the patch that differs"


def test_json_and_privacy(model: Releases, radiograph: Path, lungs: Path) -> None:
    told = json.loads(json.dumps(model(regions={"name": "box"}).query(radiograph, QUESTIONS, masks=lungs).to_json()))
    assert told["radiograph"] == "radiograph.png"
    assert [r["name"] for r in told["regions"]] == ["left_lung", "right_lung"]
    assert told["answers"][1]["read_from"] == "the box of the left lung"
    assert str(radiograph.parent) not in json.dumps(told)


def test_other_modalities_are_refused(model: Releases, radiograph: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "slices").mkdir()
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    for path in (tmp_path / "slices", tmp_path / "scan.nii.gz"):
        with pytest.raises(ScanError, match="trained on radiographs") as refused:
            model().query(path, QUESTIONS)
        assert refused.value.code == "other_modality"
    with pytest.raises(VocabularyError):
        model().query(tmp_path / "no.png", ["flurb?"])
    with pytest.raises(ScanError, match="no radiograph"):
        model().query(tmp_path / "no.png", QUESTIONS)


def test_a_model_trained_without_texts_is_not_asked(bert: Path, tmp_path: Path) -> None:
    release = cxr_release(bert)
    release.aligned = False
    folder = saved(tmp_path, release)
    with pytest.raises(ModelError, match="ctglip finetune") as refused:
        load_model(folder)
    assert refused.value.code == "not_aligned"


def test_a_cxr_in_memory_and_from_a_folder_give_the_same(bert: Path, radiograph: Path, tmp_path: Path) -> None:
    loaded = load_model(saved(tmp_path, cxr_release(bert)))
    assert isinstance(loaded, Pipeline)
    pixels = np.asarray(Image.open(radiograph)).astype(np.float32)
    first, second = loaded.query(radiograph, QUESTIONS), loaded.query(Radiograph(pixels), QUESTIONS)
    assert first.answers == second.answers
    assert second.name == "radiograph in memory"


def test_maps_are_laid_linearly() -> None:
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    values, affine = rng.normal(size=(9, 7)).astype(np.float32), np.diag([2.5, 1.5, 1.0, 1.0])
    affine[:2, 3] = 1.2, -0.7
    laid = resample_map(values, affine, (30, 14))
    at = np.meshgrid((np.arange(30) - 1.2) / 2.5, (np.arange(14) + 0.7) / 1.5, indexing="ij")
    expected = map_coordinates(values, at, order=1, mode="nearest")
    known = np.isfinite(laid)
    assert_allclose(laid[known], expected[known], atol=1e-5)
    assert known.any(1).sum() == 23
    values[:, 3:] = np.nan
    assert np.isfinite(resample_map(values, affine, (30, 14))).any(0).sum() < known.any(0).sum()
