"""Drawn findings on the stored grid: boxes, spheres, masks and outlines become boxes and numbered voxels.

A mask lies where its own header says; one with a blank header and the scan file's own shape is laid on it voxel on
voxel, as it is stored. What cannot be laid on is left out, and a check says why: a finding is never moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import inv_ornt_aff, io_orientation

from ctglip.ct.geometry import canonical, overlap
from ctglip.ct.placing import MIN_OVERLAP, is_trivial
from ctglip.ct.resample import to_grid
from ctglip.cxr.masks import read_mask_picture
from ctglip.errors import CTGLIPError, MaskError
from ctglip.files import read_json
from ctglip.gate import reads
from ctglip.limits import check_voxels
from ctglip.types import LesionAnnotation, QualityCheck, Standardized, box_around
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.lesions import GivenLesion
from ctglip_preprocessing.outlines import draw_outline, mark_nearest

_NUMBERS = 255


@dataclass(frozen=True)
class PlacedLesions:
    """What became of a study's drawn findings: rows, the arrays that hold their numbers, and what was left out."""

    lesions: tuple[LesionAnnotation, ...] = ()
    layers: tuple[np.ndarray, ...] = ()
    checks: tuple[QualityCheck, ...] = ()


@dataclass
class _Placing:
    """One study on its way: the stored grid, and where its image came from."""

    made: Standardized
    image: Path
    stated: np.ndarray | None
    shape: tuple[int, ...]
    affine: np.ndarray
    lesions: list[LesionAnnotation] = field(default_factory=list)
    layers: list[np.ndarray] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def place_lesions(
    given: Sequence[GivenLesion],
    image: Path,
    stated: np.ndarray | None,
    grid: tuple[tuple[int, ...], np.ndarray],
    made: Standardized,
) -> PlacedLesions:
    """Lay drawn findings on a standardised study.

    Args:
        given: the study's findings.
        image: its file, whose axes masks without a header follow.
        stated: the affine that the cohort's row has for it, where its own header is blank.
        grid: shape and affine of the image as it was read.
        made: the study on the stored grid.
    """
    placing = _Placing(made, image, stated, tuple(grid[0]), np.asarray(grid[1], np.float64))
    by_file: dict[Path | None, list[GivenLesion]] = {}
    for lesion in given:
        by_file.setdefault(lesion.mask, []).append(lesion)
    for path, lesions in by_file.items():
        try:
            if path is None:
                _without_file(placing, lesions)
            elif path.suffix == ".json":
                _outlined(placing, path, lesions)
            elif made.image.ndim == 2:
                _pictured(placing, path, lesions)
            else:
                _masked(placing, path, lesions)
        except CTGLIPError as error:
            placing.left += [f"{len(lesions)} of {path.name if path else 'the table'}: {error.message}"]
    checks: tuple[QualityCheck, ...] = ()
    if placing.left:
        message = f"Drawn findings were left out: {' '.join(placing.left)}"
        checks = (QualityCheck("lesions_left_out", "warning", message, len(placing.left)),)
    return PlacedLesions(tuple(placing.lesions), tuple(placing.layers), checks)


def _add(placing: _Placing, lesion: GivenLesion, inside: np.ndarray, start: Sequence[int]) -> bool:
    """Keep the voxels of one lesion, ``inside`` from voxel ``start`` on; False where there are none."""
    around = box_around(inside)
    if around is None:
        return False
    pairs = list(zip(start, around[::2], around[1::2], strict=True))
    inside = inside[tuple(slice(low, high) for _, low, high in pairs)]
    at = tuple(slice(first + low, first + high) for first, low, high in pairs)
    layer = next(
        (n for n, array in enumerate(placing.layers) if placing.counts[n] < _NUMBERS and not array[at][inside].any()),
        len(placing.layers),
    )
    if layer == len(placing.layers):
        placing.layers.append(np.zeros(placing.made.image.shape, np.uint8))
        placing.counts.append(0)
    placing.counts[layer] += 1
    placing.layers[layer][at][inside] = placing.counts[layer]
    edges = tuple(edge for part in at for edge in (part.start, part.stop))
    organ = lesion.organ or _organ_at(placing, at, inside)
    placing.lesions.append(
        LesionAnnotation(organ, lesion.abnormality, lesion.theirs, edges, layer, placing.counts[layer])
    )
    return True


