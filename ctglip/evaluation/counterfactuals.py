"""Organs shown in ways that should, or should not, change the answer: erased, mirrored, cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int16, UInt8
from scipy import ndimage

from ctglip.data.cache import cut_study
from ctglip.data.crops import CropSettings, OrganCrop, cut_crop
from ctglip.errors import StoreError
from ctglip.inference.feature_cache import View
from ctglip.store.study import StudyReader
from ctglip.types import OrganRow
from ctglip.vocabulary.organs import OrganDictionary

KEPT = 0.5
"""The share of an organ's height, from its top, that the cut field of view keeps."""


def erase(crop: OrganCrop) -> OrganCrop:
    """The crop with every voxel that the organ touches replaced by its nearest surroundings; the mask stays. Details
    are of the organ, so none are left."""
    touched = crop.mask > 0
    if touched.all() or not touched.any():
        return crop
    nearest = ndimage.distance_transform_edt(touched, return_distances=False, return_indices=True)
    hu = crop.hu[tuple(np.asarray(nearest))]
    inside = hu[crop.mask >= 128]
    median = float(np.median(inside if inside.size else hu))
    return replace(crop, hu=hu, detail=np.zeros_like(crop.detail), median_hu=median)


def mirror(crop: OrganCrop) -> OrganCrop:
    """The crop with left and right exchanged."""
    turned = {name: np.ascontiguousarray(np.flip(getattr(crop, name), -3)) for name in ("hu", "detail", "mask")}
    return replace(crop, **turned)


def truncate(
    image: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    affine: np.ndarray,
    row: OrganRow,
    inside: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, OrganRow]:
    """A scan whose field of view ends inside an organ, and the organ's row in it.

    Args:
        inside: label numbers of the organ, as a table of 256 booleans.

    Returns:
        Image, labels and affine without the lowest slices, and the row with its new box and volume.
    """
    z0, z1 = row.box[4:]
    low = z1 - max(1, round(KEPT * (z1 - z0)))
    kept = inside[labels[:, :, low:z1]]
    share = float(kept.sum()) / max(float(inside[labels[:, :, z0:z1]].sum()), 1.0)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2] * low
    box = (*row.box[:4], 0, z1 - low)
    return (
        image[:, :, low:],
        labels[:, :, low:],
        moved,
        replace(row, box=box, volume_ml=row.volume_ml * share, touches_border=True),
    )


def _erased(
    study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    return [erase(crop) for crop in cut_study(study, rows, settings, organs)]


def _mirrored(
    study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    return [mirror(crop) for crop in cut_study(study, rows, settings, organs)]


def _truncated(
    study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    labels = study.organs()
    if labels is None:
        raise StoreError(f"Study {study.study_id} has no organ masks.", code="no_masks")
    image, out = study.image(), []
    for row in rows:
        inside = np.isin(np.arange(256), list(organs.grounding_labels(row.organ)))
        less = truncate(image, labels, study.affine, row, inside)
        out.append(cut_crop(less[0], less[1], less[2], organs[row.organ], less[3], organs, settings))
    return out


ERASED = View("erased-1", cut=_erased)
MIRRORED = View("mirrored-1", cut=_mirrored)
TRUNCATED = View(f"truncated-1-{KEPT:g}", cut=_truncated)
