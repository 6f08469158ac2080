"""Ray and this process alone give the same store, and no way of dying takes the run along."""

from __future__ import annotations

from pathlib import Path

import pytest
from ctglip_preprocessing.driver import preprocess_cohort

from ctglip.cohort import read_cohort
from tests.preprocessing.conftest import contents, write_table


def test_two_workers_give_the_same_store_as_one(make_cohort, config, tmp_path: Path) -> None:
    table, rows = make_cohort(6)
    rows[2]["image"] = "nowhere.nii.gz"
    write_table(table, rows)
    cohort = read_cohort(table)
    alone = preprocess_cohort(cohort, tmp_path / "alone", config)
    together = preprocess_cohort(cohort, tmp_path / "together", config, workers=2)
    assert alone.failed == together.failed
    assert (alone.written, together.written) == (5, 5)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


def test_nothing_to_do_starts_no_ray(make_cohort, config, tmp_path: Path, monkeypatch) -> None:
    table, _ = make_cohort(2)
    preprocess_cohort(read_cohort(table), tmp_path / "store", config)
    monkeypatch.setattr("ctglip_preprocessing.executor._connect", lambda *_: pytest.fail("Ray was started"))
    assert preprocess_cohort(read_cohort(table), tmp_path / "store", config, workers=2).worked == 0
