"""A PACS export: mixed DICOM of several patients in one tree becomes a table without a trace of who they are."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctglip.cohort import Cohort
from ctglip.cohorts.dicom_tree import read_tree
from ctglip.cohorts.private_ids import Masker, PrivateIds, load_key
from ctglip.cohorts.writing import CohortSummary
from ctglip.ct import dicom_headers
from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import CohortError
from tests.cli.commands import good_here, here
from tests.cohorts.builders import run, write_file, write_rows
from tests.ct.conftest import dicom_slice

UID = "1.2.826.77.4711"
SECRETS = (
    "Quexley", "Zebediah", "Wimborne", "PID-009", "PID-008", "ACC0071", "ACC0072", "ACC0099", "19570314", "20190823",
    UID, "Oberarzt", "HEIMLICH",
)  # fmt: skip
FIRST = {
    "PatientName": "Quexley^Zebediah", "PatientID": "PID-009", "AccessionNumber": "ACC0071", "StudyDate": "20190823",
    "PatientBirthDate": "19570314", "StudyInstanceUID": f"{UID}.1", "ReferringPhysicianName": "Oberarzt^X",
}  # fmt: skip
SECOND = FIRST | {
    "PatientName": "Wimborne^Q", "PatientID": "PID-008", "AccessionNumber": "ACC0072", "StudyInstanceUID": f"{UID}.2",
}  # fmt: skip


def series(
    folder: Path, study: dict[str, str], number: int, count: int, step: float = 3.0, value: int = 0, **more: Any
) -> list[Path]:
    """Slices of one value under air, named by patient and UID, some without suffix or prefix."""
    paths = []
    for k in range(count):
        pixels = np.full((8, 8), value + 1024, np.uint16)
        pixels[:2] = 24
        values = {
            "SeriesInstanceUID": f"{study['StudyInstanceUID']}.{number}", "SeriesNumber": number,
            "InstanceNumber": k + 1, "SeriesDescription": "HEIMLICH", "ImagePositionPatient": [0, 0, k * step],
        }  # fmt: skip
        data = dicom_slice(pixels, **study | values | more)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{UID}.{number}.{k}"
        name = f"{study['PatientName']}_{data.SeriesInstanceUID}.{k}" + ("" if k % 3 == 0 else ".dcm")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        if k % 4 == 3:
            path.write_bytes(path.read_bytes()[132:])
        paths.append(path)
    return paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two CT studies in one folder, a film's study, and whatever else lies in a PACS."""
    root = tmp_path / "export"
    mixed = root / "Quexley_19570314"
    series(mixed, FIRST, 2, 12, value=20, ConvolutionKernel="B30f")
    series(mixed, FIRST, 3, 12, value=30, ConvolutionKernel="B70f")
    series(mixed, FIRST, 4, 14, value=40, ImageType=["DERIVED", "SECONDARY", "MIP"])
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    for k, path in enumerate(series(mixed, FIRST, 5, 15)):
        path.unlink()
        series(mixed / "mpr", FIRST, 50, 1, InstanceNumber=k, ImagePositionPatient=[0, 3 * k, 0], **coronal)
    series(mixed, FIRST, 1, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(mixed, FIRST, 6, 1, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67")
    series(mixed, FIRST, 7, 1, Modality="PR", SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1")
    series(mixed, FIRST, 8, 2, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    late = series(mixed, SECOND, 2, 20, step=1.5, value=-70, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    series(mixed, SECOND, 3, 11, value=-60)
    late[5].write_bytes(late[5].read_bytes()[:-60])
    late[9].write_bytes(late[9].read_bytes()[:150])
    film = SECOND | {"StudyInstanceUID": f"{UID}.9", "AccessionNumber": "ACC0099"}
    series(root / "films", film, 1, 1, Modality="CR", SOPClassUID="1.2.840.10008.5.1.4.1.1.1")
    write_file(root / "Wimborne.txt", "Wimborne^Q is no DICOM")
    write_file(root / "Quexley.dcm.part", b"half")
    write_file(root / "DICOMDIR", b"x")
    return root


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    text = "Dr. Oberarzt for Zebediah QUEXLEY, 23.08.2019, ACC0071: liver is normal."
    return write_rows(
        tmp_path / "ris.csv",
        [
            {"Accession Number": "ACC0071", "Name": "Quexley", "Report": text},
            {"Accession Number": "ACC0071", "Name": "Quexley", "Report": "Addendum: small cyst."},
            {"Accession Number": "ACC0555", "Name": "Wimborne", "Report": "Nobody's."},
            {"Accession Number": "", "Name": "Wimborne", "Report": "No number."},
        ],
    )


def read(tree: Path, **settings: Any) -> tuple[Cohort, CohortSummary, Path]:
    return run("dicom", tree, tree.parent / "out", **settings)


def excluded(out: Path) -> list[dict[str, str]]:
    return pl.read_csv(out / "excluded.csv").to_dicts()


def values_of(image: Path) -> set[int]:
    return set(np.unique(read_scan(image, CtRecipe())[0].hu).tolist()) - {-1000}


def digest(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_each_study_has_its_volume_and_its_report(tree: Path, reports: Path) -> None:
    before = digest(tree)
    cohort, summary, out = read(tree, reports=str(reports))
    assert digest(tree) == before, "originals are never changed"
    (row,) = cohort.rows
    assert row.report == "Dr. ___ for ___ ___, ___, ___: liver is normal.\n\nAddendum: small cyst."
    (lacking,) = [one["item"] for one in excluded(out) if one["reason"] == "no_report"]
    assert values_of(row.image) == {20}, "the soft kernel"
    facts = " ".join(summary.facts)
    assert "1 of 2 have a study, 1 have none; 2 studies have no report" in facts
    assert "1 rows of the reports have no accession number or no text" in facts
    assert "2 studies are not in the table" in facts
    alone, summary, _ = read(tree)
    assert {one.study_id for one in alone.rows} == {row.study_id, lacking}
    assert {one.report for one in alone.rows} == {None}
    assert summary.patients == 2


def test_each_thing_left_out_is_named_by_our_ids(tree: Path) -> None:
    cohort, _, out = read(tree)
    thin, soft = sorted(cohort.rows, key=lambda row: max(values_of(row.image)))
    assert (values_of(thin.image), values_of(soft.image)) == ({-70}, {20})
    counts = {row["reason"]: 0 for row in excluded(out)}
    for row in excluded(out):
        counts[row["reason"]] += 1
    assert counts == {
        "other_series": 2, "projection": 1, "reformat": 1, "scout": 1, "secondary_capture": 1, "not_ct": 3,
        "truncated": 1, "damaged": 1, "not_dicom": 2,
    }  # fmt: skip
    other = [row["detail"] for row in excluded(out) if row["reason"] == "other_series"]
    assert any("12 slices of 3 mm, other kernel; 12 slices of 3 mm, soft kernel was chosen" in text for text in other)
    kinds = {row["detail"] for row in excluded(out) if row["reason"] == "not_ct"}
    assert kinds == {"1 files: report or dose report.", "1 files: presentation state.", "1 files: radiograph."}
    studies = {row["item"].split("/")[0] for row in excluded(out) if "/" in row["item"]}
    assert {row.study_id for row in cohort.rows} < studies, "exclusions are named by our ids"


def test_the_rule_can_be_set(tree: Path) -> None:
    cohort, _, out = read(tree, choose=["thinnest_slices"], least_slices=13)
    assert [values_of(row.image) for row in cohort.rows] == [{-70}]
    assert [row["reason"] for row in excluded(out)].count("too_few_slices") == 3
    cohort, _, out = read(tree, reconstructions="all")
    assert sorted(map(values_of, (row.image for row in cohort.rows)), key=min) == [{-70}, {-60}, {20}, {30}]
    assert len({row.study_id for row in cohort.rows}) == 4
    assert len({row.patient_id for row in cohort.rows}) == 2


def test_derived_series_are_taken_on_request(tmp_path: Path) -> None:
    root = tmp_path / "export"
    series(root, FIRST, 2, 12, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    with pytest.raises(CohortError, match="no study is left") as caught:
        read(root)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert len(read(root, derived="allow")[0].rows) == 1


def test_the_same_key_gives_the_same_ids(tree: Path, tmp_path: Path) -> None:
    first = read(tree)[0]
    key = tmp_path / "out.private" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.rows[0].image.stat().st_mode) == 0o700
    again = run("dicom", tree, tmp_path / "elsewhere", key=str(key))[0]
    assert [(row.study_id, row.patient_id) for row in again.rows] == [
        (row.study_id, row.patient_id) for row in first.rows
    ]
    other = run("dicom", tree, tmp_path / "third", key=str(tmp_path / "other.key"))[0]
    assert not {row.study_id for row in other.rows} & {row.study_id for row in first.rows}
    assert PrivateIds(b"k" * 32).make("patient", "1") != PrivateIds(b"k" * 32).make("study", "1")


@pytest.mark.parametrize("place", ["out/key", "out/deep/key", "export/key"])
def test_a_key_inside_the_output_or_the_export_is_refused(tree: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(CohortError) as caught:
        read(tree, key=str(tmp_path / place))
    assert caught.value.code == "key_place"
    assert not (tmp_path / place).exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(CohortError, match="inside the folder to write"):
        read(tree, key=str(tmp_path / "link" / "key"))


def test_a_weak_or_open_key_is_refused(tmp_path: Path) -> None:
    key = write_file(tmp_path / "key", "k" * 40)
    key.chmod(0o644)
    with pytest.raises(CohortError, match="Others may read"):
        load_key(key)
    key.chmod(0o600)
    assert load_key(key) == b"k" * 40
    key.write_text("short")
    with pytest.raises(CohortError, match="has 5 bytes"):
        load_key(key)


def test_nothing_of_the_patients_comes_out(tree: Path, reports: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    out = tree.parent / "out"
    done = good_here("cohort", "dicom", tree, out, "--reports", reports)
    json = good_here("cohort", "dicom", tree, out, "--reports", reports, "--json", "--parquet")
    heads = write_rows(tree.parent / "bare.csv", [{"ACC0071": "ACC0072", "Quexley": "Wimborne"}])
    failed = here("cohort", "dicom", tree, out, "--reports", heads)
    assert failed.code == 2
    assert "has no column 'accession'" in failed.err
    said = done.out + done.err + json.out + json.err + failed.out + failed.err + caplog.text
    for path in sorted(out.rglob("*")):
        assert not path.is_symlink()
        said += str(path.relative_to(out))
        if path.suffix == ".parquet":
            said += str(pl.read_parquet(path).to_dicts())
        elif path.is_file():
            said += path.read_text(encoding="utf-8")
    assert "liver is normal" in said
    assert not [secret for secret in SECRETS if secret.lower() in said.lower()]
    found = subprocess.run(["grep", "-rilaE", "|".join(SECRETS), out], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_an_accession_number_of_two_patients_gives_nobody_a_report(tmp_path: Path) -> None:
    root = tmp_path / "export"
    series(root, FIRST, 2, 12)
    series(root, SECOND | {"AccessionNumber": "ACC0071"}, 2, 12)
    table = write_rows(tmp_path / "r.csv", [{"id": "ACC0071", "findings": "A", "conclusion": "B"}])
    with pytest.raises(CohortError, match="2 of 2 excluded by no_report"):
        read(root, reports=str(table), columns={"accession": "id"})
    series(root, SECOND | {"AccessionNumber": "ACC0099", "StudyInstanceUID": f"{UID}.7"}, 2, 12)
    table.write_text("id,findings,conclusion\nACC0071,A,B\nACC0099,F,I\n")
    cohort, summary, _ = read(root, reports=str(table), columns={"accession": "id"})
    assert [(row.findings, row.impression) for row in cohort.rows] == [("F", "I")]
    assert "1 accession numbers are of several patients" in " ".join(summary.facts)


@pytest.mark.parametrize(
    ("table", "columns", "code", "named"),
    [
        ("ACC0071,PID-009\nACC0072,Wimborne\n", {}, "missing_column", "'accession'"),
        ("accession,Quexley\nACC0072,Wimborne\n", {}, "missing_column", "'report'"),
        ("accession,report\nACC0072,x\n", {"report": "bericht"}, "missing_column", "'bericht'"),
        ("Quexley,Quexley\nACC0072,Wimborne\n", {}, "repeated_column", "headings"),
        ("accession,report\nACC0072,a,b\n", {}, "bad_table", "line 2 has 3"),
        (None, {}, "no_table", "There is no table"),
    ],
)
def test_a_wrong_table_of_reports_is_named_without_its_words(
    tmp_path: Path, table: str | None, columns: dict[str, str], code: str, named: str
) -> None:
    series(tmp_path / "export", FIRST, 2, 12)
    path = tmp_path / "r.csv"
    if table is not None:
        path.write_text(table)
    with pytest.raises(CohortError) as caught:
        read(tmp_path / "export", reports=str(path), columns=columns)
    assert caught.value.code == code
    assert named in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_phases_of_one_study_are_two_series(tmp_path: Path) -> None:
    root = tmp_path / "export"
    series(root, FIRST, 2, 12, value=10, ContrastBolusAgent="x")
    series(root, FIRST, 3, 16, value=90, ContrastBolusAgent="x")
    series(root, FIRST, 4, 2, value=5)
    cohort, _, out = read(root)
    assert [values_of(row.image) for row in cohort.rows] == [{90}]
    assert sorted(row["reason"] for row in excluded(out)) == ["other_series", "too_few_slices"]


def test_phases_are_written_where_they_are_known_and_can_be_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "export"
    said = {2: "Abdomen nativ", 3: "ABD_arterial 3.0", 4: "portal venous phase", 5: "HEIMLICH", 6: "native"}
    for number, words in said.items():
        agent = {} if number == 2 else {"ContrastBolusAgent": "x"}
        series(root, FIRST, number, 10 + number, value=10 * number, SeriesDescription=words, **agent)

    def phases(**settings: Any) -> dict[int, str | None]:
        cohort = read(root, **settings)[0]
        return {max(values_of(row.image)): row.phase for row in cohort.rows}

    assert phases(reconstructions="all") == {20: "native", 30: "arterial", 40: "portal_venous", 50: None, 60: None}
    assert phases() == {60: None}, "most slices; native with an agent is not believed"
    assert phases(phases=["arterial", "native"]) == {30: "arterial"}
    assert phases(phases=["venous", "native"]) == {20: "native"}
    assert phases(phases=["delayed"]) == {60: None}
    details = " ".join(row["detail"] for row in excluded(tmp_path / "out") if row["reason"] == "other_series")
    assert "portal venous phase" in details
    assert "Abdomen" not in details
    assert "chosen by phases, most_slices" in details


def test_images_without_a_place_or_all_damaged_are_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "export"
    series(root, FIRST, 2, 12)
    series(root, FIRST, 3, 12, ImagePositionPatient=[])
    series(root, SECOND, 4, 12)
    whole = dicom_headers.read_dicom

    def damaged(path: Path, *rest: Any, **more: Any) -> Any:
        if "Wimborne" in path.name:
            raise ValueError(path.name)
        return whole(path, *rest, **more)

    monkeypatch.setattr(dicom_headers, "read_dicom", damaged)
    cohort, _, out = read(root)
    assert len(cohort.rows) == 1
    assert sorted(row["reason"] for row in excluded(out)) == ["damaged", "no_geometry"]


def test_studies_without_a_patient_are_patients_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "export"
    series(root, FIRST | {"PatientID": ""}, 2, 12)
    series(root, SECOND | {"PatientID": ""}, 2, 12)
    cohort, summary, _ = read(root)
    assert summary.patients == 2
    assert "2 studies name no patient" in " ".join(summary.facts)
    assert len(cohort.rows) == 2


def test_files_without_uids_are_a_study_by_folder(tmp_path: Path) -> None:
    root = tmp_path / "export"
    bare = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID"), "")
    for place, value in (("one", 10), ("two", 50)):
        series(root / place, FIRST, 2, 12, value=value, **bare)
    cohort, summary, _ = read(root)
    assert sorted(map(values_of, (row.image for row in cohort.rows)), key=min) == [{10}, {50}]
    assert summary.patients == 2
    assert "2 studies have no UID" in " ".join(summary.facts)


def test_where_no_links_can_be_made_the_error_names_no_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(tmp_path / "export", FIRST, 2, 12)

    def refuse(self: Path, target: Path, *_: Any) -> None:
        raise OSError(1, "Operation not permitted", str(target), None, str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(CohortError, match="Operation not permitted") as caught:
        read(tmp_path / "export")
    assert caught.value.code == "no_links"
    assert caught.value.__suppress_context__, "a traceback would name the file"
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert list((tmp_path / "out.private" / "key.series").iterdir()) == []


def test_names_of_files_need_not_be_text(tmp_path: Path) -> None:
    first, *_ = series(tmp_path / "export", FIRST, 2, 12)
    write_file(Path(os.fsdecode(os.fsencode(first.parent) + b"/M\xfcller")), "no DICOM")
    _, _, out = read(tmp_path / "export")
    assert [row["reason"] for row in excluded(out)] == ["not_dicom"]


def test_files_that_cannot_be_opened_are_named_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *others), opened = series(tmp_path / "export", FIRST, 2, 12), Path.open

    def refuse(self: Path, *rest: Any, **more: Any) -> Any:
        if self == first:
            raise PermissionError(13, "no", str(self))
        return opened(self, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    found = read_tree(tmp_path / "export")
    assert found.unusable == {first: "damaged"}
    (study,) = found.studies.values()
    assert sorted(study.series[f"{UID}.1.2"].images) == sorted(others)


def test_masking_takes_whole_words_alone() -> None:
    mask = Masker(["ACC12"], ["Small^Bo"], ["20240305"])
    assert mask("SMALL, smaller; ACC12 ACC123; 5.3.2024 2024-03-05 03/05/24 5.3.20245") == (
        "___, smaller; ___ ACC123; ___ ___ ___ 5.3.20245", 5,
    )  # fmt: skip
    assert Masker([], [], ["odd"])("odd") == ("odd", 0)
