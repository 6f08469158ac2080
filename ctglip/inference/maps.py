"""Heat maps as NIfTI files on the grid that the scan came on."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from ctglip.ct.resample import to_grid
from ctglip.files import atomic_path
from ctglip.inference.answers import ScanAnswers
from ctglip.inference.heatmap import HeatMap


def write_map(answers: ScanAnswers, shown: HeatMap, folder: Path) -> Path:
    """Write ``<organ>_<abnormality>.nii.gz``.

    A map has the shape and affine of the scan's file (of the volume in RAS+ order, for DICOM and NRRD): 1 where most
    is added to the answer, negative where it is taken away, 0 outside the organ.

    Args:
        answers: what the map belongs to; shown: as ``Pipeline.heat_maps`` gives it.
        folder: where the file is written.
    """
    path = folder / f"{shown.organ}_{shown.abnormality}.nii.gz"
    image = _as_read(answers, shown)
    with atomic_path(path) as temporary:
        plain = temporary.with_name(temporary.name + ".nii.gz")
        nib.save(image, plain)
        plain.rename(temporary)
    return path


def _as_read(answers: ScanAnswers, shown: HeatMap) -> nib.Nifti1Image:
    assert answers.grid is not None
    (x, y, z), affine = answers.grid
    placed = to_grid(shown.values, shown.affine, (x, y, z), affine)
    source = answers.source
    if source is not None and source.name.endswith((".nii", ".nii.gz")):
        original = nib.Nifti1Image.from_filename(source)
        turn = ornt_transform(axcodes2ornt("RAS"), io_orientation(original.affine))
        placed, affine = apply_orientation(placed, turn), original.affine
    image = nib.Nifti1Image(np.asarray(placed, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    return image
