"""Both real series, mixed into one folder as a PACS exports them: each row reads exactly its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohorts.private_ids import PrivateIds, load_key
from ctglip.config import load_settings
from ctglip.ct.dicom_headers import read_dicom
from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from tests.cohorts.builders import run, write_rows

SERIES = ("patient_b_dicom", "patient_d_chest_v1")


def test_two_real_series_of_one_folder(real_data: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "export", tmp_path / "out"
    root.mkdir()
    expected, secrets, rows = {}, set(), []
    folders = [real_data / "ct" / name / "dicom" for name in SERIES]
    key = tmp_path / "site.key"
    ids = PrivateIds(load_key(key))
    for folder in folders:
        files = sorted(folder.iterdir())
        for file in files:
            (root / file.name.replace(".dcm", "")).symlink_to(file)
        header = read_dicom(files[0], stop_before_pixels=True)
        names = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber", "PatientName")
        study, series, patient, *_ = values = [str(header.get(name, "")).strip() for name in names]
        uid = study or series or "."
        expected[ids.make("study", patient, uid)] = folder
        secrets |= {value for value in (*values, *(file.name for file in files)) if len(value) > 4}
        if number := values[3]:
            rows.append({"accession": number, "report": f"Normal. {number}"})
    table = write_rows(tmp_path / "r.csv", rows)
    _, summary, _ = run("dicom", root, out / "with_reports", key=str(key), reports=str(table))
    assert (summary.studies, summary.with_report) == (len(rows), len(rows))
    cohort, _, _ = run("dicom", root, out, key=str(key))
    assert {row.study_id for row in cohort.rows} == set(expected)
    for row in cohort.rows:
        own, _ = read_scan(expected[row.study_id], CtRecipe())
        scan, checks = read_scan(row.image, CtRecipe())
        assert np.array_equal(scan.hu, own.hu)
        assert np.array_equal(scan.affine, own.affine)
        assert "several_series" not in {check.code for check in checks}
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm")
    done = preprocess_cohort(cohort, out / "store", config)
    assert [failure.message for failure in done.failed] == []
    said = b"".join(
        path.read_bytes() + str(path.relative_to(out)).encode() for path in out.rglob("*") if path.is_file()
    )
    assert len(secrets) > 40
    assert not [secret for secret in secrets if secret.encode() in said]
