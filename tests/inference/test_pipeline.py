"""One scan and its answers: the same voxels as in training, each organ encoded once, silence with a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ctglip.api import load_model
from ctglip.errors import MaskError, ModelError, ScanError, VocabularyError
from ctglip.inference.page import MOST_MAPS, answers_page, most_likely
from ctglip.inference.readers import InMemory
from ctglip.pages.answers import render
from ctglip.store.tables import Store
from ctglip.types import LabelMap, Scan

Trained = tuple[Store, Path]
Files = tuple[Path, Path]
ORGANS = ("liver", "spleen", "kidney_left")
QUESTIONS = ["liver: fatty liver", "splenomegaly?", "cyst in the left kidney"]


def test_a_question_sees_the_very_voxels_that_training_saw(trained: Trained, files: Files) -> None:
    store, run = trained
    model = load_model(run)
    regions = [one.row for one in model.reader.instances(store, ["s000"], ORGANS)]
    stored = model.reader.load(store, "s000", regions)
    standardized = model.standardize(*files)
    rows = {row.organ: row for row in standardized.rows}
    asked = model.reader.prepare(InMemory(standardized), [rows[organ] for organ in ORGANS])
    for name in ("hu", "mask", "size", "median_hu"):
        assert_array_equal(*([getattr(crop, name) for crop in crops] for crops in (asked, stored)))


def test_answers_are_probabilities_with_ranks(trained: Trained, files: Files) -> None:
    answers = load_model(trained[1]).query(files[0], QUESTIONS, masks=files[1])
    assert [answer.question for answer in answers.answers] == QUESTIONS
    assert [answer.organ for answer in answers.answers] == list(ORGANS)
    for answer in answers.answers:
        assert answer.probability is not None
        assert 0 < answer.probability < 1
        assert answer.rank == answer.of == 1
        assert answer.taught
        assert len(answer.similar) == 3
    told = json.loads(json.dumps(answers.to_json()))
    assert told["scan"] == "scan.nii.gz"
    assert str(files[0].parent) not in json.dumps(told)
    shown = answers_page(answers)
    page = render(shown)
    assert "left kidney" in page
    assert str(files[0].parent) not in page
    stand_ins = {"hepatic vessels", "bile ducts"}
    assert stand_ins & {answers.displays.get(row.organ, row.organ) for row in answers.standardized.rows}
    assert not stand_ins & {organ.name for organ in shown.organs}, "no mask draws them: they are read beside the liver"


def test_every_organ_is_encoded_once_however_much_is_asked(
    trained: Trained, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(trained[1])
    encoded: list[int] = []
    inner = model.release.model.forward

    def counted(images, *others):
        encoded.append(len(images))
        return inner(images, *others)

    monkeypatch.setattr(model.release.model, "forward", counted)
    answers = model.query(files[0], QUESTIONS * 5 + ["liver: cyst", "anything abnormal in the spleen?"], files[1], True)
    assert encoded == [3]
    assert len(answers.answers) >= 20


def test_what_was_seen_as_a_kind_of_it_was_seen(trained: Trained, files: Files) -> None:
    model = load_model(trained[1])
    model.trained["liver"] = ("cirrhosis", "liver_cyst")
    wider = next(iter(model.dictionaries.abnormalities.ancestors("liver_cyst")))
    asked = ["liver: " + model.dictionaries.abnormalities[name].display for name in (wider, "hepatic_steatosis")]
    answers = model.query(files[0], asked, masks=files[1]).answers
    assert [answer.taught for answer in answers] == [True, False]


def test_answers_need_no_text_encoder(trained: Trained, files: Files) -> None:
    """Every text that the dictionaries can ask or answer with was embedded in training: loading one costs seconds."""
    model = load_model(trained[1])
    model.query(files[0], [*QUESTIONS, "anything abnormal in the liver?"], masks=files[1], everything=True)
    assert model.release.text_encoder is None


def test_the_page_shows_where_the_most_likely_answers_come_from(trained: Trained, files: Files) -> None:
    model = load_model(trained[1])
    answers = model.query(files[0], [*QUESTIONS, "gallstones?"], masks=files[1])
    wanted = most_likely(answers)
    assert wanted == {(a.organ, a.abnormality) for a in answers.answers if a.probability is not None}
    page = answers_page(answers, organs=model.dictionaries.organs, maps=model.heat_maps(answers, wanted))
    assert [(one.organ, one.probability) for one in page.where] == [
        (answers.displays[a.organ], a.probability) for a in answers.answers if a.probability is not None
    ]
    for one in page.where:
        assert one.picture.size == one.heat.size
        assert one.picture.uri != one.heat.uri
    if page.viewer is not None:
        assert [one.organ for one in page.viewer.maps] == [one.organ for one in page.where]
    everything = model.query(files[0], [], masks=files[1], everything=True)
    chosen = most_likely(everything)
    assert len(chosen) == min(MOST_MAPS, len({(a.organ, a.abnormality) for a in everything.answers}))
    said = {(a.organ, a.abnormality): (a.taught, a.probability or 0) for a in everything.answers}
    least = min(said[pair] for pair in chosen)
    assert all(value <= least for pair, value in said.items() if pair not in chosen)


def test_a_copied_model_folder_gives_the_same_answers(trained: Trained, files: Files, tmp_path: Path) -> None:
    shutil.copytree(trained[1] / "model", tmp_path / "copy")
    first = load_model(trained[1]).query(files[0], QUESTIONS, masks=files[1])
    second = load_model(str(tmp_path / "copy")).query(files[0], QUESTIONS, masks=files[1])
    assert first.answers == second.answers


def test_what_cannot_be_seen_is_not_answered(trained: Trained, files: Files) -> None:
    model = load_model(trained[1])
    standardized = model.standardize(*files)
    hu, affine = standardized.image, standardized.affine
    labels = np.asarray(standardized.organs)
    spleen, liver, kidney = (
        next(iter(model.dictionaries.organs.labels_of(n))) for n in ("spleen", "liver", "kidney_left")
    )
    changed = np.where(labels == spleen, 0, labels).astype(np.uint8)
    changed[:, :, :2][:, 14:18] = liver
    changed[(labels == kidney) & (np.cumsum(labels == kidney).reshape(labels.shape) > 1)] = 0
    model.recipe = model.recipe.model_copy(update={"min_organ_ml": 0.5})
    answers = model.query(Scan(hu, affine), [*QUESTIONS, "gallstones?"], masks=LabelMap(changed, affine))
    said = {answer.organ: answer for answer in answers.answers}
    assert all(answer.probability is None for answer in said.values())
    assert "cut off by the field of view" in said["liver"].reason
    assert "not in the scan's masks" in said["spleen"].reason
    assert "too small" in said["kidney_left"].reason
    assert "not trained on the gallbladder" in said["gallbladder"].reason


def test_questions_are_checked_before_anything_is_read(trained: Trained) -> None:
    model = load_model(trained[1])
    with pytest.raises(VocabularyError, match="flurb"):
        model.query(Path("no/such/scan.nii.gz"), ["flurb?"])
    with pytest.raises(ModelError, match="no question"):
        model.query(Path("no/such/scan.nii.gz"), [])


def test_without_masks_or_weights_the_message_says_what_to_do(
    trained: Trained, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    with pytest.raises(MaskError, match="comes without masks"):
        load_model(trained[1]).query(files[0], QUESTIONS)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(tmp_path)


def test_a_model_that_finds_organs_itself_is_asked_without_masks(
    trained: tuple[Store, Path], files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TotalSegmentator cannot run; a model of whole images answers all the same, a model of crops says what to give."""
    from ctglip.data.scans import ScanSettings
    from ctglip.errors import MaskError
    from ctglip.inference import pipeline as module
    from ctglip.models.dual_encoder import DualEncoder
    from ctglip.models.image_heads import PooledHeadSettings
    from ctglip.models.release import load_release

    def fails(*_: object) -> None:
        raise MaskError("There are no weights.", code="no_weights", fix="Install them.")

    monkeypatch.setattr(module, "segment", fails)
    release = load_release(trained[1])
    with pytest.raises(MaskError, match="comes without masks"):
        module.Pipeline(release).query(files[0], ["liver: fatty liver"])
    scans = ScanSettings(grid=(16, 16, 16))
    settings = release.model.settings.model_copy(update={"regions": None, "image": PooledHeadSettings()})
    inputs = release.model.inputs.model_copy(update={"in_channels": scans.channels})
    release.model, release.scans = DualEncoder(settings, inputs), scans.model_dump(mode="json")
    answers = module.Pipeline(release).query(files[0], ["liver: fatty liver"])
    assert answers.answers[0].probability is not None
    assert answers.masks == "none: the model reads the whole scan"
    assert answers.to_json()["organs"] == []
    (shown,) = module.Pipeline(release).heat_maps(answers)
    assert shown.values.shape == scans.grid
    assert np.abs(shown.values).max() == 1.0


