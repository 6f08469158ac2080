"""Findings that others drew, as the store holds them: how far places lie outside of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import LesionAnnotation

ANY_ORGAN = ""
"""The organ of a lesion whose maker names none: it counts for every organ that is asked about its abnormality."""
LesionsByPair = dict[tuple[str, str], list[LesionAnnotation]]


def stored_lesions(store: Store) -> dict[str, LesionsByPair]:
    """The lesions of each study by (organ, abnormality); those without an abnormality of ours are left out."""
    found: dict[str, LesionsByPair] = {}
    for study_id in store.table("lesions")["study_id"].unique(maintain_order=True):
        for lesion in store.study(study_id).lesions():
            if lesion.abnormality is not None:
                pair = lesion.organ or ANY_ORGAN, lesion.abnormality
                found.setdefault(study_id, {}).setdefault(pair, []).append(lesion)
    return found


def voxels_of(study: StudyReader, lesions: Sequence[LesionAnnotation]) -> np.ndarray:
    """The voxels or pixels of lesions on the stored grid ``[n, axes]``."""
    return np.concatenate([np.argwhere(study.lesion_mask(one)) + one.box[::2] for one in lesions])


def outside_mm(
    study: StudyReader, lesions: Sequence[LesionAnnotation], world: Float[np.ndarray, "x y z 3"]
) -> Float[np.ndarray, "x y z"]:
    """How far places (RAS mm) lie from the nearest voxel of a scan's lesions; 0 inside of one."""
    voxels = voxels_of(study, lesions)
    marked = np.zeros(study.shape, bool)
    marked[tuple(voxels.T)] = True
    inverse = np.linalg.inv(study.affine)
    index = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    within = ((index >= 0) & (index < study.shape)).all(-1)
    index[~within] = 0
    inside = within & marked[tuple(np.moveaxis(index, -1, 0))]
    tree = KDTree(voxels @ study.affine[:3, :3].T + study.affine[:3, 3])
    return np.where(inside, 0.0, np.maximum(tree.query(world)[0], 1e-6))


def outside_px(
    study: StudyReader, lesions: Sequence[LesionAnnotation], shape: tuple[int, int], to_file: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "r c"]:
    """How far each pixel of a radiograph's file lies from its lesions, in pixels; 0 inside of one.

    Args:
        shape: rows and columns of the file.
        to_file: stored pixels to those of the file.
    """
    marked = np.zeros(study.shape, bool)
    marked[tuple(voxels_of(study, lesions).T)] = True
    picks = [
        np.rint((np.arange(size) - to_file[axis, 3]) / to_file[axis, axis]).clip(0, held - 1).astype(int)
        for axis, (size, held) in enumerate(zip(shape, study.shape, strict=True))
    ]
    on_file = marked[np.ix_(*picks)]
    return np.full(shape, np.inf) if not on_file.any() else np.asarray(distance_transform_edt(~on_file))
