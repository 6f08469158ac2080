"""``ctglip dictionary build`` and ``check``, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ctglip.files import read_yaml
from ctglip.resources import resource
from tests.cli.commands import good_here, here


def _cohort(folder: Path, *reports: str) -> Path:
    lines = ["study_id,patient_id,image,report", *(f'{n},{n},{n}.nii.gz,"{text}"' for n, text in enumerate(reports))]
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_shipped_dictionaries_are_sound_and_read_back() -> None:
    """Every phrasing of every entry is read by the report parser as what it says."""
    outcome = good_here("dictionary", "check", "--json")
    assert json.loads(outcome.out) == {"problems": [], "errors": 0}


def test_check_names_what_is_wrong_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "abnormalities.yaml"
    shutil.copy(resource("abnormality_dictionary", "abnormalities.yaml"), path)
    text = path.read_text()
    assert "      - No gallstones.\n" in text
    path.write_text(text.replace("      - No gallstones.\n", "      - Gallstones.\n"))
    outcome = here("dictionary", "check", "--abnormalities", path)
    assert outcome.code == 1
    assert "error: gallstone: 'Gallstones.' stands among the negative phrasings" in outcome.out
    path.write_text("abnormalities: {a: {display: a, organs: [nowhere]}}")
    outcome = here("dictionary", "check", "--abnormalities", path)
    assert outcome.code == 1
    assert "'nowhere'" in outcome.out


def test_build_writes_proposals(tmp_path: Path) -> None:
    text = "There is a quandoma of the liver. No pleural effusion."
    cohort = _cohort(tmp_path, text, text, text)
    outcome = good_here("dictionary", "build", cohort, "--out", tmp_path / "new.yaml")
    assert "1 phrases of 3 reports" in outcome.out
    (proposal,) = read_yaml(tmp_path / "new.yaml")["proposals"]
    assert (proposal["name"], proposal["studies"], proposal["entry"]["organs"]) == ("quandoma", 3, ["liver"])


def test_a_study_without_a_report_is_a_failed_row(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path, "There is a quandoma of the liver.", "")
    outcome = here("dictionary", "build", cohort, "--out", tmp_path / "new.yaml", "--fewest", 1, "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert (result["proposals"], result["reports"]) == (1, 1)
    assert [failed["code"] for failed in result["failed"]] == ["report_empty"]


def test_a_missing_table_is_the_users_fault(tmp_path: Path) -> None:
    outcome = here("dictionary", "build", tmp_path / "none.csv", "--out", tmp_path / "new.yaml")
    assert outcome.code == 2
    assert "none.csv" in outcome.err
