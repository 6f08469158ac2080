"""Questions to scans that are read: never a bare yes, quick, and each model for itself."""

from __future__ import annotations

import gzip
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctglip.api import load_model
from ctglip.inference.encoded_study import EncodedStudy
from ctglip.serve import work
from ctglip.serve.asking import REMINDER
from ctglip.serve.jobs import Job, JobStore
from ctglip.serve.work import Workplace
from ctglip.store.tables import Store
from tests.inference.tiny_cxr import cxr_release, draw_radiograph, saved
from tests.serve.conftest import Ward, make_ward
from tests.training.tiny import write_word_bert


def ask(read_ward: tuple[Ward, str], **asked: Any) -> dict[str, Any]:
    ward, scan_id = read_ward
    return ward.post(f"/api/scans/{scan_id}/ask", asked)


def test_an_answer_is_a_probability_with_all_that_speaks_against_it(read_ward: tuple[Ward, str]) -> None:
    found = ask(read_ward, questions=["liver: fatty liver", "liver: liver metastasis"])
    taught, untaught = found["answers"]
    assert found["reminder"] == REMINDER
    for answer in (taught, untaught):
        assert 0 < answer["probability"] < 1
        assert answer["words"].endswith("%")
        assert answer["calibrated"] in (True, False)
    assert taught["taught"]
    assert not untaught["taught"]
    assert not untaught["calibrated"]
    assert any("never taught" in caveat for caveat in untaught["caveats"])


def test_an_organ_is_asked_about_all_that_was_learned(read_ward: tuple[Ward, str]) -> None:
    ward, scan_id = read_ward
    found = ward.get(f"/api/scans/{scan_id}/findings", params={"organ": "liver"})["answers"]
    assert [answer["abnormality"] for answer in found] == ["hepatic_steatosis"]
    ward.get(f"/api/scans/{scan_id}/findings", params={"organ": "elbow"}, status=404)


def test_a_sentence_has_a_similarity_and_no_probability(read_ward: tuple[Ward, str]) -> None:
    (answer,) = ask(read_ward, sentences=["liver: The liver is full of stars."])["answers"]
    assert answer["probability"] is None
    assert answer["words"] == ""
    assert -1 <= answer["similarity"] <= 1
    assert answer["sentence"]
    assert "no probability" in answer["caveats"][0]


def test_a_question_that_is_not_understood_says_what_is_near(read_ward: tuple[Ward, str]) -> None:
    ward, scan_id = read_ward
    error = ward.post(f"/api/scans/{scan_id}/ask", {"questions": ["livr"]}, status=422)["error"]
    assert "liver" in error["message"] + error["fix"]
    ward.post(f"/api/scans/{scan_id}/ask", {}, status=422)
    ward.post(f"/api/scans/{scan_id}/ask", {"questions": ["x" * 501]}, status=422)
    ward.post(f"/api/scans/{scan_id}/ask", {"questions": ["liver"], "model": "m9"}, status=404)


def test_two_models_answer_about_one_scan(read_ward: tuple[Ward, str]) -> None:
    ward, _ = read_ward
    assert [model["key"] for model in ward.get("/api/server")["models"]] == ["m0", "m1"]
    first, second = (ask(read_ward, questions=["liver: fatty liver"], model=key) for key in ("m0", "m1"))
    assert (first["model"], second["model"]) == ("m0", "m1")
    assert first["answers"] == second["answers"], "they are the same model twice"


def test_answers_are_quick_once_a_scan_is_encoded(read_ward: tuple[Ward, str]) -> None:
    ward, _ = read_ward
    ward.serving.asking.warm()
    took = []
    for _ in range(5):
        start = time.perf_counter()
        ask(read_ward, questions=["any abnormality?"])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.3


def test_completions_are_questions_that_are_understood(read_ward: tuple[Ward, str]) -> None:
    ward, _ = read_ward
    words = ward.get("/api/completions")
    assert "liver: hepatic steatosis" in words
    for word in words[:40]:
        assert ask(read_ward, questions=[word])["answers"]