def _organ_at(placing: _Placing, at: tuple[slice, ...], inside: np.ndarray) -> str | None:
    """The organ whose mask holds at least half of a scan's lesion, where its maker names none."""
    organs = placing.made.organs
    if organs is None or organs.ndim != 3:
        return None
    counts = np.bincount(organs[at][inside], minlength=1)
    counts[0] = 0
    most = int(counts.argmax())
    return load_organs().label_names().get(most) if 2 * int(counts[most]) >= int(inside.sum()) else None


def _without_file(placing: _Placing, lesions: Sequence[GivenLesion]) -> None:
    outside = 0
    for lesion in lesions:
        if lesion.sphere is not None and placing.made.image.ndim == 3:
            outside += not _add(placing, lesion, *_sphere(placing, lesion.sphere))
        elif lesion.box is not None and placing.made.image.ndim == 2:
            edges = _box(placing, lesion.box)
            outside += edges is None
            if edges is not None:
                placing.lesions.append(LesionAnnotation(lesion.organ, lesion.abnormality, lesion.theirs, edges))
        else:
            outside += 1
    if outside:
        placing.left.append(f"{outside} lie outside the image, or are drawn in another way than it is.")


def _sphere(placing: _Placing, sphere: tuple[float, float, float, float]) -> tuple[np.ndarray, list[int]]:
    """Voxels whose centre lies in a sphere, at least the nearest one."""
    affine, shape = placing.made.affine, placing.made.image.shape
    middle = np.linalg.solve(affine, [*sphere[:3], 1.0])[:3]
    reach = np.ceil(sphere[3] / 2 / np.linalg.norm(affine[:3, :3], axis=0)) + 1
    low = np.clip(np.floor(middle - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, 0, shape).astype(int)
    index = np.moveaxis(np.indices(np.maximum(high - low, 0)), 0, -1) + low
    inside = np.linalg.norm((index - middle) @ affine[:3, :3].T, axis=-1) <= sphere[3] / 2
    mark_nearest(inside, np.rint(middle) - low)
    return inside, low.tolist()


def _box(placing: _Placing, box: tuple[float, float, float, float]) -> tuple[int, ...] | None:
    """A box in pixels of the file on the stored grid, clipped to it."""
    to_grid_pixels = np.linalg.inv(placing.made.affine) @ placing.affine
    edges: list[int] = []
    for axis, (first, last) in enumerate(zip(box[::2], box[1::2], strict=True)):
        low, high = (
            to_grid_pixels[axis, axis] * (edge - 0.5) + to_grid_pixels[axis, 3] + 0.5 for edge in (first, last)
        )
        size = placing.made.image.shape[axis]
        edges += [int(np.clip(np.floor(low + 1e-6), 0, size)), int(np.clip(np.ceil(high - 1e-6), 0, size))]
    return tuple(edges) if edges[0] < edges[1] and edges[2] < edges[3] else None


def _outlined(placing: _Placing, path: Path, lesions: Sequence[GivenLesion]) -> None:
    """Outlines in RAS mm, by several readers."""
    found = read_json(path)
    missing = 0
    for lesion in lesions:
        outline = found[lesion.layer or 0] if (lesion.layer or 0) < len(found) else None
        marked = None if outline is None else draw_outline(outline, placing.made.image.shape, placing.made.affine)
        missing += marked is None or not _add(placing, lesion, *marked)
    if missing:
        placing.left.append(f"{missing} outlines of {path.name} lie outside the scan.")


def _pictured(placing: _Placing, path: Path, lesions: Sequence[GivenLesion]) -> None:
    """A picture of the radiograph's proportions, bright where the finding is."""
    rows, columns = placing.shape
    picture = read_mask_picture(path, (rows, columns))
    to_file = np.linalg.inv(placing.affine) @ placing.made.affine
    picks: list[np.ndarray] = []
    within: list[np.ndarray] = []
    for axis, (size, held) in enumerate(zip(placing.made.image.shape, picture.shape, strict=True)):
        edge = to_file[axis, axis] * np.arange(size) + to_file[axis, 3] + 0.5
        index = np.floor(edge * held / placing.shape[axis]).astype(int)
        picks.append(np.clip(index, 0, held - 1))
        within.append((index >= 0) & (index < held))
    bright = picture > picture.max() / 2
    boxed = [lesion for lesion in lesions if lesion.box is not None]
    for lesion in boxed or lesions[:1]:
        chosen = bright
        if lesion.box is not None:  # in pixels of the picture
            row0, row1, column0, column1 = (round(edge) for edge in lesion.box)
            chosen = np.zeros_like(bright)
            chosen[row0:row1, column0:column1] = bright[row0:row1, column0:column1]
        inside = chosen[np.ix_(*picks)] & within[0][:, None] & within[1][None, :]
        if chosen.any() and not inside.any():
            on_file = (np.argwhere(chosen).mean(0) + 0.5) * placing.shape / np.array(chosen.shape) - 0.5
            mark_nearest(inside, (on_file - to_file[:2, 3]) / np.diag(to_file)[:2])
        if not _add(placing, lesion, inside, [0, 0]):
            placing.left.append(f"{path.name} marks nothing on the radiograph.")


def _masked(placing: _Placing, path: Path, lesions: Sequence[GivenLesion]) -> None:
    """A NIfTI file of one volume, or of several layers (first or last axis); each of its numbers is a lesion."""
    if not path.is_file():
        raise MaskError(f"there is no {path.name}.", code="no_file")
    file, values = _read(path)
    stored, header = _stored(placing)
    for lesion in lesions:
        layer = _layer_of(values, lesion.layer, stored)
        if layer is None:
            placing.left.append(f"{path.name} has no layer {lesion.layer} (its shape is {values.shape}).")
            continue
        affine = np.asarray(file.affine, np.float64)
        if header is not None and layer.shape == stored and is_trivial(stored, affine):
            affine = _as_read(placing, header, stored)
        elif overlap(layer.shape, affine, placing.shape, placing.affine) < MIN_OVERLAP:
            raise MaskError(
                f"its layers of {layer.shape} voxels lie elsewhere than the scan of {stored}: they were not laid on.",
                code="mask_elsewhere",
            )
        marked = 0
        for inside in _numbered(layer):
            marked += _add(placing, lesion, _moved(placing, inside, affine), [0, 0, 0])
        if not marked:
            placing.left.append(f"{path.name} marks nothing of the scan in layer {lesion.layer or 0}.")


@reads(MaskError, "unreadable")
def _read(path: Path) -> tuple[Nifti1Image, np.ndarray]:
    file = Nifti1Image.from_filename(path)
    check_voxels(file.shape, path.name, MaskError, 8 * np.dtype(file.get_data_dtype()).itemsize)
    return file, np.asanyarray(file.dataobj)


def _stored(placing: _Placing) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Shape and affine of the scan's file as it is stored; of the scan as it was read where it is no NIfTI."""
    if placing.image.name.endswith((".nii", ".nii.gz")):
        head = Nifti1Image.from_filename(placing.image)
        header = np.asarray(head.affine, np.float64) if placing.stated is None else placing.stated
        return tuple(head.shape[:3]), header
    return placing.shape, None


def _layer_of(values: np.ndarray, layer: int | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """One 3D layer of a file: along the first axis, unless only the last one leaves the scan's shape."""
    if values.ndim == 3:
        return values if not layer else None
    if values.ndim != 4:
        return None
    axis = 3 if values.shape[1:] != shape and values.shape[:3] == shape else 0
    return values.take(layer or 0, axis=axis) if (layer or 0) < values.shape[axis] else None


def _as_read(placing: _Placing, header: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of the scan's file as the scan was read: that of its row, where its own header is blank."""
    orientation = io_orientation(header)
    return placing.affine @ np.linalg.inv(inv_ornt_aff(orientation, shape))


def _numbered(layer: np.ndarray) -> Iterator[np.ndarray]:
    """Where each of a layer's numbers is."""
    values = np.rint(layer).astype(np.int64) if layer.dtype.kind == "f" else layer
    for number in np.unique(values).tolist():
        if number:
            yield values == number


def _moved(placing: _Placing, inside: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A mask on the stored grid; one too small for it keeps the voxel of its middle."""
    x, y, z = placing.made.image.shape
    held, held_affine = canonical(inside.astype(np.uint8), affine)
    moved = to_grid(np.ascontiguousarray(held), held_affine, (x, y, z), placing.made.affine, labels=True) > 0
    if not moved.any():
        middle = np.append(np.argwhere(inside).mean(0), 1.0)
        mark_nearest(moved, np.linalg.solve(placing.made.affine, affine @ middle)[:3])
    return moved
