"""The levels: hard is all of it, easy is none of it; cohorts say what is so and nothing more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.cohort import read_cohort
from ctglip.errors import ConfigError
from ctglip.simulation.cohort import simulate_cohort
from ctglip.simulation.levels import level_settings
from ctglip.simulation.study import SimulationSettings, simulate_study
from ctglip.store.format import TABLES
from tests.label_frames import label_frame

HARD = level_settings("hard", None, ["spacing_mm=6", "bodies=3", "anatomies=[child, missing_organs, standard]"])
TRUTH = ("anatomy", "phase", "kernel", "slice_thickness_mm")


@pytest.fixture(autouse=True)
def no_montage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The montage has its own test."""
    monkeypatch.setattr("ctglip.simulation.cohort.draw_montage", lambda path, *_: path.write_bytes(b"png"))


def test_easy_has_everything_off_and_hard_everything_on() -> None:
    easy, hard = level_settings("easy"), level_settings("hard")
    assert easy == SimulationSettings()
    assert easy.easy
    assert not hard.easy
    assert hard.acquisition is not None
    assert hard.lesions.nodules is not None
    for group in (hard.masks, hard.reader, hard.phases, hard.lesions):
        defaults = type(group)()
        off = [name for name in type(group).model_fields if getattr(group, name) == getattr(defaults, name)]
        assert off == [], type(group).__name__


def test_each_switch_alone_leaves_easy() -> None:
    for change in (
        "habitus=1.1", "phases.shares={native: 1}", "lesions.irregular=0.5", "masks.leak=0.1", "reader.hedge=0.1",
        "anatomies=[obese]",
    ):  # fmt: skip
        assert not level_settings("easy", None, [change]).easy, change


def test_a_config_and_changes_lie_over_the_level(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("masks: {leak: 0.5}\n")
    settings = level_settings("hard", config, ["masks.hole=0.4"])
    assert (settings.masks.leak, settings.masks.hole) == (0.5, 0.4)
    assert settings.masks.missed == level_settings("hard").masks.missed
    with pytest.raises(ConfigError, match=r"did you mean 'leak'"):
        level_settings("hard", None, ["masks.leek=0.1"])


def test_a_hard_cohort_with_any_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        simulate_cohort(tmp_path / name, 5, seed=5, settings=HARD, workers=workers)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert {"gallery.png", "mask_faults.csv", "report_errors.csv"} <= {path.name for path in files}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    _tables_say_what_is_so(tmp_path / "a")


def _tables_say_what_is_so(folder: Path) -> None:
    table = pl.read_csv(folder / "cohort.csv")
    assert set(TRUTH) <= set(table.columns)
    assert set(table["anatomy"]) <= {"child", "missing_organs", "standard"}
    assert set(table["phase"]) <= {"native", "arterial", "portal"}
    rows = read_cohort(folder / "cohort.csv").rows
    assert len(rows) == 5
    assert not set(TRUTH) & set(TABLES["studies"]), "no store takes it up"
    truth = label_frame(folder / "truth.csv")
    for row in table.filter(anatomy="missing_organs").to_dicts():
        assert truth.filter(study_id=row["study_id"])["spleen:splenomegaly"].item() is None
    errors = pl.read_csv(folder / "report_errors.csv")
    assert errors.columns == ["study_id", "pair", "error"]
    for row in errors.to_dicts():
        there = truth.filter(study_id=row["study_id"])[row["pair"]].item()
        assert there == (row["error"] != "invented")
    assert pl.read_csv(folder / "mask_faults.csv").columns == ["study_id", "organ", "fault"]


def test_an_easy_cohort_has_none_of_it(tmp_path: Path) -> None:
    settings = SimulationSettings(bodies=1, contrast=0, spacing_mm=8)
    simulate_cohort(tmp_path, 2, seed=5, settings=settings)
    assert not set(TRUTH) & set(pl.read_csv(tmp_path / "cohort.csv").columns)
    assert not (tmp_path / "report_errors.csv").exists()
    assert "density" not in pl.read_csv(tmp_path / "lesions.csv").columns


def test_a_hard_study_is_the_same_each_time_and_unlike_the_others() -> None:
    first, again, other = (simulate_study(9, index, HARD) for index in (3, 3, 4))
    assert np.array_equal(first.scan.hu, again.scan.hu)
    assert np.array_equal(first.labels.labels, again.labels.labels)
    assert (first.report, first.truth, first.lesions, first.about) == (
        again.report, again.truth, again.lesions, again.about,
    )  # fmt: skip
    assert first.report != other.report


def test_most_reports_do_not_name_the_phase() -> None:
    settings = HARD.model_copy(update={"phases": HARD.phases.model_copy(update={"shares": {"portal": 1.0}})})
    coarse = settings.model_copy(update={"spacing_mm": 10.0, "bodies": 3, "acquisition": None})
    named = ["portal" in simulate_study(0, index, coarse, pairs=()).report for index in range(120)]
    assert abs(np.mean(named) - HARD.reader.phase) < 4 * (HARD.reader.phase * (1 - HARD.reader.phase) / 120) ** 0.5
