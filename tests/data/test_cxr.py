"""Radiographs of a split: windows, boxes that move with them, missing sections, sentences of regions, tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.collate import collate_studies
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.samples import NO_TEXT
from ctglip.data.studies import StudyDataset
from ctglip.errors import StoreError
from ctglip.reports.parser import get_parser
from ctglip.store.format import StoreInfo
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import Region, Report, Standardized
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.training.tiny import radiographs_of

REPORTS = (
    Report("The lungs are clear. The heart is enlarged.", "Cardiomegaly.", indication="Cough."),
    Report("Consolidation in the right lower lobe. No pneumothorax.", None),
    Report(None, "No acute disease."),
    Report("The lungs are clear. The heart is enlarged.", "   "),
)
BOXES = (Region("cardiac_silhouette", 40, 60, 44, 64), Region("right_lung", 10, 60, 4, 30))
SETTINGS = CxrDataSettings(size=32, batch=2, copies=2, margin=1.25, contrast=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four frontal radiographs with a bright heart, one lateral radiograph, one without a report; the heart has a
    box."""
    info = StoreInfo(modality="cxr", recipe={"size": 80}, recipe_hash="x")
    made = create_store(tmp_path_factory.mktemp("radiographs") / "store", info)
    for number in range(6):
        image = np.full((80, 80), 800, np.uint16)
        image[40:60, 44:64] = CXR_MAX
        report = REPORTS[number] if number < 4 else (REPORTS[0] if number == 4 else None)
        record = StudyRecord(
            f"f{number}",
            f"p{number}",
            Standardized(image, None, np.eye(4), regions=BOXES),
            str(number),
            "x",
            report=report,
            findings=get_parser().parse(report) if report else (),
            row={"modality": "cxr", "view": "lateral" if number == 4 else "pa"},
        )
        write_study(made.path, record)
    compact(made)
    assign_splits(made, SplitSettings(), {f"p{number}": "train" for number in range(6)})
    return made


def test_missing_sections_stay_missing(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS)
    assert radiographs.study_ids == ["f0", "f1", "f2", "f3"], "no lateral radiograph, none without a report"
    found = [radiographs.sampled([row], 0)[0] for row in range(4)]
    assert [radiograph.findings != NO_TEXT for radiograph in found] == [True, True, False, True]
    assert [radiograph.impression != NO_TEXT for radiograph in found] == [True, False, True, False]
    assert found[1].report == found[1].findings
    assert all(text.strip() for text in radiographs.texts)
    assert found[0].findings == found[3].findings, "equal texts share a number"
    assert radiographs.texts[found[0].report].endswith("Cardiomegaly.")
    assert not any("Cough" in text for text in radiographs.texts)


def test_boxes_move_with_the_windows(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS)
    instances = set()
    for step in range(6):
        for radiograph in radiographs.batch(step):
            assert radiograph.images.shape == (2, 1, 32, 32)
            at = radiograph.organ_id.tolist().index(radiographs.regions.index("cardiac_silhouette"))
            for image, boxes in zip(radiograph.images, radiograph.boxes, strict=True):
                row0, row1, column0, column1 = boxes[at].round().astype(int)
                instances.add((row0, column0))
                bright = image[0] > 0.8 * image.max()
                rows, columns = np.nonzero(bright)
                assert rows.min() == pytest.approx(row0, abs=1)
                assert rows.max() + 1 == pytest.approx(row1, abs=1)
                assert columns.min() == pytest.approx(column0, abs=1)
                assert columns.max() + 1 == pytest.approx(column1, abs=1)
    assert len(instances) > 4, "windows are drawn anew"


def test_a_mirrored_cxr_has_mirrored_boxes(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS.model_copy(update={"flip": 1.0, "copies": 1}))
    radiograph = radiographs.sampled([0], 0)[0]
    at = radiograph.organ_id.tolist().index(radiographs.regions.index("cardiac_silhouette"))
    _, _, column0, column1 = radiograph.boxes[0, at].round().astype(int)
    columns = np.nonzero(radiograph.image[0] > 0.8 * radiograph.image.max())[1]
    assert (columns.min(), columns.max() + 1) == pytest.approx((column0, column1), abs=1)
    assert columns.mean() < 16


def test_regions_get_their_sentences(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS, training=False)
    first, second = radiographs.sampled([0], 0)[0], radiographs.sampled([1], 0)[0]
    said = {radiographs.regions[i]: text for i, text in zip(first.organ_id, first.text_id, strict=True)}
    assert radiographs.texts[said["right_lung"]] == "The lungs are clear."
    assert radiographs.texts[said["cardiac_silhouette"]] == "The heart is enlarged. Cardiomegaly."
    mentioned = second.text_id != NO_TEXT
    assert [radiographs.regions[i] for i in second.organ_id[mentioned]] == ["right_lung"], "nothing of the heart"
    assert radiographs.texts[second.text_id[mentioned][0]].startswith("Consolidation in the right lower lobe.")
    assert second.boxes.shape == (2, 2, 4)
    same, other = first.organ_sentences
    assert same != other


def test_tags(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS)
    first, second = radiographs.sampled([0], 0)[0], radiographs.sampled([1], 0)[0]
    tag = {name: number for number, name in enumerate(radiographs.tag_names)}
    assert first.tags[tag["cardiomegaly"]] == 1
    assert second.tags[tag["consolidation"]] == 1
    assert second.tags[tag["pneumothorax"]] == 0
    assert second.tags[tag["hernia"]] == -1


