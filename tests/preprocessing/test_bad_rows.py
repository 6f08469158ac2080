"""One bad row is one failed row, whatever is wrong with it: the others are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from tests.preprocessing.conftest import Rows, write_table

CONFIG = load_settings(PreprocessConfig, None, ["ct.spacing_mm=[4,4,6]", "ct.segmentation=null"])


def failures(table: Path, store: Path) -> dict[str, str]:
    summary = preprocess_cohort(read_cohort(table), store, CONFIG)
    assert summary.written == 1, "the sound row is there"
    return {failure.study_id: failure.code for failure in summary.failed}


def bad_rows(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """Names of studies -> what is wrong in their row, and the code of the failure."""
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "loop.nii.gz").symlink_to(folder / "loop.nii.gz")
    odd = folder / os.fsdecode(b"odd\xff.nii.gz")
    odd.write_bytes(b"nothing")
    return {
        "nul": ({"image": "a\0b.nii.gz"}, "bad_cell"),
        "long": ({"image": "a" * 300 + ".nii.gz"}, "unreadable"),
        "longer": ({"image": "/".join(["a" * 200] * 40)}, "unreadable"),
        "long_masks": ({"masks": "a" * 300}, "unreadable"),
        "long_report": ({"report_path": "a" * 300}, "unreadable"),
        "pipe": ({"image": "pipe.nii.gz"}, "unreadable"),
        "loop": ({"image": "loop.nii.gz"}, "no_file"),
        "device": ({"image": "/dev/zero"}, "unreadable"),
        "nowhere": ({"image": ""}, "missing_image"),
        "report_nul": ({"report": "Liver\0normal."}, "bad_cell"),
        "file_as_folder": ({"image": "ct00000.nii.gz/inner.nii.gz"}, "no_file"),
    }


def test_each_bad_row_is_one_failure(make_cohort: Callable[..., tuple[Path, Rows]], tmp_path: Path) -> None:
    _, rows = make_cohort(1)
    bad = bad_rows(tmp_path)
    for name, (cells, _) in bad.items():
        rows.append(rows[0] | {"study_id": name, "patient_id": name, "report_path": ""} | cells)
    table = write_table(tmp_path / "cohort.csv", rows)
    assert failures(table, tmp_path / "store") == {name: code for name, (_, code) in bad.items()}


@pytest.mark.parametrize("name", ["is_dir", "exists", "stat"])
def test_a_folder_without_rights(
    name: str, make_cohort: Callable[..., tuple[Path, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = make_cohort(1)
    rows.append(rows[0] | {"study_id": "closed", "patient_id": "q", "image": "closed/ct.nii.gz"})
    table = write_table(tmp_path / "cohort.csv", rows)
    plain = getattr(Path, name)

    def denied(path: Path, *args: object, **options: object) -> object:
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *args, **options)

    monkeypatch.setattr(Path, name, denied)
    code = failures(table, tmp_path / "store")
    assert code.keys() == {"closed"}
    assert code["closed"] in ("unreadable", "no_file")


def test_names_that_are_no_text_are_told(make_cohort: Callable[..., tuple[Path, Rows]], tmp_path: Path) -> None:
    """A folder of DICOM with a file whose name is no UTF-8, and masks likewise."""
    _, rows = make_cohort(1)
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / os.fsdecode(b"odd\xff.nii.gz")).write_bytes(b"nothing")
    rows.append(rows[0] | {"study_id": "odd", "patient_id": "q", "masks": "masks"})
    table = write_table(tmp_path / "cohort.csv", rows)
    found = failures(table, tmp_path / "store")
    assert found.keys() == {"odd"}
    summary = preprocess_cohort(read_cohort(table), tmp_path / "store", CONFIG)
    (failure,) = summary.failed
    failure.message.encode("utf-8")
