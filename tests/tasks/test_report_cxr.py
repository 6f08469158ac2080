"""Reports of radiographs are written from boxes of organs, or from the whole radiograph, and drafted on a page."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pytest

from ctglip.cxr.picture import Radiograph
from ctglip.errors import ModelError
from ctglip.store.tables import Store
from ctglip.tasks.draft_page import write_draft
from ctglip.tasks.report_draft import ReportDrafter
from ctglip.tasks.tuning import finetune
from tests.inference.tiny_cxr import BOXES, cxr_release, draw_radiograph, saved, truth_of, write_cxr_store
from tests.tasks.test_report import config
from tests.training.tiny import write_word_bert


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return write_cxr_store(tmp_path_factory.mktemp("radiographs") / "store", 40)


@pytest.mark.parametrize("kind", ["boxes", "whole"])
def test_reports_of_radiographs_are_written_and_drafted(
    radiographs: tuple[Store, Path], tmp_path: Path, kind: str
) -> None:
    own = {"regions": {"name": "box"}, "image": None} if kind == "boxes" else {}
    run = saved(tmp_path / "run", cxr_release(write_word_bert(tmp_path / "bert"), **own))
    results = finetune(run, radiographs[0].path, tmp_path / "out", None, config(fit={"epochs": 3}))
    assert {one.initialization for one in results.points} >= {"run", "normal", "neighbour", "classifier"}
    drafter = ReportDrafter(tmp_path / "out")
    rng = np.random.default_rng(7)
    pixels = draw_radiograph(rng, truth_of(rng)).astype(np.float32)
    draft = drafter.draft(Radiograph(pixels), regions=BOXES)
    assert [one.organ for one in draft.organs] == list(drafter.writer.organs)
    assert any(one.sentences for one in draft.organs)
    page = write_draft(drafter, draft, tmp_path / "draft").read_text()
    assert all(one.text in html.unescape(page) for organ in draft.organs for one in organ.sentences)


def test_a_model_without_texts_is_tuned_and_measured_but_drafts_nothing(
    radiographs: tuple[Store, Path], tmp_path: Path
) -> None:
    release = cxr_release(write_word_bert(tmp_path / "bert"), image=None)
    release.aligned = False
    run = saved(tmp_path / "run", release)
    results = finetune(run, radiographs[0].path, tmp_path / "out", None, config(fit={"epochs": 1}))
    assert "zero_shot" not in {one.initialization for one in results.points}
    assert any("No baseline zero_shot" in note for note in results.notes)
    with pytest.raises(ModelError) as caught:
        ReportDrafter(tmp_path / "out")
    assert caught.value.code == "not_aligned"
