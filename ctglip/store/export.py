"""A study out of the store again, in formats that other tools read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl

from ctglip.files import atomic_path
from ctglip.store.study import organ_columns, organ_row
from ctglip.store.tables import Store, frame


def export_nifti(store: Store, study_id: str, out: Path) -> list[Path]:
    """Write ``image.nii.gz``, ``organs.nii.gz`` (where there are masks) and ``organs.csv`` of a study.

    Args:
        out: folder to write into.

    Returns:
        The files written.

    Raises:
        StoreError: ``no_study`` or ``damaged_study``.
    """
    study = store.study(study_id)
    volumes = {"image": study.image(), "organs": study.organs()}
    files: list[Path] = []
    for name, array in volumes.items():
        if array is not None:
            files.append(_write_nifti(out / f"{name}.nii.gz", array, study.affine))
    table = frame("organs", [organ_columns(organ_row(row)) for row in study.rows("organs")]).drop("study_id")
    with atomic_path(out / "organs.csv") as temporary:
        table.select(pl.all()).write_csv(temporary)
    return [*files, out / "organs.csv"]


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_gzipped(image.to_bytes()))
    return path


def _gzipped(data: bytes) -> bytes:
    from isal import igzip

    return igzip.compress(data, 1)
