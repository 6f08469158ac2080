"""Workbooks: ids as text, whole numbers without a point, the sheet that is meant. Needs the extra ``excel``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ctglip.errors import CohortError
from ctglip.table_files import read_table

TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml"
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>{}</Types>"""
SHEET_TYPE = """<Override PartName="/xl/worksheets/sheet{}.xml"
ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>"""
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONS = '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    """A minimal .xlsx: strings inline, numbers as numbers, truth values as truth values."""
    numbers = range(1, len(sheets) + 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", TYPES.format("".join(SHEET_TYPE.format(n) for n in numbers)))
        archive.writestr(
            "_rels/.rels",
            f'{RELATIONS}<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
            "</Relationships>",
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            RELATIONS
            + "".join(
                f'<Relationship Id="r{n}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in numbers
            )
            + "</Relationships>",
        )
        listed = "".join(
            f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in zip(numbers, sheets, strict=True)
        )
        archive.writestr("xl/workbook.xml", f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>')
        for number, rows in zip(numbers, sheets.values(), strict=True):
            body = "".join(
                f'<row r="{y}">{"".join(cell(value, x, y) for x, value in enumerate(row))}</row>'
                for y, row in enumerate(rows, start=1)
            )
            archive.writestr(
                f"xl/worksheets/sheet{number}.xml", f"<worksheet {MAIN}><sheetData>{body}</sheetData></worksheet>"
            )
    return path


def cell(value: object, x: int, y: int) -> str:
    address = f'r="{"ABCDEFG"[x]}{y}"'
    if value is None:
        return ""
    if isinstance(value, str):
        return f'<c {address} t="inlineStr"><is><t>{value}</t></is></c>'
    if isinstance(value, bool):
        return f'<c {address} t="b"><v>{int(value)}</v></c>'
    return f"<c {address}><v>{value}</v></c>"


ROWS: list[list[object]] = [
    ["study_id", "liver_cyst", "ascites"],
    ["00123", 1, True],
    [124, None, False],
    ["x", 0.5, None],
]


def test_cells_as_they_are_meant(tmp_path: Path) -> None:
    table = read_table(workbook(tmp_path / "t.xlsx", {"Sheet1": ROWS}))
    assert table.columns == ["study_id", "liver_cyst", "ascites"]
    assert table.rows() == [("00123", "1", "True"), ("124", None, "False"), ("x", "0.5", None)]


def test_the_sheet_with_ids_is_read_and_two_are_refused(tmp_path: Path) -> None:
    notes: list[list[object]] = [["Read by two of us"], ["2024"]]
    assert read_table(workbook(tmp_path / "t.xlsx", {"notes": notes, "labels": ROWS})).height == 3
    with pytest.raises(CohortError, match="'a', 'b' have a column 'study_id'"):
        read_table(workbook(tmp_path / "t.xlsx", {"a": ROWS, "b": ROWS}))


def test_a_broken_workbook_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04" + b"x" * 100)
    with pytest.raises(CohortError, match=r"t\.xlsx cannot be read as a workbook"):
        read_table(tmp_path / "t.xlsx")
