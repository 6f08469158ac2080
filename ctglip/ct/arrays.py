"""Volumes in NumPy archives and MetaImage files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ctglip.ct.raw import RawVolume
from ctglip.errors import ScanError
from ctglip.types import QualityCheck

SUFFIXES = (".npz",)
META_IMAGE = (".mha", ".mhd")


def read_npz(path: Path) -> RawVolume:
    """The one volume of a NumPy archive; it has no geometry, so that a table has to give it one.

    Raises:
        ScanError: ``file_damaged``, ``image_2d``, ``image_4d``, or ``not_an_image`` where it does not hold one volume.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if archive[name].ndim > 1]
            if len(names) != 1:
                found = ", ".join(archive.files) or "nothing"
                raise ScanError(f"{path.name} holds {found}, expected one volume.", code="not_an_image")
            values = archive[names[0]]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(
            f"{path.name} cannot be read as a NumPy archive.", code="file_damaged", fix="Copy or download it again."
        ) from error
    if values.ndim != 3:
        code = "image_4d" if values.ndim > 3 else "image_2d"
        raise ScanError(f"{path.name} has the shape {values.shape}, expected one 3D volume.", code=code)
    message = "The file places the voxels nowhere: spacing, left and right are a guess."
    return RawVolume(values, np.eye(4), checks=(QualityCheck("no_orientation", "error", message),))


def read_meta_image(path: Path) -> RawVolume:
    """A MetaImage (``.mha``, or ``.mhd`` beside its ``.raw``); its world is LPS, as ITK's.

    Raises:
        ScanError: ``file_damaged`` or ``image_4d``.
    """
    import SimpleITK as sitk

    from ctglip.ct.geometry import LPS_TO_RAS

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ScanError(
            f"{path.name} cannot be read as a MetaImage; is its .raw file beside it, and whole?",
            code="file_damaged",
            fix="Copy or download it again.",
        ) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{path.name} has the size {image.GetSize()}, expected one 3D volume.", code="image_4d")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return RawVolume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine)
