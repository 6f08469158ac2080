"""Heat maps as files: on the grid that the image came on."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from ctglip.ct.resample import to_grid
from ctglip.files import atomic_path
from ctglip.inference.answers import Answers
from ctglip.inference.heatmap import HeatMap
from ctglip.pages.cxr import radiograph_under_map


def write_map(answers: Answers, one: HeatMap, folder: Path) -> list[Path]:
    """Write a map into a folder.

    Of a scan ``<organ>_<abnormality>.nii.gz`` of the shape and affine of the scan's file (of the volume in RAS+ order,
    for DICOM and NRRD): 1 where most is added to the answer, negative where it is taken away, 0 outside the organ. Of a
    radiograph ``.png`` (the radiograph under the map) and ``.npy`` (float32, on the radiograph's own pixels; NaN where
    the map does not reach).

    Args:
        answers: what the map belongs to; one: as ``Pipeline.heat_maps`` gives it.
        folder: where the files are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _WRITERS[answers.modality](answers, one, folder / f"{one.organ}_{one.abnormality}")


def _write_volume(answers: Answers, one: HeatMap, stem: Path) -> list[Path]:
    path = stem.with_name(f"{stem.name}.nii.gz")
    image = _as_read(answers, one)
    with atomic_path(path) as temporary:
        plain = temporary.with_name(temporary.name + ".nii.gz")
        nib.save(image, plain)
        plain.rename(temporary)
    return [path]


def _as_read(answers: Answers, one: HeatMap) -> nib.Nifti1Image:
    (x, y, z), affine = answers.original.grid
    values = to_grid(one.values, one.affine, (x, y, z), affine)
    path = answers.path
    if path is not None and path.name.endswith((".nii", ".nii.gz")):
        original = nib.Nifti1Image.from_filename(path)
        turn = ornt_transform(axcodes2ornt("RAS"), io_orientation(original.affine))
        values, affine = apply_orientation(values, turn), original.affine
    image = nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    return image


def _write_picture(answers: Answers, one: HeatMap, stem: Path) -> list[Path]:
    radiograph = answers.original
    rows, columns = radiograph.pixels.shape
    values = resample_map(one.values, np.linalg.inv(radiograph.affine) @ one.affine, (rows, columns))
    few = radiograph.pixels[::4, ::4]
    low, high = radiograph.window or tuple(float(v) for v in np.percentile(few, (0.5, 99.5)))
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "npy")]
    with atomic_path(paths[0]) as temporary:
        radiograph_under_map(radiograph.pixels - low, max(high - low, 1e-6), values).save(temporary, format="PNG")
    with atomic_path(paths[1]) as temporary, temporary.open("wb") as stream:
        np.save(stream, values)
    return paths


def resample_map(
    values: Float[np.ndarray, "h w"], affine: Float[np.ndarray, "4 4"], shape: tuple[int, int]
) -> Float[np.ndarray, "r c"]:
    """A map of a radiograph on other pixels, interpolated linearly; NaN where it does not reach.

    Args:
        values: on some grid.
        affine: (row, column, 0) of that grid to those of the other pixels.
        shape: rows and columns wanted.
    """
    back = np.linalg.inv(affine)
    result, known = values.astype(np.float32), np.isfinite(values)
    result = np.where(known, result, 0)
    for axis in (0, 1):
        line, n = back[axis, axis] * np.arange(shape[axis]) + back[axis, 3], values.shape[axis]
        low = np.clip(np.floor(line).astype(int), 0, n - 1)
        share = np.clip(line - low, 0, 1).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        high = np.minimum(low + 1, n - 1)
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
        known = known.take(np.clip(np.rint(line).astype(int), 0, n - 1), axis)
        reach = (line >= -0.5 - 1e-6) & (line <= n - 0.5 + 1e-6)
        known = known & (reach[:, None] if axis == 0 else reach[None, :])
    return np.where(known, result, np.nan).astype(np.float32)


_WRITERS = {"ct": _write_volume, "cxr": _write_picture}
