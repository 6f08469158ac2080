"""Cohorts of small synthetic studies: a body in air with a liver, a spleen and two lungs."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ctglip_preprocessing.driver import Summary, preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.store.format import INFO, TABLES
from ctglip.store.journal import Journal
from ctglip.store.tables import Store
from tests.store.tables_of import part_files, table_hashes

SIZE = 24
REPORT = "FINDINGS: The liver is enlarged. No splenomegaly.\nIMPRESSION: Hepatomegaly."


def write_scan(path: Path, seed: int = 0, labels: bool = False, liver_hu: int = 60) -> None:
    """A CT, or its masks in TotalSegmentator v2's numbers, 24^3 at 4 mm."""
    rng = np.random.default_rng(seed)
    ct = np.full((SIZE,) * 3, -1000, np.int16)
    ct[3:-3, 3:-3, 2:-2] = 40 + rng.integers(-20, 20, (SIZE - 6, SIZE - 6, SIZE - 4))
    masks = np.zeros(ct.shape, np.uint8)
    for number, box, hu in (
        (5, np.s_[13:20, 8:16, 4:12], liver_hu),
        (1, np.s_[5:8, 6:10, 6:10], 50),
        (11, np.s_[13:20, 6:18, 14:22], -850),
        (10, np.s_[4:11, 6:18, 14:22], -850),
    ):
        masks[box] = number
        ct[box] = hu
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-48, -48, 100]
    image = nib.Nifti1Image(masks if labels else ct, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


Rows = list[dict[str, str]]


def write_table(path: Path, rows: Rows) -> Path:
    """A cohort table."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., tuple[Path, Rows]]:
    """Writes a cohort of ``studies`` sound studies; gives its path and rows, for a test to spoil."""

    def make(studies: int = 3, report: str | None = REPORT) -> tuple[Path, Rows]:
        rows: Rows = []
        for number in range(studies):
            name = f"{number:05}"
            write_scan(tmp_path / f"ct{name}.nii.gz", number)
            write_scan(tmp_path / f"masks{name}.nii.gz", number, labels=True)
            row = {
                "study_id": name,
                "patient_id": f"p{number // 2}",
                "image": f"ct{name}.nii.gz",
                "masks": f"masks{name}.nii.gz",
            }
            rows.append(row if report is None else row | {"report": report})
        return write_table(tmp_path / "cohort.csv", rows), rows

    return make


@pytest.fixture
def config() -> PreprocessConfig:
    """4 mm, the synthetic studies' own grid."""
    return load_settings(PreprocessConfig, "preprocess/demo_3mm", ["ct.spacing_mm=[4.0, 4.0, 4.0]"])


def contents(store: Path, without: tuple[str, ...] = ("journal.sqlite", ".lock", "quality.html")) -> dict[str, str]:
    """Path -> hash of every file of a store, but those that need not be the same; of a table, whose parts tell how it
    grew, the hash of its rows."""
    parts = {path for name in TABLES for path in part_files(store, name)}
    files = (path for path in store.rglob("*") if path.is_file() and path.name not in without and path not in parts)
    hashes = {str(f.relative_to(store)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return hashes | (table_hashes(Store.open(store)) if (store / INFO).is_file() else {})


@pytest.fixture
def run(tmp_path: Path, config):
    """Preprocess the cohort table into ``store``."""

    def go(**options) -> Summary:
        changes = options.pop("config", config)
        return preprocess_cohort(read_cohort(tmp_path / "cohort.csv"), tmp_path / "store", changes, **options)

    return go


def statuses(store: Path) -> dict[str, tuple[str, str]]:
    """What the journal of a store says of each study: status, and code of the failure."""
    with Journal(Store.open(store)) as journal:
        return {i: (entry.status, entry.failure.code if entry.failure else "") for i, entry in journal.entries.items()}
