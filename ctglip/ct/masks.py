"""Organ masks from disk, in any of their usual forms, as one label map on the scan's grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctglip.ct import nifti, nrrd
from ctglip.ct.geometry import canonical
from ctglip.ct.mask_anatomy import body_of, check_anatomy, regions_of
from ctglip.ct.masks_nnunet import dataset_file, dataset_names
from ctglip.ct.masks_numbers import Names, compact, integer_values, names_of, one_organ, present_in
from ctglip.ct.placing import on_scan
from ctglip.ct.raw import RawVolume
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.files import is_dicom
from ctglip.gate import reads
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import Organ, OrganDictionary

_SUFFIXES = (*nifti.SUFFIXES, ".seg.nrrd", *nrrd.SUFFIXES)


@dataclass
class _LabelMap:
    """Labels on one grid of the source; dictionary labels, or (with ``names``) numbers of the file."""

    labels: np.ndarray
    affine: np.ndarray


@dataclass
class _Source:
    """What a source of masks came to: its grids, and what was noticed.

    Attributes:
        names: what the numbers mean, where the grids hold numbers of the file.
        numbers: the file's number of each label of the grid ``[256]``.
        unknown: what was left out.
    """

    label_maps: list[_LabelMap] = field(default_factory=list)
    names: Names | None = None
    numbers: np.ndarray = field(default_factory=lambda: np.arange(256))
    unknown: list[str] = field(default_factory=list)
    checks: list[QualityCheck] = field(default_factory=list)


@reads(MaskError, "masks_damaged", "Export or copy them again.")
def read_masks(
    path: Path, scan: Scan, recipe: CtRecipe, organs: OrganDictionary, numbering: str | None = None
) -> tuple[LabelMap, tuple[QualityCheck, ...]]:
    """Read masks and lay them on the scan.

    Args:
        path: a multilabel NIfTI or NRRD (numbers by ``numbering``, else by the recipe's ``label_map``, else by the
            file's own label table, else by nnU-Net's ``dataset.json`` beside it, else TotalSegmentator v2's), a folder
            of one file per organ, a ``.seg.nrrd`` with named or coded segments, or a DICOM segmentation or RTSTRUCT
            (the file, or its folder).
        scan: as ``read_scan`` gives it.
        recipe: ``label_map`` and ``align_masks_by_index``.
        organs: names to label numbers.
        numbering: of this study, where it has one of its own.

    Returns:
        The label map on the scan's grid, and what was noticed: names that were ignored, masks that were resampled,
        numbers that fit another numbering better (an error).

    Raises:
        MaskError: ``no_file``, ``no_known_organ``, ``not_labels``, ``unnamed_mask``, ``masks_empty``,
            ``mask_elsewhere``, ``mask_geometry``, ``mask_slice_spacing``, or what a reader of the file says.
    """
    if not path.exists():
        raise MaskError(f"There are no masks {path}.", code="no_file", fix="Check the path.")
    stored = _dicom(path)
    source = _read(path, stored, scan, recipe, organs, numbering)
    checks = [*source.checks, *_ignored(source.unknown)]
    result: np.ndarray | None = None
    for one in source.label_maps:
        placed, noticed = on_scan(one.labels, one.affine, scan, by_index=recipe.align_masks_by_index)
        checks += [check for check in noticed if check not in checks]
        result = placed if result is None else np.where(placed > 0, placed, result)
    if result is None or not result.max(initial=0):
        where = path.name if stored is None else "The DICOM object"  # its file's name may be a UID
        raise MaskError(f"{where} marks no voxel of the scan.", code="masks_empty", fix="Segment the scan again.")
    named = source.names
    means = {int(label): source.numbers[label] for label in range(1, 256)}
    if named is None:
        names, chosen = organs.label_names(), None
    else:
        names = {label: named.organs[n] for label, n in means.items() if n in named.organs}
        chosen = named.chosen
    if any(source.numbers != np.arange(256)) and chosen:
        chosen = ""  # numbers that were squeezed are not those of a numbering
    checks += check_anatomy(regions_of(result, scan), names, body_of(scan), chosen)
    if named is not None:
        result = _renumbered(result, names, organs)
    return LabelMap(result, scan.affine), tuple(checks)


def _read(
    path: Path, stored: Path | None, scan: Scan, recipe: CtRecipe, organs: OrganDictionary, numbering: str | None
) -> _Source:
    if stored is not None:
        from ctglip.ct.masks_dicom import read_mask_object

        source = _Source()
        labels, affine = read_mask_object(stored, scan, organs, source.unknown, source.checks)
        source.label_maps = [_label_map(labels, RawVolume(labels, affine))]
        return source
    if path.is_dir():
        return _folder(path, organs)
    name = path.name.lower()
    if name.endswith(nrrd.SUFFIXES):
        return _segments(path, recipe, organs, numbering)
    if name.endswith(nifti.SUFFIXES):
        file = nifti.read_nifti(path, MaskError)
        return _multilabel(path, file.volume, file.names, recipe, organs, numbering)
    where = "This DICOM object" if is_dicom(path) else path.name
    raise MaskError(
        f"{where} is no mask format that is known here.",
        code="not_masks",
        fix="Give a NIfTI, .seg.nrrd or DICOM-SEG file, or a folder of one file per organ.",
    )


def _dicom(path: Path) -> Path | None:
    """The DICOM mask object that a path means, if it means one."""
    if path.is_dir() and any(p.name.lower().endswith(_SUFFIXES) for p in path.iterdir()):
        return None
    if path.is_file() and path.name.lower().endswith(_SUFFIXES):
        return None
    from ctglip.ct.masks_dicom import find_mask_object

    return find_mask_object(path)


def _ignored(unknown: list[str]) -> list[QualityCheck]:
    if not unknown:
        return []
    message = f"{len(unknown)} mask names are not in the organ dictionary and were ignored: {', '.join(unknown)}."
    return [QualityCheck("unknown_masks", "info", message, len(unknown))]


def _no_known(path: Path, unknown: list[str]) -> MaskError:
    listed = ", ".join(unknown[:5])
    return MaskError(
        f"{path.name} holds no organ of the dictionary (found: {listed or 'nothing'}).",
        code="no_known_organ",
        fix="Use TotalSegmentator's names or numbers, or set label_map in the recipe (a numbering, or number: organ).",
    )


def _placed(path: Path, volume: RawVolume) -> RawVolume:
    """The volume, if its header says where it lies."""
    for check in volume.checks:
        if check.severity == "error":
            raise MaskError(
                f"{path.name}: {check.message}", code=check.code, fix="Save the masks with the geometry of their scan."
            )
    return volume


def _multilabel(
    path: Path,
    volume: RawVolume,
    stated_names: dict[int, str],
    recipe: CtRecipe,
    organs: OrganDictionary,
    numbering: str | None,
) -> _Source:
    """A file of numbers; of one organ where its name says so and nothing else is said."""
    _placed(path, volume)
    if not stated_names and numbering is None and recipe.label_map is None and (beside := dataset_file(path)):
        stated_names = dataset_names(beside, organs)
    single = organs.from_source(_stem(path))
    if single is not None and recipe.label_map is None and numbering is None and not stated_names and _of_one(volume):
        inside, checks = one_organ(path.name, volume)
        return _Source([_label_map(inside * np.uint8(single.label or 0), volume)], checks=checks)
    values = integer_values(path.name, volume)
    present = present_in(values)
    if not present.any():
        return _Source()
    names = names_of(recipe, numbering, stated_names, present, path.name, organs)
    labels, numbers = compact(path.name, values, present)
    unknown = [names.others.get(n, f"number {n}") for n in present.tolist() if n and n not in names.organs]
    if len(unknown) == np.count_nonzero(present):
        raise _no_known(path, unknown)
    checks: list[QualityCheck] = []
    differing = [
        n
        for n in present.tolist()
        if n in stated_names and n in names.organs and _differs(stated_names[n], names, n, organs)
    ]
    if differing:
        message = (
            f"{path.name} has a label table of its own, which calls {len(differing)} numbers otherwise (first: "
            f"{differing[0]}, here {names.organs[differing[0]]}); what was chosen counts."
        )
        checks.append(QualityCheck("label_table_differs", "warning", message, len(differing)))
    return _Source([_label_map(labels, volume)], names, numbers, unknown, checks)


def _differs(stated: str, names: Names, number: int, organs: OrganDictionary) -> bool:
    organ = organs.from_source(stated)
    return organ is not None and organ.name != names.organs[number]


def _of_one(volume: RawVolume) -> bool:
    """Whether a file that is called after an organ can hold that organ alone: not many labels side by side."""
    values = volume.values
    if values.dtype != np.uint8 or volume.slope != 1 or volume.intercept != 0:
        return values.dtype.kind in "fb" or volume.slope != 1 or bool(len(np.unique(values)) <= 4)
    found = int(np.count_nonzero(present_in(values)))
    return found <= 3 or int(values.max(initial=0)) >= 128


def _renumbered(labels: np.ndarray, names: dict[int, str], organs: OrganDictionary) -> np.ndarray:
    """Numbers of the file to dictionary labels by a look-up table; unknown numbers become background."""
    table = np.zeros(256, np.uint8)
    for number, name in names.items():
        table[number] = organs[name].label or 0
    found = present_in(labels)
    return labels if np.array_equal(table[found], found) else table[labels]


def _folder(path: Path, organs: OrganDictionary) -> _Source:
    """One file per organ; wholes are drawn before their parts, so that the parts stay visible."""
    files = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(_SUFFIXES) and not p.name.startswith(".")]
    if not files:
        raise MaskError(f"The folder {path.name} holds no mask files.", code="folder_empty", fix="Check the path.")
    known = [(file, organ) for file in files if (organ := organs.from_source(_stem(file))) is not None]
    source = _Source(unknown=[_stem(file) for file in files if organs.from_source(_stem(file)) is None])
    if not known:
        raise _no_known(path, source.unknown)
    known.sort(key=lambda pair: (-len(organs.parts_of(pair[1].name)), pair[1].label or 0))
    grids: dict[tuple[object, ...], _LabelMap] = {}
    for file, organ in known:
        volume = _placed(file, _one_layer(file))
        key = (volume.values.shape, *np.round(volume.affine, 4).ravel().tolist())
        if key not in grids:
            grids[key] = _LabelMap(np.zeros(volume.values.shape, np.uint8, order="F"), volume.affine)
        inside, checks = one_organ(file.name, volume)
        source.checks += checks
        if inside.any():
            grids[key].labels[inside] = organ.label or 0
    source.label_maps = [_label_map(one.labels, RawVolume(one.labels, one.affine)) for one in grids.values()]
    return source


def _one_layer(path: Path) -> RawVolume:
    if path.name.lower().endswith(nrrd.SUFFIXES):
        return nrrd.read_nrrd(path, MaskError).layers[0]
    return nifti.read_nifti(path, MaskError).volume


def _segments(path: Path, recipe: CtRecipe, organs: OrganDictionary, numbering: str | None) -> _Source:
    """A Slicer segmentation by its segments' codes and names; an NRRD without segments as multilabel."""
    from ctglip.ct.masks_codes import organ_of

    file = nrrd.read_nrrd(path, MaskError)
    first = _placed(path, file.layers[0])
    if not file.segments:
        return _multilabel(path, first, {}, recipe, organs, numbering)
    source = _Source()
    labels = np.zeros(first.values.shape, np.uint8, order="F")
    known: list[tuple[nrrd.Segment, Organ]] = []
    for number, segment in enumerate(file.segments, start=1):
        organ = organ_of(f"segment {number}", [segment.name], segment.codes, organs, source.checks)
        if organ is None:
            source.unknown.append(segment.name)
        else:
            known.append((segment, organ))
    if not known:
        raise _no_known(path, source.unknown)
    for segment, organ in sorted(known, key=lambda pair: -len(organs.parts_of(pair[1].name))):
        if not 0 <= segment.layer < len(file.layers):
            raise MaskError(f"{path.name}: a segment names a layer that is not there.", code="bad_header")
        labels[file.layers[segment.layer].values == segment.value] = organ.label or 0
    source.label_maps = [_label_map(labels, first)]
    return source


def _label_map(labels: np.ndarray, volume: RawVolume) -> _LabelMap:
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        raise MaskError("The masks' affine maps voxels nowhere.", code="bad_affine")
    return _LabelMap(*canonical(labels, volume.affine))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