def test_a_cxr_asked_of_a_model_of_scans_is_refused(trained: Trained, tmp_path: Path) -> None:
    from ctglip.errors import ScanError

    (tmp_path / "radiograph.png").write_bytes(b"x")
    with pytest.raises(ScanError, match="trained on CT scans") as refused:
        load_model(trained[1]).query(tmp_path / "radiograph.png", QUESTIONS)
    assert refused.value.code == "other_modality"


def test_a_scan_that_preprocessing_refuses_is_not_answered(
    trained: Trained, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan at +1024 HU, from a file and in memory: the same refusal, and no mask is read for it."""
    model = load_model(trained[1])
    sound = nib.load(files[0])
    hu = np.asarray(sound.dataobj).astype(np.int16) + np.int16(1024)
    nib.save(nib.Nifti1Image(hu, sound.affine), tmp_path / "raw.nii.gz")
    monkeypatch.setattr("ctglip.modality.read_masks", lambda *_: pytest.fail("masks were read"))
    for given in (tmp_path / "raw.nii.gz", Scan(hu, sound.affine)):
        for ask in (lambda scan: model.query(scan, QUESTIONS, masks=files[1]), lambda scan: model.standardize(scan)):
            with pytest.raises(ScanError) as caught:
                ask(given)
            assert caught.value.code == "intercept_missing"


def test_masks_that_preprocessing_refuses_are_not_used(trained: Trained, files: Files, tmp_path: Path) -> None:
    masks = nib.load(files[1])
    nib.save(nib.Nifti1Image(np.asarray(masks.dataobj)[::-1], masks.affine), tmp_path / "mirrored.nii.gz")
    with pytest.raises(ScanError) as caught:
        load_model(trained[1]).query(files[0], QUESTIONS, masks=tmp_path / "mirrored.nii.gz")
    assert caught.value.code in ("left_right", "organ_hu")