def test_the_viewer_gets_the_scan_its_organs_and_heat_maps(read_ward: tuple[Ward, str]) -> None:
    ward, scan_id = read_ward
    organs = ward.get(f"/api/scans/{scan_id}/organs")
    assert organs["masks"] == "uploaded masks"
    liver = next(one for one in organs["organs"] if one["organ"] == "liver")
    assert liver["askable"]
    image, labels = (volume(ward, f"/api/scans/{scan_id}/views/{name}.nii.gz") for name in ("image", "labels"))
    assert list(image.shape) == organs["shape"]
    inside = np.isin(np.asarray(labels.dataobj), liver["shown"]["numbers"])
    assert inside.sum() * 0.216 == pytest.approx(liver["volume_ml"], rel=0.05)
    query = "organ=liver&abnormality=hepatic_steatosis"
    about = ward.get(f"/api/scans/{scan_id}/map?{query}")
    heat = volume(ward, f"/api/scans/{scan_id}/map/file?{query}")
    assert len(about["peak"]) == 3
    assert np.asarray(heat.dataobj).max() <= 255
    ward.get(f"/api/scans/{scan_id}/map?organ=liver&abnormality=star", status=404)
    assert ward.client.get(f"/api/scans/{scan_id}/map?organ=brain&abnormality=gallstone").status_code == 422


def volume(ward: Ward, path: str) -> nib.Nifti1Image:
    answer = ward.client.get(path)
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def test_events_tell_the_state(read_ward: tuple[Ward, str]) -> None:
    ward, scan_id = read_ward
    said = ward.client.get(f"/api/scans/{scan_id}/events")
    assert said.headers["content-type"].startswith("text/event-stream")
    assert said.text.startswith("event: scan\ndata: {")
    assert '"state": "ready"' in said.text
    assert ward.client.get("/api/scans/0123456789abcdef/events").status_code == 404


def test_a_scan_that_one_model_has_encoded_is_not_asked_before_all_have(
    trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained[1] / "model", tmp_path / "other" / "model")
    ward = make_ward(tmp_path / "serve", [trained[1], tmp_path / "other"])
    keep, begun = work._keep, []

    def broken(job: Job, place: Workplace, key: str, study: EncodedStudy) -> None:
        keep(job, place, key, study)
        if key == "m1":
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(work, "_keep", broken)
        scan_id = ward.read([files[0]], [files[1]])["id"]
    address = f"/api/scans/{scan_id}"
    assert ward.post(f"{address}/ask", {"questions": ["liver"]}, status=409)["error"]["code"] == "not_encoded"
    ward.get(f"{address}/organs", status=409)
    masks = nib.load(files[1])
    values = np.asarray(masks.dataobj).copy()
    values[:, :, : values.shape[2] // 2] = 0
    nib.save(nib.Nifti1Image(values, masks.affine), tmp_path / "half.nii.gz")
    ward.send(scan_id, (tmp_path / "half.nii.gz").read_bytes(), "half.nii.gz", "masks", replace=True)
    begin = JobStore.begin
    monkeypatch.setattr(JobStore, "begin", lambda jobs, scan, step: begun.append(step) or begin(jobs, scan, step))
    ward.post(f"{address}/start")
    ward.work()
    assert begun == ["read", "check", "segment", "encode"], "both models encode in one step"
    volumes = {one["organ"]: one["volume_ml"] for one in ward.get(f"{address}/organs")["organs"]}
    wanted = load_model(trained[1]).standardize(files[0], tmp_path / "half.nii.gz").rows
    assert volumes["liver"] == pytest.approx(next(row.volume_ml for row in wanted if row.organ == "liver"), abs=0.1)


def test_radiographs_are_read_and_asked(tmp_path: Path) -> None:
    from PIL import Image

    run = saved(tmp_path, cxr_release(write_word_bert(tmp_path / "bert")))
    ward = make_ward(tmp_path / "serve", [run])
    pixels = draw_radiograph(np.random.default_rng(0), {"heart:cardiomegaly": 1, "pleura_left:pleural_effusion": 0,
                                                        "pleura_right:pleural_effusion": 0})  # fmt: skip
    Image.fromarray(pixels).save(tmp_path / "film.png")
    scan = ward.read([tmp_path / "film.png"])
    assert scan["state"] == "ready", scan
    assert scan["about"]["image"] == {"pixels": [120, 100]}
    address = f"/api/scans/{scan['id']}"
    assert ward.client.get(f"{address}/views/image.png").content.startswith(b"\x89PNG")
    (answer,) = ward.post(f"{address}/ask", {"questions": ["cardiomegaly?"]})["answers"]
    assert answer["probability"] is not None
    assert ward.client.get(f"{address}/map/file?organ=heart&abnormality=cardiomegaly").content.startswith(b"\x89PNG")
