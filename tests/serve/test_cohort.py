"""The studies of a store, page by page."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve.cohort_routes import StudyTable
from ctglip.serve.models import load_models
from ctglip.serve.server import check_store
from ctglip.store.format import write_info
from ctglip.store.tables import Store
from tests.inference.tiny_cxr import write_cxr_store
from tests.serve.conftest import Ward, make_ward


def test_pages_filters_and_sorting(ward: Ward) -> None:
    first = ward.get("/api/cohort", params={"size": 10})
    assert first["total"] == 30
    assert [row["study_id"] for row in first["rows"]] == [f"s{n:03d}" for n in range(10)]
    last = ward.get("/api/cohort", params={"size": 10, "page": 2, "order": "down"})
    assert [row["study_id"] for row in last["rows"]] == [f"s{n:03d}" for n in range(9, -1, -1)]
    fat = ward.get("/api/cohort", params={"words": "LIVER steatosis", "size": 200})
    assert 0 < fat["total"] < 30
    assert all("liver: hepatic steatosis" in row["findings"] for row in fat["rows"])
    assert ward.get("/api/cohort", params={"words": "nobody"})["rows"] == []
    splits = [row["split"] for row in ward.get("/api/cohort", params={"sort": "split", "size": 200})["rows"]]
    assert splits == sorted(splits)
    assert set(splits) == {"train", "val", "test"}
    ward.get("/api/cohort", params={"sort": "nothing"}, status=400)


def test_a_study_is_opened_and_asked(ward: Ward) -> None:
    opened = ward.post("/api/cohort/s003/open", status=201)["id"]
    assert ward.work() == 1
    scan = ward.get(f"/api/scans/{opened}")
    assert scan["state"] == "ready", scan
    assert ward.post(f"/api/scans/{opened}/ask", {"questions": ["spleen"]})["answers"][0]["probability"] is not None
    ward.post("/api/cohort/s999/open", status=404)
    ward.post("/api/cohort/..s/open", status=400)


def test_without_a_store_there_is_no_cohort(trained: tuple[Store, Path], tmp_path: Path) -> None:
    ward = make_ward(tmp_path / "serve", [trained[1]])
    assert ward.get("/api/cohort", status=404)["error"]["code"] == "no_study"


def test_the_store_must_be_as_the_models_read(trained: tuple[Store, Path], tmp_path: Path) -> None:
    models = load_models([trained[1]])
    check_store(None, models)
    check_store(trained[0].path, models)
    older = trained[0].info.model_copy(update={"recipe": {"spacing_mm": [6.0, 6.0, 6.0], "crop_to_body": False}})
    write_info(tmp_path, older)
    check_store(tmp_path, models)
    write_info(tmp_path, older.model_copy(update={"recipe": {"spacing_mm": [3.0, 3.0, 3.0], "crop_to_body": False}}))
    with pytest.raises(CTGLIPError, match="spacing_mm"):
        check_store(tmp_path, models)
    other, _ = write_cxr_store(tmp_path / "cxr", 2)
    with pytest.raises(CTGLIPError, match="not as"):
        check_store(other.path, models)


def test_many_studies_stay_fluid(tmp_path: Path) -> None:
    count = 100_000
    names = [f"s{n:06d}" for n in range(count)]
    pl.DataFrame(
        {"study_id": names, "age": [float(n % 90) for n in range(count)], "checks": ["[]"] * count}
    ).write_parquet(tmp_path / "studies.parquet")
    named = ["hepatic_cyst" if n % 7 else "gallstone" for n in range(count)]
    affirmed = pl.DataFrame({"study_id": names, "abnormality": named})
    affirmed.with_columns(organ=pl.lit("liver"), status=pl.lit("affirmed")).write_parquet(tmp_path / "findings.parquet")
    table = StudyTable(tmp_path)
    table.frame()
    start = time.perf_counter()
    found = table.page("gallstone", "age", "down", 3, 50)
    assert time.perf_counter() - start < 1.0
    assert found["total"] == sum(n % 7 == 0 for n in range(count))
    assert len(found["rows"]) == 50
