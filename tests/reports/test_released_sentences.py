"""Sentences that others distilled: their forms, their studies, and files that are not such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctglip.errors import ConfigError
from ctglip.reports.released_sentences import read_released

FORMS = {
    "map.json": json.dumps({"s50414267": "Edema: present.", "s53189527": ["Mass: absent.", "Effusion: small."]}),
    "records.json": json.dumps(
        [
            {"study_id": "50414267", "vicuna_output": "Edema: present."},
            {"study_id": 53189527, "vicuna_output": "Mass: absent. Effusion: small."},
        ]
    ),
    "table.csv": "img_path,report,llm_output\nfiles/p10/p10000032/s50414267/a.jpg,x,Edema: present.\n"
    "files/p10/p10000032/s53189527/b.jpg,y,Mass: absent. Effusion: small.\n",
}
COHORT = (
    "study_id,image\nd-1,files/p10/p10000032/s50414267/d-1.jpg\nd-2,files/p10/p10000032/s50414267/d-2.jpg\n"
    "d-3,files/p10/p10000032/s53189527/d-3.jpg\nd-4,files/p11/p11000001/s59999999/d-4.jpg\n"
)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_brought_to_the_radiographs_of_a_cohort(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    (tmp_path / "cohort.csv").write_text(COHORT, encoding="utf-8")
    found = read_released(tmp_path / name, tmp_path / "cohort.csv")
    assert found == {
        "d-1": "Edema: present.", "d-2": "Edema: present.", "d-3": "Mass: absent. Effusion: small.",
    }  # fmt: skip


def test_names_of_the_store_itself_need_no_cohort(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"patient-7": "Edema: present.", "empty": ""}), encoding="utf-8")
    assert read_released(tmp_path / "own.json") == {"patient-7": "Edema: present."}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no.json", "{"), ("other.json", "[1, 2]"), ("other.csv", "a,b\n1,2\n"), ("numbers.json", '{"s50414267": [1]}'),
        ("empty.json", "{}"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as found:
        read_released(tmp_path / name)
    assert "\n" not in found.value.message


def test_a_cohort_without_these_studies_is_named(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(FORMS["map.json"], encoding="utf-8")
    (tmp_path / "cohort.csv").write_text("study_id,image\na,a.png\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="sentences of 2 studies"):
        read_released(tmp_path / "map.json", tmp_path / "cohort.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_released(tmp_path / "missing.json")
