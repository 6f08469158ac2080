"""``ctglip preprocess`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.errors import CohortError, ConfigError
from ctglip.store.tables import Store
from tests.preprocessing.conftest import write_table

SET = ("--config", "preprocess/demo_3mm", "--set", "ct.spacing_mm=[4, 4, 4]")


def _call(*arguments: object):
    return CliRunner().invoke(app, ["preprocess", *map(str, arguments)])


def test_exit_codes_and_words(make_cohort, tmp_path: Path) -> None:
    table, rows = make_cohort(3)
    done = _call(table, tmp_path / "store", *SET)
    assert done.exit_code == 0
    assert "3 studies written, 0 up to date, 0 failed" in done.stdout
    assert "3/3" in done.stderr
    again = _call(table, tmp_path / "store", *SET)
    assert (again.exit_code, again.stdout[:14]) == (0, "Nothing to do:")
    rows[0]["image"] = "nowhere.nii.gz"
    write_table(table, rows)
    failed = _call(table, tmp_path / "store", *SET, "--json")
    assert failed.exit_code == 1
    value = json.loads(failed.stdout)
    assert value["reasons"] == {"no_file": 1}
    assert value["failed"][0]["study_id"] == "00000"
    assert "nowhere.nii.gz" in value["failed"][0]["message"]


def test_a_store_for_a_released_encoder(make_cohort, tmp_path: Path) -> None:
    table, _ = make_cohort(1)
    done = _call(table, tmp_path / "store", "--config", "preprocess/demo_3mm", "--for", "ct_fm")
    assert done.exit_code == 0, done.output
    recipe = Store.open(tmp_path / "store").info.recipe
    assert recipe["spacing_mm"] == [1, 1, 3]
    assert recipe["hu_clip"] == [-1024, 3071]
    unknown = _call(table, tmp_path / "store", "--for", "ctfm")
    assert isinstance(unknown.exception, ConfigError)
    assert "no released encoder 'ctfm'. Known: " in str(unknown.exception)


def test_a_table_with_other_headings(make_cohort, tmp_path: Path) -> None:
    table, rows = make_cohort(1)
    write_table(table, [{"AccessionNo" if key == "study_id" else key: v for key, v in row.items()} for row in rows])
    (tmp_path / "columns.yaml").write_text("study_id: AccessionNo\n")
    assert _call(table, tmp_path / "store", *SET, "--columns", tmp_path / "columns.yaml").exit_code == 0
    assert Store.open(tmp_path / "store").study_ids == ["00000"]


def test_a_table_without_a_row_leaves_no_store(make_cohort, tmp_path: Path) -> None:
    table, _ = make_cohort(1)
    table.write_text(table.read_text().splitlines()[0] + "\n")
    outcome = _call(table, tmp_path / "store", *SET)
    assert isinstance(outcome.exception, CohortError)
    assert "no row" in str(outcome.exception)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--workers", 2, "--ray", "auto"), "exclude each other"),
        (("--set", "ct.spacings_mm=1"), "did you mean 'spacing_mm'"),
        (("--set", "splits.fractions=[0.5, 0.1, 0.1]"), "sum to 1"),
        (("--set", "cxr.size=64"), "both are set"),
    ],
)
def test_the_users_faults_leave_no_store(make_cohort, tmp_path: Path, extra, message: str) -> None:
    table, _ = make_cohort(1)
    outcome = _call(table, tmp_path / "store", *SET, *extra)
    assert isinstance(outcome.exception, ConfigError)
    assert message in str(outcome.exception)
    assert not (tmp_path / "store").exists()


def test_a_table_that_parse_wrote_enters_beside_the_parsers(make_cohort, tmp_path: Path) -> None:
    table, _ = make_cohort(1)
    text, store = tmp_path / "findings.csv", tmp_path / "store"
    assert CliRunner().invoke(app, ["parse", str(table), "--out", str(text)]).exit_code == 0
    assert _call(table, store, *SET, "--organ-text", text).exit_code == 0
    sources = Store.open(store).table("findings")["source"].to_list()
    assert sources.count("given") == sources.count("parser") > 0
    assert isinstance(_call(table, store, *SET, "--organ-text", tmp_path / "none.csv").exception, CohortError)
