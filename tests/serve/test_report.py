"""A model that was tuned to write drafts the report of an upload; others say that they do not."""

from __future__ import annotations

from pathlib import Path

from ctglip.store.tables import Store
from ctglip.tasks.report_draft import DISCLAIMER
from ctglip.tasks.tuning import finetune
from tests.serve.conftest import make_ward
from tests.tasks.test_report import config


def test_a_draft_is_written_of_an_upload(trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path) -> None:
    store, run = trained
    finetune(run, store.path, tmp_path / "written", None, config(fit={"epochs": 2}, report={"baselines": []}))
    ward = make_ward(tmp_path / "serve", [tmp_path / "written", run])
    assert [one["writes_reports"] for one in ward.get("/api/server")["models"]] == [True, False]
    scan = ward.read([files[0]], [files[1]])
    found = ward.get(f"/api/scans/{scan['id']}/report")
    assert found["disclaimer"].startswith(DISCLAIMER)
    assert {one["organ"] for one in found["organs"]} == {"liver", "spleen", "kidney_left"}
    sentences = [sentence["text"] for one in found["organs"] for sentence in one["sentences"]]
    assert all(sentence in found["findings"] for sentence in sentences)
    error = ward.get(f"/api/scans/{scan['id']}/report", params={"model": "m1"}, status=404)["error"]
    assert error["code"] == "no_reports"
