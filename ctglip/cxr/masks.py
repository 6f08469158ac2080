"""Masks of a radiograph from a picture of the same size: numbered organs, or two lungs in one colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ctglip.cxr.picture import read_picture
from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import MaskError
from ctglip.gate import reads
from ctglip.types import QualityCheck
from ctglip.vocabulary.numberings import numbering
from ctglip.vocabulary.organs import OrganDictionary

_ASPECT = 0.02


@reads(MaskError, "masks_damaged", "Export or copy them again.")
def read_cxr_masks(
    path: Path, shape: tuple[int, int], recipe: CxrRecipe, organs: OrganDictionary, numbering_name: str | None = None
) -> tuple[np.ndarray, tuple[QualityCheck, ...]]:
    """Organ labels on a radiograph's pixels.

    Args:
        path: a picture. With a numbering or ``recipe.label_map`` its numbers are organs; without one everything
            bright is lung, and the two largest parts are the patient's right lung (on the picture's left) and left
            lung.
        numbering_name: what the numbers mean by the study's row; it comes before the recipe's.
        shape: (rows, columns) of the radiograph; a mask of other size but the same proportions is scaled to it.

    Returns:
        uint8 ``[row, column]`` in the organ dictionary's numbers, and what was noticed.

    Raises:
        MaskError: ``no_masks``, ``not_an_image``, ``file_truncated``, ``mask_grid``, ``masks_empty``,
            ``unknown_class``, ``unknown_numbering``.
    """
    picture = read_mask_picture(path, shape)
    rows, columns = picture.shape
    if not picture.any():
        raise MaskError("The mask is empty.", code="masks_empty", fix="Leave the cell empty where there is no mask.")
    names = recipe.label_map if numbering_name is None else numbering(numbering_name).organs
    if names is None:
        labels, checks = _lungs(picture > picture.max() / 2, organs)
    else:
        labels, checks = _numbered(picture, names, organs), ()
    if (rows, columns) == shape:
        return labels, checks
    picks = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, labels.shape, strict=True)]
    message = f"The mask has {rows} x {columns} pixels, the radiograph {shape[0]} x {shape[1]}; it was scaled to it."
    return labels[np.ix_(*picks)], (*checks, QualityCheck("mask_scaled", "warning", message, shape[0] / rows))


def read_mask_picture(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The first channel of a mask's picture ``[row, column]``, of its own size and the radiograph's proportions.

    Raises:
        MaskError: ``no_masks``, ``not_an_image``, ``file_truncated``, ``mask_grid``.
    """
    if not path.is_file():
        raise MaskError("There is no mask at the path given.", code="no_masks", fix="Check the path.")
    picture = read_picture(path, MaskError, "The mask")
    picture = picture[..., 0] if picture.ndim == 3 else picture
    rows, columns = picture.shape
    if abs(rows * shape[1] / (columns * shape[0]) - 1) > _ASPECT:
        raise MaskError(
            f"The mask has {rows} x {columns} pixels, the radiograph {shape[0]} x {shape[1]}.",
            code="mask_grid",
            fix="Give a mask of the radiograph's proportions.",
        )
    return picture


def _numbered(picture: np.ndarray, names: dict[int, str], organs: OrganDictionary) -> np.ndarray:
    table = np.zeros(int(max(picture.max(), *names)) + 1, np.uint8)
    for number, name in names.items():
        label = organs[name].label
        if label is None:
            raise MaskError(f"The organ {name!r} has no label of its own.", code="unknown_class")
        table[number] = label
    unknown = sorted({int(v) for v in np.unique(picture)} - {0, *names})
    if unknown:
        raise MaskError(
            f"The mask holds the numbers {unknown[:8]}, which label_map does not name.",
            code="unknown_class",
            fix="Name them in the recipe's label_map.",
        )
    return table[picture]


def _lungs(lung: np.ndarray, organs: OrganDictionary) -> tuple[np.ndarray, tuple[QualityCheck, ...]]:
    labels = np.zeros(lung.shape, np.uint8)
    parts = np.empty(lung.shape, np.int32)
    ndimage.label(lung, output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = [int(n) for n in np.argsort(sizes)[::-1][:2] if sizes[n] > 0.05 * sizes.max()]
    right, left = organs["lung_right"].label, organs["lung_left"].label
    assert right is not None
    assert left is not None
    if len(largest) == 2:
        centres = [np.argwhere(parts == n)[:, 1].mean() for n in largest]
        order = np.argsort(centres)
        labels[parts == largest[order[0]]] = right
        labels[parts == largest[order[1]]] = left
        return labels, ()
    columns = np.argwhere(lung)[:, 1]
    middle = (int(columns.min()) + int(columns.max()) + 1) // 2
    labels[:, :middle][lung[:, :middle]] = right
    labels[:, middle:][lung[:, middle:]] = left
    message = "The mask is one piece; it was cut in the middle into a right and a left lung."
    return labels, (QualityCheck("mask_one_piece", "warning", message, 1),)
