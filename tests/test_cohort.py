from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctglip.cohort import read_cohort
from ctglip.errors import CohortError


def table(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_ids_stay_strings_and_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    path = table(tmp_path, "study_id,patient_id,image,masks,age,split\n00123,007,a/ct.nii.gz,,61.5,test\n")
    (row,) = read_cohort(path).rows
    assert (row.study_id, row.patient_id) == ("00123", "007")
    assert row.image == tmp_path / "a" / "ct.nii.gz"
    assert row.masks is None
    assert (row.age, row.split) == (61.5, "test")


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    frame = pl.DataFrame({"study_id": ["1"], "patient_id": ["p"], "image": ["x.nii"], "age": [40]})
    frame.write_parquet(tmp_path / "cohort.parquet")
    frame.write_csv(tmp_path / "cohort.csv")
    assert list(read_cohort(tmp_path / "cohort.parquet").rows) == list(read_cohort(tmp_path / "cohort.csv").rows)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("../../x,p,a.nii", "bad_id"),
        (".hidden,p,a.nii", "bad_id"),
        ("a/b,p,a.nii", "bad_id"),
        (",p,a.nii", "missing_id"),
        ("s2,,a.nii", "missing_id"),
        ("s2,p,", "missing_image"),
        ("twice,p,a.nii\ntwice,q,b.nii", "duplicate_id"),
    ],
)
def test_a_bad_row_is_a_row_and_the_others_stay(tmp_path: Path, line: str, code: str) -> None:
    cohort = read_cohort(table(tmp_path, f"study_id,patient_id,image\ngood,p,a.nii\n{line}\n"))
    assert [row.study_id for row in cohort.rows] == ["good"]
    assert {failure.code for failure in cohort.bad} == {code}
    assert len(cohort.bad) == line.count("\n") + 1


def test_a_bad_cell_names_column_and_value(tmp_path: Path) -> None:
    cohort = read_cohort(
        table(tmp_path, "study_id,patient_id,image,age,split\ns1,p,a.nii,old,train\ns2,p,a.nii,3,dev\n")
    )
    assert [failure.code for failure in cohort.bad] == ["bad_cell", "bad_split"]
    assert "'age'" in cohort.bad[0].message
    assert "'old'" in cohort.bad[0].message


def test_a_missing_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no column 'image'; it has study_id, patient_id, scan"):
        read_cohort(table(tmp_path, "study_id,patient_id,scan\n1,2,3\n"))


def test_a_column_map_reads_other_headings(tmp_path: Path) -> None:
    columns = table(tmp_path, "study_id: AccessionNo\npatient_id: PatientID\nimage: path\n", "columns.yaml")
    cohort = read_cohort(table(tmp_path, "AccessionNo,PatientID,path\n01,9,x.nii\n"), columns)
    assert cohort.rows[0].study_id == "01"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad"])
def test_an_unreadable_table_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    with pytest.raises(CohortError):
        read_cohort(path)


def test_rows_are_a_sequence(tmp_path: Path) -> None:
    rows = read_cohort(table(tmp_path, "study_id,patient_id,image\na,p,x\nb,p,y\n")).rows
    assert [row.study_id for row in rows] == [row.study_id for row in rows] == ["a", "b"]
    assert (rows[-1], rows[::-1]) == (rows[1], (rows[1], rows[0]))
    assert rows.index(rows[1]) == 1
    for index in (2, -3):
        with pytest.raises(IndexError):
            rows[index]
