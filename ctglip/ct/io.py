"""One scan from disk: NIfTI, NRRD or a folder of DICOM slices become int16 HU in RAS+ order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctglip.ct import arrays, meta_image, nifti, nrrd
from ctglip.ct.geometry import canonical, check_affine, shear_degrees, slice_axis_after, upright_grid
from ctglip.ct.intensity import AIR_HU, to_hu
from ctglip.ct.quality import check_scan
from ctglip.ct.raw import RawVolume, UnevenScan, with_header
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.resample import to_grid
from ctglip.errors import ScanError
from ctglip.files import is_dicom
from ctglip.gate import reads
from ctglip.limits import check_grid
from ctglip.types import QualityCheck, Scan, ScanHeader

_NAMED = (*nifti.SUFFIXES, *nrrd.SUFFIXES, *arrays.SUFFIXES, *meta_image.SUFFIXES)


@dataclass(frozen=True)
class SourceScan:
    """A scan, and the voxels that it came on.

    Attributes:
        scan: int16 HU ``[x, y, z]``, RAS+ with perpendicular axes.
        checks: what was noticed about it.
        shape: of the source, in its own order of axes; a series that lacks slices has them here.
        affine: ``[4, 4]``, index of the source to RAS+ millimetres.
        even: the source's slices lie as evenly as its affine says.
    """

    scan: Scan
    checks: tuple[QualityCheck, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    even: bool


def read_scan(path: Path, recipe: CtRecipe, header: ScanHeader | None = None) -> tuple[Scan, tuple[QualityCheck, ...]]:
    """Read a CT scan: the scan, and what was noticed about it; see ``read_source``."""
    found = read_source(path, recipe, header)
    return found.scan, found.checks


@reads(ScanError, "scan_damaged", "Export or copy it again.")
def read_source(path: Path, recipe: CtRecipe, header: ScanHeader | None = None) -> SourceScan:
    """Read a CT scan with the grid that it came on.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.npz``, ``.mha``, ``.mhd``, one DICOM file, or a folder of
            DICOM slices.
        recipe: which series to take, what to do with slice gaps.
        header: scaling and geometry from a table, for a file whose own header is blank.

    Raises:
        ScanError: with a code for each way in which the input cannot become a volume.
    """
    raw = _read_raw(path, recipe)
    named = path.name.lower().endswith(_NAMED) and path.is_file()
    where = path.name if named else "The DICOM series"  # its files' names may be UIDs
    if header is not None:
        raw = with_header(raw, header, where)
    check_affine(raw.affine, where)
    if min(raw.values.shape) < 2:
        raise ScanError(f"{where} is a single slice {raw.values.shape}, expected a volume.", code="image_2d")
    hu, numbers = to_hu(raw.values, raw.slope, raw.intercept, where)
    hu, affine = canonical(hu, raw.affine)
    scan = Scan(hu, affine)
    if raw.slices is not None:
        scan = _uneven(raw, scan)
    scan, tilt = _straightened(scan)
    i, j, k = raw.values.shape
    checks = (*raw.checks, *numbers, *tilt, *check_scan(scan))
    return SourceScan(scan, checks, (i, j, k), np.asarray(raw.affine, np.float64), raw.slices is None)


def _read_raw(path: Path, recipe: CtRecipe) -> RawVolume:
    name = path.name.lower()
    if path.is_dir() or (is_dicom(path) and not name.endswith(_NAMED)):
        from ctglip.ct.dicom import read_series

        return read_series(path, recipe)
    if not path.exists():
        raise ScanError(f"There is no scan {path}.", code="no_file", fix="Check the path.")
    if name.endswith(nifti.SUFFIXES):
        return nifti.read_nifti(path, ScanError).volume
    if name.endswith(nrrd.SUFFIXES):
        file = nrrd.read_nrrd(path, ScanError)
        if file.segments:
            raise ScanError(f"{path.name} is a segmentation, expected a scan.", code="not_a_scan")
        return next(iter(file.layers))
    if name.endswith(arrays.SUFFIXES):
        return arrays.read_npz(path)
    if name.endswith(meta_image.SUFFIXES):
        return meta_image.read_meta_image(path)
    raise ScanError(
        f"{path.name} is no image format that is known here.",
        code="not_an_image",
        fix="Give a NIfTI or NRRD file, or a folder of one DICOM series.",
    )


def _uneven(raw: RawVolume, scan: Scan) -> UnevenScan:
    assert raw.slices is not None
    axis, reversed_ = slice_axis_after(raw.affine, 2)
    slices = raw.values.shape[2] - 1 - raw.slices[::-1] if reversed_ else raw.slices
    return UnevenScan(scan.hu, scan.affine, axis, np.asarray(slices, float))


def _straightened(scan: Scan) -> tuple[Scan, tuple[QualityCheck, ...]]:
    """A scan whose axes are not perpendicular (gantry tilt) on the smallest upright grid around it."""
    degrees = shear_degrees(scan.affine)
    if degrees < 0.1:
        return scan, ()
    x, y, z = scan.hu.shape
    shape, affine = upright_grid((x, y, z), scan.affine)
    check_grid(shape, (x, y, z), "The scan, resampled upright,", ScanError)
    hu = to_grid(scan.hu, scan.affine, shape, affine, fill=AIR_HU)
    message = f"The slices are stacked at {degrees:.1f} degrees (gantry tilt) and were resampled upright."
    return Scan(hu, affine), (QualityCheck("gantry_tilt", "info", message, degrees),)
