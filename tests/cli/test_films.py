"""Films on the command line: simulate, preprocess, look; a public dataset's tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import ctglip, good


def test_a_public_dataset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "indiana_projections.csv").write_text("uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n")
    (data / "indiana_reports.csv").write_text("uid,findings,impression\n1,The heart is enlarged.,\n")
    made = json.loads(good("cohort", "cohorts/openi", data, tmp_path / "out", "--json").out)
    assert made["films"] == made["with_text"] == 1
    assert "The heart is enlarged." in (tmp_path / "out" / "cohort.csv").read_text()
    empty = ctglip("cohort", "cohorts/chexpert", data, tmp_path / "other")
    assert empty.code == 2
    assert "train.csv" in empty.err


@pytest.mark.slow
@pytest.mark.ci
def test_simulated_films_become_a_store(tmp_path: Path) -> None:
    good("simulate", tmp_path / "films", "--studies", 3, "--seed", 1, "--films", "--set", "bodies=1")
    made = json.loads((tmp_path / "films" / "simulation.json").read_text())
    assert made["films"]["beam"]["source_mm"] == 1800
    config = ("--config", "preprocess/films", "--set", "films.size=64", "--workers", 1)
    good("preprocess", tmp_path / "films" / "cohort.csv", tmp_path / "store", *config)
    assert (tmp_path / "store" / "films.html").is_file()
    assert good("store", "verify", tmp_path / "store").code == 0
    assert "cxr" in good("store", "info", tmp_path / "store").out
