"""Tables in the forms that people hand in, and the faults that would make wrong values of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from ctglip.errors import CohortError
from ctglip.table_files import no_formulas, read_table

ROWS = [{"study_id": "00123", "Größe": "1,5", "note": "a, b"}, {"study_id": "7", "Größe": None, "note": "c"}]
COMMA = 'study_id,Größe,note\n00123,"1,5","a, b"\n7,,c\n'
SEMICOLON = "study_id;Größe;note\n00123;1,5;a, b\n7;;c\n"
TAB = SEMICOLON.replace(";", "\t")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("text", [COMMA, SEMICOLON, TAB, SEMICOLON.replace("\n", "\r\n"), COMMA.replace("\n", "\r")])
def test_separators_line_ends_and_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    assert read_table(path).to_dicts() == ROWS
    path.write_bytes(gzip.compress(text.encode(encoding)))
    assert read_table(path).to_dicts() == ROWS


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    pl.DataFrame(ROWS).write_parquet(tmp_path / "table.csv")
    assert read_table(tmp_path / "table.csv").to_dicts() == ROWS


def test_ids_of_parquet_stay_as_they_are(tmp_path: Path) -> None:
    frame = pl.DataFrame({"study_id": [1, 20], "a": [1.0, None], "b": [True, False]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").rows() == [("1", "1.0", "true"), ("20", None, "false")]
    frame.with_columns(pl.col("study_id").cast(pl.Float64)).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(CohortError, match="decimal numbers"):
        read_table(tmp_path / "t.parquet")


def test_blank_lines_and_separators_at_the_ends_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\nstudy_id,a,,\n1,0,,\n,,,\n2,1,,\n")
    assert read_table(tmp_path / "t.csv").rows() == [("1", "0"), ("2", "1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,a,a\n1,0,1\n", "heading 'a' stands in several columns"),
        ("study_id,a, a \n1,0,1\n", "heading 'a' stands in several columns"),
        ("study_id,a,b\n1,0,1\n2,0\n", "3 columns, but line 3 has 2"),
        ("study_id,a\n1,0\n2,0,1\n", "2 columns, but line 3 has 3"),
        ('study_id,a\n1,"0\n2,1\n', "cannot be read as a table"),
        ("", "is empty"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_table(tmp_path / "t.csv")


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    for name, content in (("a.parquet", b"PAR1broken"), ("b.csv", bytes(range(256)) * 9), ("c.gz", b"\x1f\x8bxx")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CohortError, match=name):
            read_table(tmp_path / name)
    with pytest.raises(CohortError, match="no table"):
        read_table(tmp_path)


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", '=HYPERLINK("http://x")', "- no effusion"]


def test_no_cell_is_a_formula_and_each_is_read_as_it_was(tmp_path: Path) -> None:
    plain = ["liver", "'quoted'", "-3.5", "+2", "1e-3", "a=b", "x-y"]
    texts = [*FORMULAS, *plain]
    table = pl.DataFrame({"study_id": [f"s{n}" for n in range(len(texts))], "text": texts, "number": range(len(texts))})
    no_formulas(table).write_csv(tmp_path / "a.csv")
    written = pl.read_csv(tmp_path / "a.csv", schema_overrides={"text": pl.String})["text"].to_list()
    assert written == [*(f"'{text}" for text in FORMULAS), *plain]
    assert read_table(tmp_path / "a.csv")["text"].to_list() == texts