def test_batches_are_a_function_of_the_step_and_ranks_share_them(store: Store) -> None:
    radiographs, again = (radiographs_of(store, "train", SETTINGS, seed=3) for _ in range(2))
    for step in (0, 1, 5):
        whole, repeated = radiographs.batch(step), again.batch(step)
        shared = [*radiographs.batch(step, 0, 2), *radiographs.batch(step, 1, 2)]
        for others in (repeated, shared):
            assert sorted(radiograph.study_id for radiograph in others) == sorted(
                radiograph.study_id for radiograph in whole
            )
        for a, b in zip(whole, repeated, strict=True):
            np.testing.assert_array_equal(a.images, b.images)
        by_id = {radiograph.study_id: radiograph for radiograph in shared}
        for radiograph in whole:
            np.testing.assert_array_equal(radiograph.images, by_id[radiograph.study_id].images)
    epoch = [radiograph.study_id for step in (0, 1) for radiograph in radiographs.batch(step)]
    assert sorted(epoch) == radiographs.study_ids


def test_texts_are_numbered_as_asked(store: Store) -> None:
    radiographs = radiographs_of(store, "train", SETTINGS, text_ids=lambda texts: [100 + n for n in range(len(texts))])
    found = [radiographs.sampled([row], 0)[0] for row in range(4)]
    assert all(radiograph.report >= 100 for radiograph in found)
    assert found[2].findings == NO_TEXT
    assert all(number >= 100 for radiograph in found for number in radiograph.sentences.values())


def test_what_cannot_be_a_dataset_of_radiographs(store: Store, tmp_path: Path) -> None:
    ct = create_store(tmp_path / "ct", StoreInfo(recipe={}, recipe_hash="x"))
    with pytest.raises(StoreError) as caught:
        radiographs_of(ct, "train", SETTINGS)
    assert caught.value.code == "other_modality"
    with pytest.raises(StoreError) as caught:
        radiographs_of(store, "test", SETTINGS)
    assert caught.value.code == "empty_split"
    assert store.table("regions").select(pl.len()).item() == 12


def test_organs_of_cxr_get_true_texts_and_false_ones(store: Store) -> None:
    organs, abnormalities = load_organs(), load_abnormalities(organs=load_organs())
    radiographs = radiographs_of(store, "train", SETTINGS)
    data = StudyDataset(store, "train", organs, abnormalities, SETTINGS.model_copy(update={"negatives": 3}))
    names = dict(enumerate(organs.names))
    false: set[tuple[str, str]] = set()
    for step in range(8):
        for radiograph, known in zip(data.batch(step), radiographs.batch(step), strict=True):
            np.testing.assert_array_equal(radiograph.images, known.images)
            assert radiograph.boxes.shape == (2, 2, 4)
            assert radiograph.negative_ids.shape == (2, 3)
            assert {names[i] for i in radiograph.organ_id} == {"heart", "lung_right"}
            for organ, text, negatives in zip(
                radiograph.organ_id, radiograph.text_id, radiograph.negative_ids, strict=True
            ):
                said = [data.texts[n] for n in negatives if n != NO_TEXT]
                if text != NO_TEXT and names[organ] == "heart":
                    assert not any("cardiomegaly" in one.lower() or "enlarged" in one.lower() for one in said)
                false |= {(names[organ], one) for one in said}
    assert any(organ == "lung_right" for organ, _ in false), (
        "the other radiograph's consolidation is false of a clear lung"
    )
    batch = collate_studies(data.batch(0), _pool)
    assert batch.boxes is not None
    assert batch.boxes.shape == (4, 4)
    assert batch.image.shape == (2, 1, 32, 32)


def _pool(*ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """No bank: the numbers themselves."""
    found = torch.cat([one.flatten() for one in ids]).unique()
    return found, found[:, None].float()


def test_cxr_that_do_not_fit_in_memory_are_read_each_time(store: Store) -> None:
    kept, read = (radiographs_of(store, "train", SETTINGS.model_copy(update={"keep_gb": gb})) for gb in (1.0, 0.0))
    for step in range(3):
        for a, b in zip(kept.batch(step), read.batch(step), strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            assert a.report == b.report


@pytest.mark.parametrize("keep_gb", [1.0, 0.0])
def test_a_damaged_cxr_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch, keep_gb: float) -> None:
    study = Store.study

    def broken(self: Store, study_id: str) -> object:
        if study_id == "f1":
            raise StoreError("gone", code="study_damaged")
        return study(self, study_id)

    monkeypatch.setattr(Store, "study", broken)
    settings = SETTINGS.model_copy(update={"keep_gb": keep_gb, "batch": 4})
    with pytest.raises(StoreError, match="1 of 4 studies cannot be read"):
        radiographs_of(store, "train", settings).batch(0)
    monkeypatch.setattr("ctglip.data.reader.MAX_FAILED_SHARE", 0.5)
    radiographs = radiographs_of(store, "train", settings)
    assert {radiograph.study_id for step in range(2) for radiograph in radiographs.batch(step)} == {"f0", "f2", "f3"}
    assert [failure.code for failure in radiographs.failures] == ["study_damaged"]
    organs = load_organs()
    dictionaries = (organs, load_abnormalities(organs=organs))
    data = StudyDataset(store, "train", *dictionaries, settings, reader=radiographs.images.reader)
    assert {radiograph.study_id for radiograph in data.batch(0)} <= {"f0", "f2", "f3"}
    assert [failure.study_id for failure in data.failures] == ["f1"]
