"""The label table: what columns ask, which values are labels, and every fault by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.errors import CohortError
from ctglip.labels import LabelTable, read_labels
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

nan = np.nan


def read(folder: Path, text: str, **more) -> LabelTable:
    (folder / "labels.csv").write_text(text)
    return read_labels(folder / "labels.csv", load_organs(), load_abnormalities(), **more)


def test_columns_by_name_display_synonym_organ_and_side(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "study_id;Pleural effusion;liver:hepatic_steatosis;left renal cyst;Spleen : Splenomegaly;kidney_right:cyst\n"
        "00123;1;0;;true;0,0\n8;0;1,0;NA;False;nan\n",
    )
    assert [(column.organ, column.abnormality) for column in found.columns] == [
        (None, "pleural_effusion"), ("liver", "hepatic_steatosis"), ("kidney_left", "renal_cyst"),
        ("spleen", "splenomegaly"), ("kidney_right", "renal_cyst"),
    ]  # fmt: skip
    assert found.study_ids == ("00123", "8")
    np.testing.assert_array_equal(found.values, [[1, 0, nan, 1, 0], [0, 1, nan, 0, nan]])
    np.testing.assert_array_equal(found.of_studies(["8", "123"])[:, :2], [[0, 1], [nan, nan]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,hepatic_steatosys\na,1\n", r"'hepatic_steatosys' names no abnormality.*mean hepatic_steatosis"),
        ("study_id,liver:hepatic_steatoses\na,1\n", r"no abnormality 'hepatic_steatoses'.*mean hepatic_steatosis"),
        ("study_id,livr:hepatic_steatosis\na,1\n", r"no organ 'livr'.*mean liver"),
        ("study_id,spleen:renal_cyst\na,1\n", "renal_cyst is no abnormality of spleen, but of kidneys"),
        ("study_id,age,liver_cyst\na,70,1\n", "'age' names no abnormality"),
        ("study_id,liver\na,1\n", "'liver' names an organ, but no abnormality"),
        ("study_id,liver_cyst,Liver cyst\na,1,0\n", "'liver_cyst' and 'Liver cyst' ask the same"),
        ("study_id,liver:liver_cyst,liver:cyst\na,1,0\n", "'liver:liver_cyst' and 'liver:cyst' ask the same"),
        ("study_id,liver_cyst,liver_cyst\na,1,0\n", "'liver_cyst' stands in several columns"),
        ("study_id,liver_cyst\na,1\na,1\n", "study_id 'a' stands in 2 rows"),
        ("study_id,liver_cyst\na,1\n,0\n", "1 rows have no study_id"),
        ("study_id,,liver_cyst\na,0,1\n", "a column has no heading"),
        ("study_id,liver_cyst\na,-1\n", r"holds '-1' in 1 studies, first 'a'.*uncertain, is no label"),
        ("study_id,liver_cyst\na,yes\n", "holds 'yes' in 1 studies"),
        ("study_id,liver_cyst\na,0.5\n", "holds '0.5' in 1 studies"),
        ("study_id,liver_cyst\na,10\n", "holds '10' in 1 studies"),
        ("study_id,liver_cyst\na,1e400\n", "holds '1e400'"),
        ("study_id\na\n", "no label column"),
        ("study,liver_cyst\na,1\n", "no column 'study_id'"),
    ],
)
def test_nothing_is_dropped_or_guessed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read(tmp_path, text)


def test_columns_that_are_no_labels_are_named_as_such(tmp_path: Path) -> None:
    found = read(tmp_path, "study_id,age,liver_cyst\na,70,1\n", ignore=("age",))
    assert [column.heading for column in found.columns] == ["liver_cyst"]
    with pytest.raises(CohortError, match="the config names the column 'agee'"):
        read(tmp_path, "study_id,age,liver_cyst\na,70,1\n", ignore=("agee",))


def test_names_of_ones_own_where_they_are_allowed_and_never_a_slip(tmp_path: Path) -> None:
    text = "study_id,spleen:weight\na,1\n"
    with pytest.raises(CohortError, match="no abnormality 'weight'"):
        read(tmp_path, text)
    assert read(tmp_path, text, custom="of_organs").columns[0].organ == "spleen"
    with pytest.raises(CohortError, match="mean splenomegaly"):
        read(tmp_path, "study_id,spleen:splenomegally\na,1\n", custom="of_organs")
    assert read(tmp_path, "study_id,covid\na,1\n", custom="any").columns[0].abnormality is None
    with pytest.raises(CohortError, match="mean cardiomegaly"):
        read(tmp_path, "study_id,cardiomegally\na,1\n", custom="any")


def test_classes_of_a_column_that_the_config_explains(tmp_path: Path) -> None:
    found = read(tmp_path, "study_id,grade\na,mild\nb,none\nc,\n", explained={"grade": ("none", "mild")})
    np.testing.assert_array_equal(found.values, [[1], [0], [nan]])
    with pytest.raises(CohortError, match="holds 'severe' in 1 studies, first 'a', expected none, mild"):
        read(tmp_path, "study_id,grade\na,severe\n", explained={"grade": ("none", "mild")})
