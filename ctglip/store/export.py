"""A study out of the store again, in formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from ctglip.ct.nifti import write_nifti
from ctglip.ct.resample import to_grid
from ctglip.errors import StoreError
from ctglip.files import atomic_path
from ctglip.modality import MODALITIES
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store, frame, write_csv

AIR_HU = -1024


def export_study(store: Store, study_id: str, out: Path, grid: Literal["stored", "original"] = "stored") -> list[Path]:
    """Write image and organs (where there are masks) of a study, and the table of where its organs lie.

    A scan becomes ``image.nii.gz``, ``organs.nii.gz`` and ``organs.csv``; a radiograph ``image.png`` (16 bits) and
    ``organs.png`` on the stored grid, and ``regions.csv``.

    Args:
        out: folder to write into.
        grid: the store's own, or that of the scan before it was standardised (in RAS+ order; air where the store has
            no voxels). The boxes in ``organs.csv`` are in voxels of the stored grid, volumes in millilitres.

    Returns:
        The files written.

    Raises:
        StoreError: ``no_study``, ``damaged_study``, or ``no_source_grid`` when the original grid is not known.
    """
    study = store.study(study_id)
    files: list[Path] = []
    for name, array in (("image", study.image()), ("organs", study.organs())):
        if array is None:
            continue
        if array.ndim == 2:
            files.append(_write_png(out / f"{name}.png", array))
        else:
            placed, affine = (array, study.affine) if grid == "stored" else _on_source(study, array, name == "organs")
            files.append(write_nifti(out / f"{name}.nii.gz", placed, affine))
    table = "regions" if MODALITIES[store.info.modality].has_boxes else "organs"
    write_csv(frame(table, study.rows(table)), out / f"{table}.csv")
    return [*files, out / f"{table}.csv"]


def _write_png(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")
    return path


def _on_source(study: StudyReader, array: np.ndarray, labels: bool) -> tuple[np.ndarray, np.ndarray]:
    source = study.source
    if source is None:
        raise StoreError(
            f"The grid that study {study.study_id} came on was not kept.",
            code="no_source_grid",
            fix="Export it on the stored grid.",
        )
    x, y, z = source.shape
    fill = 0 if labels else AIR_HU
    return to_grid(array, study.affine, (x, y, z), source.affine, labels=labels, fill=fill), source.affine
