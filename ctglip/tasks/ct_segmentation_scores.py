"""How a segmented scan agrees with what others drew, class by class: overlap, surfaces, single lesions (MONAI)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.panoptic_quality import compute_panoptic_quality
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage
from torch import Tensor

from ctglip.store.mask_classes import MaskClass
from ctglip.tasks.settings import CtSegmentationTaskSettings
from ctglip.types import box_around

SCORES = ("dice", "nsd", "hd95_mm", "lesion_f1")
"""Columns of a class's scores; unknown (null) where the truth does not show the class, ``lesion_f1`` of organs too."""


def compare_classes(
    predicted: UInt8[np.ndarray, "x y z"],
    truth: UInt8[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    classes: Sequence[MaskClass],
    settings: CtSegmentationTaskSettings,
    overlap_only: bool = False,
) -> list[dict[str, Any]]:
    """A row for each class: ``target``, ``present`` (the truth shows it), ``SCORES``, ``truth_ml``, ``predicted_ml``.

    A class that the truth shows and that was not drawn at all has Dice, NSD and lesion F1 0, and the scan's diagonal
    as its HD95.

    Args:
        spacing_mm: edges of a voxel.
        overlap_only: Dice alone, which is quick.
    """
    rows, voxel_ml = [], math.prod(spacing_mm) / 1000
    diagonal = math.dist([0, 0, 0], [side * edge for side, edge in zip(truth.shape, spacing_mm, strict=True)])
    for number, one in enumerate(classes, start=1):
        mine, theirs = predicted == number, truth == number
        row: dict[str, Any] = {
            "target": one.name,
            "present": bool(theirs.any()),
            **dict.fromkeys(SCORES),
            "truth_ml": float(theirs.sum() * voxel_ml),
            "predicted_ml": float(mine.sum() * voxel_ml),
        }
        if row["present"]:
            row |= _scores(mine, theirs, spacing_mm, diagonal, one, settings, overlap_only)
        rows.append(row)
    return rows


def _scores(
    mine: Bool[np.ndarray, "x y z"],
    theirs: Bool[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    diagonal: float,
    one: MaskClass,
    settings: CtSegmentationTaskSettings,
    overlap_only: bool,
) -> dict[str, float]:
    if not mine.any():
        none = {"dice": 0.0, "nsd": 0.0, "hd95_mm": diagonal} | ({} if one.is_organ else {"lesion_f1": 0.0})
        return {"dice": 0.0} if overlap_only else none
    box = box_around(mine | theirs)
    assert box is not None
    within = tuple(slice(max(low - 1, 0), high + 1) for low, high in zip(box[::2], box[1::2], strict=True))
    mine, theirs = mine[within], theirs[within]
    found = {"dice": _of(compute_dice, mine, theirs)}
    if overlap_only:
        return found
    spacing = list(spacing_mm)
    found["nsd"] = _of(compute_surface_dice, mine, theirs, class_thresholds=[settings.tolerance_mm], spacing=spacing)
    found["hd95_mm"] = _of(compute_hausdorff_distance, mine, theirs, percentile=95, spacing=spacing)
    iou = settings.lesion_iou
    return found if one.is_organ else {**found, "lesion_f1": lesion_f1(mine, theirs, iou)}


def _of(metric: Callable[..., Tensor], mine: np.ndarray, theirs: np.ndarray, **more: Any) -> float:
    tensors = (torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (mine, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of its own arguments
        return float(metric(*tensors, include_background=True, **more))


def lesion_f1(mine: Bool[np.ndarray, "x y z"], theirs: Bool[np.ndarray, "x y z"], iou: float) -> float:
    """F1 over connected components (26 neighbours): one is found where its overlap with one of the truth is above
    ``iou``, each taken once (the best assignment)."""
    pieces = []
    for mask in (mine, theirs):
        numbers = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, np.ones((3, 3, 3)), output=numbers)
        pieces.append(torch.from_numpy(numbers))
    counts = compute_panoptic_quality(pieces[0], pieces[1], match_iou_threshold=iou, output_confusion_matrix=True)
    tp, fp, fn, _ = counts.tolist()
    return 2 * tp / max(2 * tp + fp + fn, 1)
