"""What studies are deformed from: a painted torso (``torso.py``), or a real CT with its masks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from ctglip.errors import MaskError, ScanError
from ctglip.simulation.labels import lookup, number, numbers_of
from ctglip.types import spacing_of

Phase = Literal["native", "portal", "arterial"]


@dataclass(frozen=True)
class Anatomy:
    """One body to deform.

    Attributes:
        hu: float32 ``[x, y, z]``, RAS+, without noise where built in.
        labels: uint8 ``[x, y, z]``, TotalSegmentator v2 numbers.
        spacing_mm: voxel edges.
        name: which body or template, for the records.
        phase: of the contrast medium; None where unknown.
        sex: "M", "F" or None.
        noise: share of the simulated noise that is added (a real template has its own).
        kind: the name in ``anatomies.yaml``, ``template`` for a real one.
        tissue: uint8 ``[x, y, z]``, what enhances with contrast medium; None where labels alone are known.
        age: least and largest age of its patients.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    name: str
    phase: Phase | None = None
    sex: Literal["M", "F"] | None = None
    noise: float = 1.0
    kind: str = "template"
    tissue: np.ndarray | None = None
    age: tuple[int, int] = (28, 90)

    @property
    def contrast(self) -> bool | None:
        """With contrast medium; None where unknown."""
        return None if self.phase is None else self.phase != "native"

    @functools.cached_property
    def enhanced(self) -> dict[Phase, Anatomy]:
        """What has been made of it, by contrast phase (``phases.in_phase``)."""
        return {}

    @functools.cached_property
    def boxes(self) -> list[tuple[slice, slice, slice] | None]:
        """Voxel box of each label, 1 first."""
        return ndimage.find_objects(self.labels, max_label=117)

    @functools.cached_property
    def volumes_ml(self) -> np.ndarray:
        """Volume in ml by label number, ``[256]``."""
        return np.bincount(self.labels.reshape(-1), minlength=256) * float(np.prod(self.spacing_mm)) / 1000

    def volume_ml(self, organ: str) -> float:
        """Volume in ml of an organ or group of the dictionary."""
        return float(self.volumes_ml[list(numbers_of(organ))].sum())

    def position(self, organ: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Centre and half-widths in mm of a TotalSegmentator v2 class, from the first voxel; None if it is absent."""
        box = self.boxes[number(organ) - 1]
        if box is None:
            return None
        spacing = np.array(self.spacing_mm)
        inside = np.argwhere(self.labels[box] == number(organ)) * spacing
        corner = np.array([part.start for part in box]) * spacing
        half = np.array([part.stop - part.start for part in box]) * spacing / 2
        return corner + inside.mean(0), half


def load_template(scan: Path, masks: Path) -> Anatomy:
    """A real CT and its TotalSegmentator v2 multilabel masks (NIfTI, one grid) as an anatomy.

    Dense spots in kidneys, gallbladder, bladder and aortic wall (its own stones and plaques) are filled with the
    organ's median, so that the truth of a study made from it is what was painted.

    Raises:
        ScanError: a file that cannot be read.
        MaskError: the two are on different grids, or the masks hold none of TotalSegmentator v2's numbers.
    """
    (hu, affine), (labels, other) = (read_nifti(path) for path in (scan, masks))
    if hu.shape != labels.shape or not np.allclose(affine, other, atol=0.1):
        raise MaskError(
            f"Template {masks} has shape {labels.shape}, its scan {scan} has {hu.shape}, or their affines differ.",
            code="mask_grid",
            fix="Give masks on the scan's own grid.",
        )
    known = (labels >= 1) & (labels <= 117)
    if not known.any():
        raise MaskError(f"Template masks {masks} hold no TotalSegmentator v2 number (1 to 117).", code="mask_labels")
    hu = np.clip(hu, -1024, 3071)
    labels = np.where(known, labels, 0).astype(np.uint8)
    _remove_dense_spots(hu, labels)
    return Anatomy(hu, labels, spacing_of(affine), scan.name, noise=0.25)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (float32) and affine of a NIfTI file, RAS+.

    Raises:
        ScanError: a file that cannot be read.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.as_closest_canonical(nib.load(path))  # type: ignore[attr-defined]
        return np.asarray(image.dataobj, np.float32), np.asarray(image.affine)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise ScanError(f"{path} cannot be read as NIfTI: {error}.", fix="Check the file.") from error


def _remove_dense_spots(hu: np.ndarray, labels: np.ndarray) -> None:
    bone = lookup(["spine", "ribs", "hip_left", "hip_right", "sacrum"])[labels]
    for organ in ("kidney_left", "kidney_right", "gallbladder", "urinary_bladder", "aorta"):
        voxels = labels == number(organ)
        if not voxels.any():
            continue
        median, spread = float(np.median(hu[voxels])), 60 if organ != "aorta" else 90
        near = np.asarray(ndimage.binary_closing(np.pad(voxels, 6), iterations=5))[6:-6, 6:-6, 6:-6] & ~bone
        spots = ndimage.binary_dilation(near & (hu > median + spread)) & near & (hu > median + 20)
        hu[spots] = median
