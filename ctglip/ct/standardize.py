"""The one function that turns a scan and its masks into what is stored and what a model sees."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ctglip.ct.geometry import regrid, same_grid
from ctglip.ct.mask_checks import check_masks
from ctglip.ct.organs import organ_table
from ctglip.ct.quality import PADDING_HU
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.resample import to_grid
from ctglip.errors import MaskError, ScanError
from ctglip.limits import check_grid
from ctglip.types import Box, LabelMap, QualityCheck, Scan, Standardized, box_around
from ctglip.vocabulary.organs import OrganDictionary

BODY_HU = -300
_COARSE_MM = 6.0
_MARGIN_MM = 10.0


def standardize(scan: Scan, masks: LabelMap | None, recipe: CtRecipe, organs: OrganDictionary) -> Standardized:
    """Crop to the body, clip, resample, and measure the organs: the same at preprocessing and at inference.

    Args:
        scan: as ``read_scan`` gives it.
        masks: as ``read_masks`` or ``segment`` gives them, on the scan's grid; None where none are known.
        recipe: spacing, clip, crop.
        organs: the dictionary that the masks are numbered by.

    Raises:
        MaskError: ``mask_grid`` when the masks are not on the scan's grid.
        ScanError: ``too_large`` when the recipe's spacing makes far more voxels of it than there are.
    """
    if masks is not None and not same_grid(masks.labels.shape, masks.affine, scan.hu.shape, scan.affine):
        raise MaskError("The masks are not on the scan's grid.", code="mask_grid", fix="Read them with read_masks.")
    labels = None if masks is None else masks.labels
    box, checks = _body(scan, labels) if recipe.crop_to_body else (_full_box(scan.hu.shape), ())
    shape, affine = regrid(scan.affine, box, recipe.spacing_mm, recipe.grid)
    check_grid(shape, scan.hu.shape, "The scan, at the recipe's spacing,", ScanError)
    low, high = recipe.hu_clip
    smooth = recipe.grid == "smooth"
    fill = low if smooth else None
    image = to_grid(scan.hu, scan.affine, shape, affine, fill=fill, clip=(low, high), smooth=smooth)
    if labels is None:
        return Standardized(image, None, affine, checks=checks)
    moved = to_grid(labels, scan.affine, shape, affine, labels=True)
    cut = _labels_near_padding(scan, moved, affine)
    rows = organ_table(moved, image, affine, organs, recipe.min_organ_ml, cut)
    return Standardized(image, moved, affine, rows, (*checks, *check_masks(rows)))


def _labels_near_padding(scan: Scan, labels: np.ndarray, affine: np.ndarray) -> frozenset[int]:
    """Labels next to padding: a round field of view ends there, not at the array's faces."""
    if float(np.mean(scan.hu[::8, ::8, ::4] < PADDING_HU)) < 0.002:
        return frozenset()
    x, y, z = labels.shape
    blank = to_grid((scan.hu < PADDING_HU).view(np.uint8), scan.affine, (x, y, z), affine, labels=True).view(bool)
    near = np.zeros(256, bool)
    for axis in (0, 1):
        inner, labels_in = blank.swapaxes(0, axis), labels.swapaxes(0, axis)
        near[labels_in[1:][inner[:-1]]] = True
        near[labels_in[:-1][inner[1:]]] = True
    return frozenset(np.flatnonzero(near).tolist()) - {0}


def _full_box(shape: tuple[int, ...]) -> Box:
    x, y, z = shape
    return 0, x, 0, y, 0, z


def _body(scan: Scan, labels: np.ndarray | None) -> tuple[Box, tuple[QualityCheck, ...]]:
    """Box of the largest connected thing denser than -300 HU (and of all masks) with a margin, from a coarse grid."""
    step = [max(1, round(_COARSE_MM / edge)) for edge in scan.spacing_mm]
    coarse = (slice(None, None, step[0]), slice(None, None, step[1]), slice(None, None, step[2]))
    dense = scan.hu[coarse] > BODY_HU
    parts = np.empty(dense.shape, np.int32)
    ndimage.label(dense, output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    share = float(sizes[largest] / dense.size)
    body = parts == largest if labels is None else (parts == largest) | (labels[coarse] > 0)
    box = box_around(body)
    if share < 0.01 or box is None:
        message = f"No body was found to crop to (largest dense thing: {share:.2%} of the volume)."
        return _full_box(scan.hu.shape), (QualityCheck("no_body", "warning", message, share),)
    sides: list[int] = []
    for axis, (n, edge, stride) in enumerate(zip(scan.hu.shape, scan.spacing_mm, step, strict=True)):
        margin = int(np.ceil(_MARGIN_MM / edge)) + stride
        sides += [max(0, box[2 * axis] * stride - margin), min(n, (box[2 * axis + 1] - 1) * stride + margin + 1)]
    x0, x1, y0, y1, z0, z1 = sides
    return (x0, x1, y0, y1, z0, z1), ()
