"""``ctglip simulate`` as a new user meets it: hard unless told otherwise, faults named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from ctglip.cohort import read_cohort
from tests.cli.commands import good_here, here

SMALL = ("--studies", 2, "--set", "spacing_mm=8", "--set", "bodies=1")


@pytest.mark.parametrize("level", ["hard", "easy"])
def test_hard_is_the_default(tmp_path: Path, level: str) -> None:
    good_here("simulate", tmp_path, *SMALL, *(("--level", "easy") if level == "easy" else ()))
    settings = json.loads((tmp_path / "simulation.json").read_text())["settings"]
    assert (settings["masks"]["leak"] > 0) == (level == "hard")
    assert ("phase" in pl.read_csv(tmp_path / "cohort.csv").columns) == (level == "hard")
    assert (tmp_path / "gallery.png").is_file() == (level == "hard")
    assert len(read_cohort(tmp_path / "cohort.csv").rows) == 2


def test_faults_are_named(tmp_path: Path) -> None:
    wrong = here("simulate", tmp_path, "--level", "harder")
    assert wrong.code == 2
    assert "'harder'" in wrong.err
    typo = here("simulate", tmp_path, "--set", "masks.leek=0.1")
    assert typo.code == 2
    assert "'leak'" in typo.err
    unknown = here("simulate", tmp_path, *SMALL, "--set", "anatomies=[giant]")
    assert unknown.code == 2
    assert "long_chest" in unknown.err
