"""From a data set's folder to a store: both versions of CT-RATE come to the same HU, whatever lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctglip.store.tables import Store
from tests.cli.commands import ctglip, good
from tests.cohorts.builders import PHANTOM, write_scan
from tests.cohorts.test_ct_rate import VOLUMES, folder_of, write_tables, write_v1

SETTINGS = (
    "--set",
    "ct.spacing_mm=[4,4,6]",
    "--set",
    "ct.crop_to_body=false",
    "--set",
    "ct.segmentation=null",
    "--workers",
    1,
    "--json",
)


def ct_rate(root: Path, version: int) -> Path:
    write_tables(root)
    for name, (intercept, _, _) in VOLUMES.items():
        if version == 1:
            write_v1(root / folder_of(name, ""), intercept)
        else:
            write_scan(root / folder_of(name, "_fixed"))
            masks = folder_of(name, "_fixed").removeprefix("dataset/")
            write_scan(root / "ts_seg/ts_total" / masks, labels=True)
    return root


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Store]:
    folder = tmp_path_factory.mktemp("cohorts")
    made: dict[int, Store] = {}
    for version in (1, 2):
        root = ct_rate(folder / f"v{version}", version)
        good("cohort", "ct_rate", root, folder / f"cohort{version}")
        good("preprocess", folder / f"cohort{version}" / "cohort.csv", folder / f"store{version}", *SETTINGS)
        made[version] = Store.open(folder / f"store{version}")
    return made


def test_both_versions_come_to_the_same_hu(stores: dict[int, Store]) -> None:
    ids = ["train_9001_a", "train_9001_b", "train_9002_a", "valid_9001_a"]
    assert list(stores[1].study_ids) == list(stores[2].study_ids) == ids
    for study_id in ids[:3]:  # the table says 3 mm of the last one's slices
        first, second = (np.asarray(stores[version].study(study_id).image()) for version in (1, 2))
        assert np.array_equal(first, second)
        assert np.array_equal(np.squeeze(first), np.maximum(PHANTOM.hu, -1024))
    splits = {
        version: dict(store.table("splits").select("patient_id", "split").iter_rows())
        for version, store in stores.items()
    }
    assert splits[1] == splits[2] == {"train_9001": "train", "train_9002": "train", "valid_9001": "test"}


def test_masks_and_reports_come_along(stores: dict[int, Store]) -> None:
    organs = set(stores[2].table("organs")["organ"])
    assert {"liver", "spleen", "kidney_right"} <= organs
    assert stores[1].table("organs").is_empty(), "ts_seg fits the second version alone"
    texts = stores[1].table("reports")
    assert set(texts["section"]) == {"findings"}
    assert "Apical nodule, scan b." in set(texts["text"])


def test_a_table_of_version_one_over_files_of_version_two(tmp_path: Path) -> None:
    root = ct_rate(tmp_path / "v1", 1)
    good("cohort", "ct_rate", root, tmp_path / "cohort")
    for name in VOLUMES:
        write_scan(root / folder_of(name, ""))
    done = ctglip("preprocess", tmp_path / "cohort" / "cohort.csv", tmp_path / "store", *SETTINGS)
    assert done.code == 1
    assert json.loads(done.out)["reasons"] == {"header_twice": 4}
