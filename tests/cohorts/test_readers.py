"""What holds for every reader: its card, its names, what becomes of errors, and the command's list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from ctglip.cohort import read_cohort
from ctglip.cohorts.base import CohortReader, CohortTables, Exclusion
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.registry import READERS, cohort_names, cohort_reader
from ctglip.cohorts.writing import read_cohort_tables, write_cohort
from ctglip.errors import CohortError
from ctglip.resources import resource
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.cli.commands import good_here, here
from tests.cohorts.builders import run, write_file
from tests.cohorts.miniatures_ct import CT_MINIATURES
from tests.cohorts.miniatures_cxr import CXR_MINIATURES, nih_chestxray14
from tests.cohorts.patients import phantom_patients

TESTS = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", cohort_names())
def test_every_reader_has_a_card_and_a_miniature(name: str) -> None:
    card = cohort_reader(name).card
    assert card.title
    assert card.source
    assert card.licence
    assert card.size
    assert f'"{name}"' in TESTS, "no test writes its layout"


@pytest.mark.parametrize("name", cohort_names())
def test_every_reader_has_a_page_that_says_what_to_type(name: str) -> None:
    page = (resource("docs", "cohorts") / f"{name}.md").read_text(encoding="utf-8")
    card = cohort_reader(name).card
    assert f"ctglip cohort {name} " in page
    assert card.title in page
    assert f"({name}.md)" in (resource("docs", "cohorts") / "README.md").read_text(encoding="utf-8")
    for key in (*cohort_reader(name).Settings.model_fields,):
        assert f"`{key}`" in page or f"{key}=" in page or key in ("leaks", "missing", "lacking"), (
            f"the page does not name {key}"
        )


@pytest.mark.parametrize("name", sorted(READERS))
def test_data_beside_readers_names_what_the_dictionaries_know(name: str) -> None:
    data, abnormalities, organs = READERS[name]().data, load_abnormalities(), load_organs()
    for label in data.labels:
        organ, _, abnormality = label.rpartition(":")
        assert abnormality in abnormalities
        assert not organ or organ in organs
    assert [value for value in data.findings.values() if value is not None and value not in abnormalities] == []
    assert [value for value in data.organs.values() if value is not None and value not in organs] == []
    columns = [column for label in data.labels for column in data.columns_of(label)]
    assert not set(columns) & set(data.lost), "a column is either ours or lost"


@pytest.mark.parametrize("name", [name for name in cohort_names() if name != "m3d_cap"])
def test_an_empty_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError) as caught:
        run(name, tmp_path / "empty", tmp_path / "out")
    assert caught.value.code in ("no_images", "no_table")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "empty") in str(caught.value)
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_the_list_of_the_command(tmp_path: Path) -> None:
    cards = json.loads(good_here("cohort", "--list", "--json").out)
    assert sorted(cards) == cohort_names()
    assert cards["ct_rate"]["brings"] == ["scans", "report", "labels", "masks", "splits"]
    assert cards["ct_rate"]["settings"]["reconstructions"] == "one"
    assert "CT-RATE (ct): scans, report, labels, masks, splits" in good_here("cohort", "--list").out
    wrong = here("cohort", "ct_rat", tmp_path, tmp_path / "out")
    assert wrong.code == 2
    assert "ct_rate" in wrong.err
    lacking = here("cohort", "ct_rate")
    assert lacking.code == 2
    assert "ctglip cohort NAME ROOT OUT" in lacking.err
    gone = here("cohort", "ct_rate", tmp_path / "nowhere", tmp_path / "out")
    assert gone.code == 2
    assert "There is no folder" in gone.err


class Toy(CohortReader):
    name = "toy"

    @property
    def card(self):
        return cohort_reader("openi").card

    def expects(self, settings: object) -> tuple[tuple[str, ...], ...]:
        return ()

    def read(self, disk: Disk, settings: object) -> CohortTables:
        rows = [{"study_id": name, "patient_id": name, "image": f"{name}.png"} for name in ("a", "b", "a b", "a")]
        return CohortTables(rows=rows[: 4 if disk.has("twice") else 3])


def test_what_every_reader_goes_through(tmp_path: Path) -> None:
    write_file(tmp_path / "a.png")
    write_file(tmp_path / "c.png.part")
    tables = read_cohort_tables(Toy(), tmp_path)
    assert [row["study_id"] for row in tables.rows] == ["a"]
    assert [(one.item, one.reason) for one in tables.excluded] == [
        ("c.png.part", "download_unfinished"), ("b", "image_missing"), ("a b", "bad_id"),
    ]  # fmt: skip
    assert isinstance(tables.excluded[0], Exclusion)
    with pytest.raises(CohortError, match=r"1 of 3 images that the tables name are not there, first b\.png") as caught:
        read_cohort_tables(Toy(), tmp_path, Toy.Settings(missing="refuse"))
    assert caught.value.code == "missing_images"
    write_file(tmp_path / "twice")
    with pytest.raises(CohortError, match="1 studies stand in several rows, first 'a'"):
        read_cohort_tables(Toy(), tmp_path)


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_file(tmp_path / "real" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "root")
    assert Disk(tmp_path / "root").paths("a.png") == ["link/a.png"]


def test_tables_as_parquet_keep_ids_as_text(tmp_path: Path) -> None:
    """Ids of digits stay what they are, and the table is read as the CSV is."""
    nih_chestxray14(tmp_path / "data", phantom_patients())
    for option, name in (("--parquet", "parquet"), ("--json", "csv")):
        done = here("cohort", "nih_chestxray14", tmp_path / "data", tmp_path / name, option)
        assert done.code == 0, done.err
    assert not list((tmp_path / "parquet").glob("cohort.csv"))
    table = pl.read_parquet(tmp_path / "parquet" / "cohort.parquet")
    assert table.schema["study_id"] == table.schema["patient_id"] == pl.String
    assert table["patient_id"][0] == "00000001"
    one, other = (read_cohort(tmp_path / kind / f"cohort.{kind}") for kind in ("parquet", "csv"))
    assert list(one.rows) == list(other.rows)
    labels = pl.read_parquet(tmp_path / "parquet" / "labels.parquet")
    assert labels["study_id"].to_list() == [row.study_id for row in one.rows]
    assert labels.schema["study_id"] == pl.String


@pytest.mark.parametrize("name", sorted({*CT_MINIATURES, *CXR_MINIATURES}))
def test_ids_that_are_uids_are_the_sets_own_and_its_page_says_so(name: str, tmp_path: Path) -> None:
    settings = {**CT_MINIATURES, **CXR_MINIATURES}[name](tmp_path / "data", phantom_patients(6)) or {}
    write_cohort(cohort_reader(name), tmp_path / "data", tmp_path / "out", settings)
    rows = read_cohort(tmp_path / "out" / "cohort.csv").rows
    uids = [one for row in rows for one in (row.study_id, row.patient_id) if re.fullmatch(r"\d+(?:\.\d+){3,}", one)]
    page = (resource("docs", "cohorts") / f"{name}.md").read_text(encoding="utf-8")
    assert bool(uids) is ("the set's own key" in page)
    assert not (uids and name == "dicom")
