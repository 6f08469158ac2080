"""Miniatures of public data sets: phantoms and texts under the sets' own file names, headers and codes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl
import SimpleITK as sitk

from ctglip.cohort import Cohort, read_cohort
from ctglip.cohorts.registry import cohort_reader
from ctglip.cohorts.writing import CohortSummary, write_cohort
from ctglip.ct.io import read_scan
from ctglip.ct.recipe import CtRecipe
from ctglip.types import Scan
from tests.ct.conftest import Phantom, dicom_slice, make_phantom
from tests.label_frames import label_frame

PHANTOM = make_phantom((4.0, 4.0, 6.0))


def write_file(path: Path, content: bytes | str = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], separator: str = ",") -> Path:
    """A CSV as spreadsheets write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json_file(path: Path, value: Any) -> Path:
    return write_file(path, json.dumps(value))


def write_scan(path: Path, phantom: Phantom = PHANTOM, labels: bool = False) -> Path:
    """HU (or labels) with a right header, as most data sets have them; the axes are LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values, affine = flipped(phantom.labels if labels else phantom.hu, phantom.affine)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def write_meta_image(path: Path, phantom: Phantom = PHANTOM) -> Path:
    """HU in a header alone and its ``.raw``, LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hu, affine = flipped(phantom.hu, phantom.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose(2, 1, 0)))
    x, y, z = affine[:3, 3].tolist()
    image.SetSpacing([float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0)])
    image.SetOrigin([-x, -y, z])
    sitk.WriteImage(image, str(path))
    return path


def flipped(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A RAS array in LPS order, and its affine."""
    moved = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    moved[:3, 3] = (affine @ [values.shape[0] - 1, values.shape[1] - 1, 0, 1])[:3]
    return values[::-1, ::-1], moved


def run(name: str, root: Path, out: Path | None = None, **settings: Any) -> tuple[Cohort, CohortSummary, Path]:
    """The cohort that a reader writes, read again; every row of it can be used."""
    out = out or root.parent / f"{root.name}-out"
    summary = write_cohort(cohort_reader(name), root, out, settings)
    cohort = read_cohort(out / "cohort.csv")
    assert cohort.bad == ()
    return cohort, summary, out


def labels_in(out: Path) -> dict[str, dict[str, Any]]:
    """The label table by study."""
    return {row.pop("study_id"): row for row in label_frame(out / "labels.csv").to_dicts()}


def excluded_in(out: Path) -> dict[str, str]:
    """What was excluded, with its reason."""
    return {row["item"]: row["reason"] for row in pl.read_csv(out / "excluded.csv", infer_schema=False).to_dicts()}


def scan_of(cohort: Cohort, study_id: str) -> Scan:
    """A study's scan as preprocessing reads it."""
    row = next(row for row in cohort.rows if row.study_id == study_id)
    scan, checks = read_scan(row.image, CtRecipe(), row.scan_header())
    assert not [check for check in checks if check.code == "no_orientation"]
    return scan


def assert_is_phantom(scan: Scan, phantom: Phantom = PHANTOM, place: bool = True) -> None:
    """HU and axes are the phantom's, and (unless the set says nothing of it) its place."""
    assert np.array_equal(scan.hu, phantom.hu)
    assert np.allclose(scan.affine[:3, :3], phantom.affine[:3, :3], atol=1e-3)
    if place:
        assert np.allclose(scan.affine, phantom.affine, atol=1e-3)


def write_dicom_series(folder: Path, phantom: Phantom = PHANTOM, slices: int | None = None, **values: Any) -> Path:
    """One CT series of the phantom, a file a slice; ``values`` are header elements."""
    folder.mkdir(parents=True, exist_ok=True)
    hu, affine = flipped(phantom.hu, phantom.affine)
    x, y, z = affine[:3, 3].tolist()
    depth = float(np.linalg.norm(affine[:3, 2]))
    for k in range(hu.shape[2] if slices is None else slices):
        data = dicom_slice(
            np.ascontiguousarray((hu[:, :, k].T + 1024).astype(np.uint16)),
            ImagePositionPatient=[-x, -y, z + k * depth], InstanceNumber=k + 1,
            PixelSpacing=[float(np.linalg.norm(affine[:3, 1])), float(np.linalg.norm(affine[:3, 0]))], **values,
        )  # fmt: skip
        data.save_as(folder / f"1-{k + 1:03d}.dcm", enforce_file_format=True)
    return folder
