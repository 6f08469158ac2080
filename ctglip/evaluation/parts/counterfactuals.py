"""Organs shown in ways that should, or should not, change the answer: erased, mirrored, cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int16, UInt8
from scipy import ndimage

from ctglip.data.crops import CropSettings, OrganCrop, cut_crop
from ctglip.data.organ_crops import cut_study
from ctglip.errors import StoreError
from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.evaluation.results import ControlResult
from ctglip.inference.feature_cache import FeatureView
from ctglip.pages.wording import share
from ctglip.store.study import StudyReader
from ctglip.types import Interval, OrganRow
from ctglip.vocabulary.organs import OrganDictionary

VISIBLE = 0.5
"""The share of an organ's height, from its top, that lies in the shortened field of view."""


@dataclass(frozen=True)
class SwapResult(ControlResult):
    """Left and right exchanged; a difference near 0 says that findings are read alike on both sides.

    Attributes:
        turned: share of the organs that have a side that are then taken for the organ of the other side.
        unchanged: share that are still taken for the organ of their own side.
        n: how many such organs there are.
    """

    turned: Interval
    unchanged: Interval
    n: int

    def remark(self) -> str:
        """How many organs with a side are named for the other side."""
        if not self.n:
            return ""
        return f" {share(self.turned.value)} of {self.n} organs that have a side are then named for the other side."


@dataclass(frozen=True)
class TruncationResult(ControlResult):
    """The lower part of each organ cut off by the field of view.

    Attributes:
        shift: mean change of the probabilities, up or down.
        flipped: share of the answers that turn from yes to no or back, of those that have a threshold.
    """

    shift: float
    flipped: float | None

    def remark(self) -> str:
        """How many of the yes or no answers turn over."""
        return "" if self.flipped is None else f" {share(self.flipped)} of the yes or no answers turn over."


def organ_erasure(context: Context) -> ControlResult:
    """The same questions with the organ's voxels replaced by what surrounds them: what is left is read from the mask
    and the neighbours."""
    text = "Every voxel of the organ replaced by its nearest surroundings; the model still sees the mask."
    return context.control("Organ erased", text, context.differences(ERASED))


def left_right_swap(context: Context) -> SwapResult:
    """The same questions about mirrored organs, and which side they are then taken for."""
    text = "Each crop mirrored, left for right."
    control = context.control("Mirrored", text, context.differences(MIRRORED))
    organs, split = context.scorer.dictionaries.organs, context.split
    nearest = context.scorer.recognise(context.encode_view(split, MIRRORED).anatomy)
    names = [context.release.organs[int(number)] for number in nearest]
    rows = [row for row, one in enumerate(split.instances) if organs.mirror(one.organ) != one.organ]
    if not rows:
        return SwapResult(**vars(control), turned=Interval(None), unchanged=Interval(None), n=0)
    turned = np.array([float(names[row] == organs.mirror(split.instances[row].organ)) for row in rows])
    unchanged = np.array([float(names[row] == split.instances[row].organ) for row in rows])
    patients = split.patients[rows]
    return SwapResult(
        **vars(control),
        turned=interval_of(weighted_mean(turned, patients, context.weights)),
        unchanged=interval_of(weighted_mean(unchanged, patients, context.weights)),
        n=len(rows),
    )


def truncation(context: Context) -> TruncationResult:
    """The same questions when the field of view ends in the middle of each organ."""
    differences = context.differences(TRUNCATED)
    text = f"The field of view ends within the organ: its upper {VISIBLE:.0%} is left."
    changed = {pair: context.scorer.calibration.probabilities(differences[pair]) for pair in context.labels}
    shifts = np.concatenate([changed[pair] - context.scores[pair] for pair in changed])
    flips = [(changed[pair] >= limit) != (context.scores[pair] >= limit) for pair, limit in context.thresholds.items()]
    return TruncationResult(
        **vars(context.control("Field of view cut", text, differences)),
        shift=float(shifts.mean()),
        flipped=float(np.concatenate(flips).mean()) if flips else None,
    )


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
    flipped = {name: np.ascontiguousarray(np.flip(getattr(crop, name), -3)) for name in ("hu", "detail", "mask")}
    return replace(crop, **flipped)


def truncate(
    image: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    affine: np.ndarray,
    row: OrganRow,
    of_organ: Bool[np.ndarray, " 256"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, OrganRow]:
    """A scan whose field of view ends inside an organ, and the organ's row in it.

    Args:
        of_organ: whether each label number is of the organ.

    Returns:
        Image, labels and affine without the lowest slices, and the row with its new box and volume.
    """
    z0, z1 = row.box[4:]
    low = z1 - max(1, round(VISIBLE * (z1 - z0)))
    left = float(of_organ[labels[:, :, low:z1]].sum()) / max(float(of_organ[labels[:, :, z0:z1]].sum()), 1.0)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2] * low
    box = (*row.box[:4], 0, z1 - low)
    cut_row = replace(row, box=box, volume_ml=row.volume_ml * left, touches_border=True)
    return image[:, :, low:], labels[:, :, low:], moved, cut_row


def _changed(change: Callable[[OrganCrop], OrganCrop]):
    """Cuts a study's organs out as ``cut_study`` does, each changed."""

    def cut(
        study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
    ) -> list[OrganCrop]:
        return [change(crop) for crop in cut_study(study, rows, settings, organs)]

    return cut


def _truncated(
    study: StudyReader, rows: Sequence[OrganRow], settings: CropSettings, organs: OrganDictionary
) -> list[OrganCrop]:
    labels = study.organs()
    if labels is None:
        raise StoreError(f"Study {study.study_id} has no organ masks.", code="no_masks")
    image, crops = study.image(), []
    for row in rows:
        of_organ = np.isin(np.arange(256), list(organs.roi_labels(row.organ)))
        less, less_labels, affine, cut_row = truncate(image, labels, study.affine, row, of_organ)
        crops.append(cut_crop(less, less_labels, affine, organs[row.organ], cut_row, organs, settings))
    return crops


ERASED = FeatureView("erased-1", cut=_changed(erase))
MIRRORED = FeatureView("mirrored-1", cut=_changed(mirror))
TRUNCATED = FeatureView(f"truncated-1-{VISIBLE:g}", cut=_truncated)
