"""The quality page says what the store holds, names what is odd, and shows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.quality import MONTAGE, oddness, quality_page, write_quality_page

from ctglip.cohort import read_cohort
from ctglip.store.tables import Store
from ctglip.types import Failure
from tests.preprocessing.conftest import write_scan, write_table


@pytest.fixture
def store(make_cohort, config, tmp_path: Path) -> Store:
    """14 studies, one with a liver three times as dense and one with an empty report."""
    table, rows = make_cohort(14)
    write_scan(tmp_path / "ct00003.nii.gz", seed=3, liver_hu=200)
    rows[5]["report"] = ""
    write_table(table, rows)
    preprocess_cohort(read_cohort(table), tmp_path / "store", config)
    return Store.open(tmp_path / "store")


def test_the_page_counts_and_names_what_is_odd(store: Store) -> None:
    failure = Failure("00005", "report", "report_empty", "It is empty.")
    page = quality_page(store, [failure])
    assert (page.done, page.failures) == (13, (failure,))
    drawn = {distribution.name: distribution for distribution in page.distributions}
    assert drawn["Slice spacing, as scanned"].values == (4.0,) * 13
    assert [outlier.study_id for outlier in drawn["Liver, mean"].outliers] == ["00003"]
    assert len(drawn["Liver, volume"].values) == 13
    assert len(drawn["Liver, spread"].values) == 13
    assert drawn["Liver, volume"].outliers == ()
    assert len(page.montage) == MONTAGE
    assert page.montage[0].caption.startswith("Study 00003.")
    facts = {fact.name: fact.value for fact in page.facts}
    assert facts["Grid"] == "4 × 4 × 4 mm"
    assert facts["With report"] == "13"


def test_a_run_leaves_a_page_that_needs_nothing_else(store: Store) -> None:
    text = (store.path / "quality.html").read_text(encoding="utf-8")
    assert "report_empty" in text
    assert "00005" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    again = write_quality_page(store, [Failure("00005", "report", "report_empty", "It is empty.")])
    first = again.read_bytes()
    assert write_quality_page(store, [Failure("00005", "report", "report_empty", "It is empty.")]).read_bytes() == first


def test_a_damaged_study_does_not_spoil_the_page(store: Store) -> None:
    shutil.rmtree(store.path / "studies" / "00003.zarr")
    assert "00003" not in "".join(picture.caption for picture in quality_page(Store.open(store.path)).montage)


def test_an_empty_store_has_a_page(make_cohort, config, tmp_path: Path) -> None:
    table, rows = make_cohort(1)
    rows[0]["image"] = "nowhere.nii.gz"
    write_table(table, rows)
    preprocess_cohort(read_cohort(table), tmp_path / "store", config)
    assert "no_file" in (tmp_path / "store" / "quality.html").read_text(encoding="utf-8")


def test_oddness_is_robust() -> None:
    values = np.r_[np.linspace(9, 11, 30), 40.0]
    assert oddness(values)[-1] > 10
    assert oddness(values)[:-1].max() < 2.5
    assert oddness(np.ones(20)).max() == 0
    assert oddness(np.r_[np.ones(20), 5.0])[-1] > 4
    assert oddness(np.array([1.0, 100.0])).max() == 0


@pytest.mark.slow
@pytest.mark.ci
def test_a_browser_draws_it_without_network(store: Store, browser: Any) -> None:
    trouble: list[str] = []
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda request: trouble.append(request.url[:100]))
    page.goto((store.path / "quality.html").as_uri())
    assert page.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth > 0).length") >= MONTAGE
    assert page.get_by_text("report_empty").first.is_visible()
    context.close()
    assert trouble == []
