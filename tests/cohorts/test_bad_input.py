"""Every table of every set removed, with other headings, empty or cut off: one line says which, nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import CohortSummary, write_cohort
from ctglip.errors import CTGLIPError
from tests.cli.commands import here
from tests.cohorts.miniatures_ct import CT_MINIATURES
from tests.cohorts.miniatures_cxr import CXR_MINIATURES
from tests.cohorts.patients import phantom_patients

MINIATURES = CT_MINIATURES | CXR_MINIATURES
TABLES = (".csv", ".tsv", ".xlsx", ".json", ".txt")
TABLELESS = ("abdomen_atlas", "lidc_idri", "nlst", "dicom")
"""Sets without a table of their own below the folder; a PACS export's reports have tests of their own."""
DONE_WITHOUT = {
    "cohort_0.2.0_master_file_anon.csv": "No table names the patient",
    "MS_CXR_Local_Alignment_v1.1.0.csv": "There is no MS_CXR*.csv",
    "merlin_report_organ_report_v1.json": None,
    "TBX11K_train.json": None,
    "TBX11K_trainval.json": None,
}
"""Tables that not every copy of a set has, and the fact that says what is left out; one of two JSON is enough."""
FREE = ("IID_train.csv", "IID_test.csv")
"""Lists of one column, which may have a heading or none."""
MAY_BE_EMPTY = ("no_chest_train.txt", "no_chest_valid.txt")


class Copy:
    """One miniature, whose tables are spoiled one after the other."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.root, self.out = name, folder / "data", folder / "out"
        self.settings = MINIATURES[name](self.root, phantom_patients()) or {}
        self.tables = [
            path for path in sorted(self.root.rglob("*"))
            if path.suffix in TABLES and "SceneGraph" not in path.name and not path.name.endswith(".nii.gz")
        ]  # fmt: skip

    def read(self) -> CohortSummary:
        return write_cohort(cohort_reader(self.name), self.root, self.out, self.settings)

    def refused(self, table: Path, *words: str) -> None:
        """The error is one line that names the file; no table was written."""
        with pytest.raises(CTGLIPError) as caught:
            self.read()
        message = str(caught.value)
        assert "\n" not in message
        assert table.name in message or table.name.split("_")[0] in message, message
        assert any(word in message for word in words), message
        assert not self.out.exists(), "nothing is written"


def spoiled(table: Path, content: bytes | None, check: Callable[[], None]) -> None:
    """A check with another content of a table (None: without it), which is put back."""
    before = table.read_bytes()
    try:
        table.unlink() if content is None else table.write_bytes(content)
        check()
    finally:
        table.write_bytes(before)


def with_other_headings(table: Path) -> bytes:
    head, _, rest = table.read_bytes().decode().partition("\n")
    mark = max(",;\t", key=head.count)
    return "\n".join((mark.join(f"X{cell}" for cell in head.replace('"', "").split(mark)), rest)).encode()


@pytest.mark.parametrize("name", sorted(set(MINIATURES) - {*TABLELESS}))
def test_spoiled_tables_are_named_in_one_line(name: str, tmp_path: Path) -> None:
    copy = Copy(name, tmp_path)
    assert copy.tables
    for table in copy.tables:
        if table.name in DONE_WITHOUT and name != "ms_cxr":
            continue
        for content, words in spoilings(table):
            spoiled(table, content, lambda table=table, words=words: copy.refused(table, *words))
    assert copy.read().studies >= 10, "all was put back"


def spoilings(table: Path) -> Iterator[tuple[bytes | None, tuple[str, ...]]]:
    """Other contents of a table, each with words of which one is in the error."""
    whole = table.read_bytes()
    yield None, ("the tables that are there", "has no", "has none of")
    if table.name not in MAY_BE_EMPTY:
        yield b"", ("is empty", "cannot be read")
    if table.suffix in (".csv", ".tsv") and table.name not in FREE:
        yield with_other_headings(table), ("has no column", "have no column", "has neither")
        rows, last = whole.rstrip(b"\r\n").rsplit(b"\n", 1)
        heading = whole.split(b"\n")[0]
        mark = max((b",", b";", b"\t"), key=heading.count)
        yield rows + b"\n" + last.split(mark)[0], ("ends in the middle of a line",)
        yield heading + b"\n", ("no row", "is left")
    if table.suffix == ".json":
        yield whole[: len(whole) // 2], ("cannot be read as JSON",)


@pytest.mark.parametrize("name", sorted(set(MINIATURES) - {*TABLELESS}))
def test_a_table_may_be_done_without_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    """Tables that the set comes with can be done without; facts say what is lacking where not every copy has it."""
    copy = Copy(name, tmp_path)
    expected = cohort_reader(name).expects(cohort_reader(name).Settings.model_validate(copy.settings))
    copy.settings |= {"lacking": "allow"}
    for table in copy.tables:
        if any(table.name in (Path(one).name for one in names) for names in expected):
            spoiled(table, None, lambda: copy.read() and None)
        elif table.name in DONE_WITHOUT and name != "ms_cxr":
            fact = DONE_WITHOUT[table.name]

            def check(fact: str | None = fact) -> None:
                facts = copy.read().facts
                assert fact is None or any(fact in one for one in facts)

            spoiled(table, None, check)


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_another_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """The folder of another set: nothing of it is taken for this one."""
    other = "openi" if name != "openi" else "jsrt"
    copy = Copy(other, tmp_path)
    out = tmp_path / "wrong"
    settings = {} if name != "dicom" else {"key": str(tmp_path / "key")}
    with pytest.raises(CTGLIPError) as caught:
        write_cohort(cohort_reader(name), copy.root, out, settings)
    assert "\n" not in str(caught.value)
    assert str(copy.root) in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(("typed", "meant"), [("ct_rat", "ct_rate"), ("merlyn", "merlin"), ("vindr", "vindr_cxr"),
                                              ("CT-RATE", "ct_rate"), ("chexprt", "chexpert")])  # fmt: skip
def test_a_name_with_a_slip_is_answered_by_the_nearest(typed: str, meant: str, tmp_path: Path) -> None:
    outcome = here("cohort", typed, tmp_path, tmp_path / "out")
    assert outcome.code == 2
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith(f"ctglip: There is no reader {typed!r}.")
    assert meant in line
    assert not (tmp_path / "out").exists()


def test_the_command_says_it_in_one_line_too(tmp_path: Path) -> None:
    copy = Copy("ct_rate", tmp_path)
    table = copy.root / "radiology_text_reports/train_reports.csv"
    table.rename(table.with_name("reports_of_training.csv"))
    outcome = here("cohort", "ct_rate", copy.root, copy.out)
    assert outcome.code == 2
    (line,) = outcome.err.strip().splitlines()
    assert "has no table radiology_text_reports/train_reports.csv" in line
    assert "radiology_text_reports/reports_of_training.csv" in line, "what was found is named"
    assert "lacking=allow" in line
    allowed = json.loads(here("cohort", "ct_rate", copy.root, copy.out, "--set", "lacking=allow", "--json").out)
    assert allowed["with_report"] == 2
