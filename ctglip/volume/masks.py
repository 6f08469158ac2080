"""Organ masks from disk, in any of their usual forms, as one label map on the scan's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctglip.errors import MaskError
from ctglip.files import is_dicom
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import TOTALSEGMENTATOR_V2, OrganDictionary
from ctglip.volume import nifti, nrrd
from ctglip.volume.geometry import canonical
from ctglip.volume.placing import on_scan
from ctglip.volume.raw import RawVolume
from ctglip.volume.recipe import VolumeRecipe

_SUFFIXES = (*nifti.SUFFIXES, ".seg.nrrd", *nrrd.SUFFIXES)


@dataclass
class _Drawn:
    """Dictionary labels on one grid of the source."""

    labels: np.ndarray
    affine: np.ndarray


def read_masks(
    path: Path, scan: Scan, recipe: VolumeRecipe, organs: OrganDictionary
) -> tuple[LabelMap, tuple[QualityCheck, ...]]:
    """Read masks and lay them on the scan.

    Args:
        path: a multilabel NIfTI (numbers by the recipe's ``label_map``, else by the file's own label table, else
            TotalSegmentator v2's), a folder of one file per organ (TotalSegmentator v1, v2 or v3 names), a
            ``.seg.nrrd`` with named segments, or a DICOM segmentation or RTSTRUCT (the file, or its folder).
        scan: as ``read_scan`` gives it.
        recipe: ``label_map`` and ``align_masks_by_index``.
        organs: names to label numbers.

    Returns:
        The label map on the scan's grid, and what was noticed: names that were ignored, masks that were resampled.

    Raises:
        MaskError: ``no_file``, ``no_known_organ``, ``not_labels``, ``masks_empty``, ``mask_elsewhere``,
            ``mask_slice_spacing``, or what a reader of the file says.
    """
    unknown: list[str] = []
    if not path.exists():
        raise MaskError(f"There are no masks {path}.", code="no_file", fix="Check the path.")
    if (stored := _dicom(path)) is not None:
        from ctglip.volume.masks_dicom import read_mask_object

        labels, affine = read_mask_object(stored, scan, organs, unknown)
        drawn = [_drawn(labels, RawVolume(labels, affine))]
    elif path.is_dir():
        drawn = _folder(path, organs, unknown)
    elif path.name.lower().endswith(nrrd.SUFFIXES):
        drawn = _segments(path, recipe, organs, unknown)
    elif path.name.lower().endswith(nifti.SUFFIXES):
        drawn = _multilabel(path, recipe, organs, unknown)
    else:
        where = "This DICOM object" if is_dicom(path) else path.name
        raise MaskError(
            f"{where} is no mask format that is known here.",
            code="not_masks",
            fix="Give a NIfTI, .seg.nrrd or DICOM-SEG file, or a folder of one file per organ.",
        )
    checks = _ignored(unknown)
    result: np.ndarray | None = None
    for one in drawn:
        placed, noticed = on_scan(one.labels, one.affine, scan, by_index=recipe.align_masks_by_index)
        checks += [check for check in noticed if check not in checks]
        result = placed if result is None else np.where(placed > 0, placed, result)
    if result is None or not result.max(initial=0):
        where = path.name if stored is None else "The DICOM object"  # its file's name may be a UID
        raise MaskError(f"{where} marks no voxel of the scan.", code="masks_empty", fix="Segment the scan again.")
    return LabelMap(result, scan.affine), tuple(checks)


def _dicom(path: Path) -> Path | None:
    """The DICOM mask object that a path means, if it means one."""
    if path.is_dir() and any(p.name.lower().endswith(_SUFFIXES) for p in path.iterdir()):
        return None
    if path.is_file() and path.name.lower().endswith(_SUFFIXES):
        return None
    from ctglip.volume.masks_dicom import find_mask_object

    return find_mask_object(path)


def _ignored(unknown: list[str]) -> list[QualityCheck]:
    if not unknown:
        return []
    shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    message = f"{len(unknown)} mask names are not in the organ dictionary and were ignored: {shown}."
    return [QualityCheck("unknown_masks", "info", message, len(unknown))]


def _no_known(path: Path, unknown: list[str]) -> MaskError:
    shown = ", ".join(unknown[:5])
    return MaskError(
        f"{path.name} holds no organ of the dictionary (found: {shown or 'nothing'}).",
        code="no_known_organ",
        fix="Use TotalSegmentator's names or numbers, or set `label_map` in the recipe.",
    )


def _multilabel(path: Path, recipe: VolumeRecipe, organs: OrganDictionary, unknown: list[str]) -> list[_Drawn]:
    file = nifti.read_nifti(path, MaskError)
    values = _integers(path, file.volume)
    single = organs.from_source(_stem(path))
    if single is not None and recipe.label_map is None and values.max() <= 1:
        return [_drawn((values > 0) * np.uint8(single.label or 0), file.volume)]
    names = recipe.label_map or file.names or dict(TOTALSEGMENTATOR_V2)
    return [_drawn(_renumbered(path, values, names, organs, unknown), file.volume)]


def _integers(path: Path, volume: RawVolume) -> np.ndarray:
    """The labels as integers, whatever type they were stored in."""
    values = volume.values
    if values.dtype == np.uint8 and volume.slope == 1 and volume.intercept == 0:
        return values
    if values.dtype.kind not in "iufb":
        raise MaskError(f"{path.name} holds {values.dtype}, expected whole numbers.", code="not_labels")
    if volume.slope != 1 or volume.intercept != 0 or values.dtype.kind == "f":
        scaled = values * volume.slope + volume.intercept
        values = np.rint(np.nan_to_num(scaled, nan=0.0, posinf=-1, neginf=-1)).astype(np.int64)
        if not np.array_equal(values, np.nan_to_num(scaled)):
            raise MaskError(f"{path.name} holds fractions, expected whole label numbers.", code="not_labels")
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise MaskError(
            f"{path.name} holds numbers from {values.min()} to {values.max()}, expected labels from 0.",
            code="not_labels",
            fix="Is this the scan in place of its masks?",
        )
    return values.astype(np.uint8 if values.max() < 256 else np.uint16, copy=False)


def _renumbered(
    path: Path, values: np.ndarray, names: dict[int, str], organs: OrganDictionary, unknown: list[str]
) -> np.ndarray:
    """Source numbers to dictionary labels by a look-up table; unknown numbers become background."""
    table = np.zeros(65536 if values.dtype == np.uint16 else 256, np.uint8)
    present = _present(values)
    for number in (n for n in present.tolist() if n):
        organ = organs.from_source(names[number]) if number in names else None
        if organ is None or organ.label is None:
            unknown.append(names.get(number, f"number {number}"))
        else:
            table[number] = organ.label
    if present.any() and not table.any():
        raise _no_known(path, unknown)
    return values if np.array_equal(table[present], present) and values.dtype == np.uint8 else table[values]


def _present(values: np.ndarray) -> np.ndarray:
    """The sorted distinct values of a uint8 or uint16 array, looking only where a run of eight bytes changes, and at
    two bytes at a time."""
    flat = values.ravel(order="K")
    whole = len(flat) // 8 * 8
    words = flat[:whole].view(np.uint64)
    changed = np.ones(len(words), bool)
    np.not_equal(words[1:], words[:-1], out=changed[1:])
    pairs = np.zeros(65536, bool)
    pairs[words[changed].view(np.uint16)] = True
    found = np.flatnonzero(pairs)
    if values.dtype == np.uint8:
        found = np.concatenate((found & 255, found >> 8))
    return np.unique(np.concatenate((found, flat[whole:])))


def _folder(path: Path, organs: OrganDictionary, unknown: list[str]) -> list[_Drawn]:
    """One file per organ; wholes are drawn before their parts, so that the parts stay visible."""
    files = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(_SUFFIXES) and not p.name.startswith(".")]
    if not files:
        raise MaskError(f"The folder {path.name} holds no mask files.", code="folder_empty", fix="Check the path.")
    known = [(file, organ) for file in files if (organ := organs.from_source(_stem(file))) is not None]
    unknown += [_stem(file) for file in files if organs.from_source(_stem(file)) is None]
    if not known:
        raise _no_known(path, unknown)
    known.sort(key=lambda pair: (-len(organs.parts_of(pair[1].name)), pair[1].label or 0))
    grids: dict[tuple[object, ...], _Drawn] = {}
    for file, organ in known:
        volume = _one_layer(file)
        key = (volume.values.shape, *np.round(volume.affine, 4).ravel().tolist())
        if key not in grids:
            grids[key] = _Drawn(np.zeros(volume.values.shape, np.uint8, order="F"), volume.affine)
        values, plain = volume.values, volume.slope == 1 and volume.intercept == 0 and volume.values.dtype.kind in "iub"
        inside = values > 0 if plain else values * volume.slope + volume.intercept > 0.5
        if inside.any():
            grids[key].labels[inside] = organ.label or 0
    return [_drawn(one.labels, RawVolume(one.labels, one.affine)) for one in grids.values()]


def _one_layer(path: Path) -> RawVolume:
    if path.name.lower().endswith(nrrd.SUFFIXES):
        return nrrd.read_nrrd(path, MaskError).layers[0]
    return nifti.read_nifti(path, MaskError).volume


def _segments(path: Path, recipe: VolumeRecipe, organs: OrganDictionary, unknown: list[str]) -> list[_Drawn]:
    """A Slicer segmentation by its segments' names; an NRRD without segments as multilabel."""
    file = nrrd.read_nrrd(path, MaskError)
    first = file.layers[0]
    if not file.segments:
        names = recipe.label_map or dict(TOTALSEGMENTATOR_V2)
        return [_drawn(_renumbered(path, _integers(path, first), names, organs, unknown), first)]
    labels = np.zeros(first.values.shape, np.uint8, order="F")
    known = [(segment, organ) for segment in file.segments if (organ := organs.from_source(segment.name))]
    unknown += [segment.name for segment in file.segments if organs.from_source(segment.name) is None]
    if not known:
        raise _no_known(path, unknown)
    for segment, organ in sorted(known, key=lambda pair: -len(organs.parts_of(pair[1].name))):
        if segment.layer >= len(file.layers):
            raise MaskError(f"{path.name}: a segment names a layer that is not there.", code="bad_header")
        labels[file.layers[segment.layer].values == segment.value] = organ.label or 0
    return [_drawn(labels, first)]


def _drawn(labels: np.ndarray, volume: RawVolume) -> _Drawn:
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        raise MaskError("The masks' affine maps voxels nowhere.", code="bad_affine")
    return _Drawn(*canonical(labels, volume.affine))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
