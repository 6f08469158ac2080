"""Organ masks as DICOM stores them: segmentation objects (bits, fractions or a label map) and contours (RTSTRUCT).

Structures are found by their coded meaning or label in the organ dictionary; the label of an unknown one is never
shown, since people write what they like into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ctglip.errors import MaskError
from ctglip.files import is_dicom, quiet_pydicom
from ctglip.types import Scan
from ctglip.vocabulary.organs import Organ, OrganDictionary
from ctglip.volume.dicom_tags import frame_sources, look_up, number, plane, whole
from ctglip.volume.geometry import LPS_TO_RAS

_STORED = {"SEG": "segmentation", "RTSTRUCT": "contours"}


def find_mask_object(path: Path) -> Path | None:
    """The DICOM segmentation or contour file at a path, or the only one in a folder; None when there is none.

    Raises:
        MaskError: ``several_masks`` when the folder holds more than one.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found: list[Path] = []
    with quiet_pydicom():
        for file in files:
            if not is_dicom(file):
                continue
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"])
            except Exception:  # noqa: BLE001, S112  a damaged neighbour is no mask object
                continue
            if header.get("Modality") in _STORED:
                found.append(file)
    if len(found) > 1:
        raise MaskError(
            f"The folder holds {len(found)} DICOM segmentations, expected one.",
            code="several_masks",
            fix="Name the file of one of them.",
        )
    return found[0] if found else None


def read_mask_object(
    path: Path, scan: Scan, organs: OrganDictionary, unknown: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Dictionary labels and their affine from a DICOM segmentation or contour file.

    Args:
        path: the file.
        scan: contours are filled on its slices.
        organs: names and codes to label numbers.
        unknown: receives a word for each structure that is ignored.

    Raises:
        MaskError: ``no_known_organ``, ``dicom_damaged``, ``dicom_geometry``, ``dicom_pixels``.
    """
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(path)
    except Exception as problem:  # noqa: BLE001  its words may quote the header
        raise MaskError(f"The DICOM masks cannot be read ({type(problem).__name__}).", code="dicom_damaged") from None
    try:
        if dataset.get("Modality") == "RTSTRUCT":
            return _contours(dataset, scan, organs, unknown)
        return _segmentation(dataset, organs, unknown)
    except MaskError:
        raise
    except Exception as problem:  # noqa: BLE001  an object that breaks its own standard
        raise MaskError(
            f"The DICOM masks contradict themselves ({type(problem).__name__}).", code="dicom_damaged"
        ) from None


def _organ(names: list[Any], codes: list[Dataset], side: str | None, organs: OrganDictionary) -> Organ | None:
    """By what it is called, with its side in front where that is told apart, else by its code."""
    for name in (str(name).strip() for name in names if name):
        for tried in [f"{side} {name}", name] if side else [name]:
            organ = organs.from_source(tried) or organs.from_source(tried.lower().replace(" ", "_"))
            if organ is not None and (side is None or organ.side in (None, side)):
                return organ
    values = {str(code.get("CodeValue", "")) for code in codes}
    same = [o for o in organs.organs.values() if o.code and o.code.value in values and o.label is not None]
    sided = [organ for organ in same if organ.side == side] or same
    return sided[0] if len(sided) == 1 else None


def _described(segment: Dataset, organs: OrganDictionary) -> Organ | None:
    types = list(segment.get("SegmentedPropertyTypeCodeSequence") or [])
    modifiers = [m for t in types for m in (t.get("SegmentedPropertyTypeModifierCodeSequence") or [])]
    regions = list(segment.get("AnatomicRegionSequence") or [])
    modifiers += [m for r in regions for m in (r.get("AnatomicRegionModifierSequence") or [])]
    words = [str(m.get("CodeMeaning", "")).lower() for m in modifiers]
    side = next((side for side in ("left", "right") if side in words), None)
    names = [segment.get("SegmentLabel"), segment.get("SegmentDescription")]
    names += [code.get("CodeMeaning") for code in (*types, *regions)]
    return _organ(names, [*types, *regions], side, organs)


def _known(found: dict[int, Organ | None], organs: OrganDictionary, unknown: list[str]) -> list[tuple[int, Organ]]:
    """Numbers and organs, wholes before their parts."""
    unknown += [f"segment {key}" for key, organ in found.items() if organ is None]
    known = [(key, organ) for key, organ in found.items() if organ is not None]
    if not known:
        raise MaskError(
            f"None of the {len(found)} structures of the DICOM masks is an organ of the dictionary.",
            code="no_known_organ",
            fix="Give the segments the names or SNOMED codes of the organ dictionary.",
        )
    return sorted(known, key=lambda pair: -len(organs.parts_of(pair[1].name)))


def _segmentation(dataset: Dataset, organs: OrganDictionary, unknown: list[str]) -> tuple[np.ndarray, np.ndarray]:
    segments = {whole(s.get("SegmentNumber")) or 0: _described(s, organs) for s in dataset.get("SegmentSequence") or []}
    known = _known(segments, organs, unknown)
    sources = frame_sources(dataset)
    planes = [found for source in sources if (found := plane(source)) is not None]
    frames = _frames(dataset)
    if len(planes) != len(frames):
        raise MaskError("The frames of the DICOM masks say no position.", code="dicom_geometry")
    index, affine = _stack(planes, sources[0])
    labels = np.zeros((frames.shape[2], frames.shape[1], int(index.max()) + 1), np.uint8, order="F")
    kind = str(dataset.get("SegmentationType", "BINARY"))
    fraction = float(dataset.get("MaximumFractionalValue") or 1) / 2 if kind == "FRACTIONAL" else 0.5
    owners = [whole(look_up(source, "ReferencedSegmentNumber")) for source in sources]
    for key, organ in known:
        for k, frame, owner in zip(index.tolist(), frames, owners, strict=True):
            if kind == "LABELMAP":
                labels[:, :, k][key == frame.T] = organ.label or 0
            elif owner == key:
                labels[:, :, k][fraction < frame.T] = organ.label or 0
    return labels, affine


def _frames(dataset: Dataset) -> np.ndarray:
    """``[frames, rows, columns]``."""
    try:
        with quiet_pydicom():
            pixels = dataset.pixel_array
    except Exception as problem:  # noqa: BLE001  decoders raise anything
        raise MaskError(
            f"The pixels of the DICOM masks cannot be decoded ({type(problem).__name__}).", code="dicom_pixels"
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels


def _stack(
    planes: list[tuple[np.ndarray, np.ndarray, tuple[float, float]]], source: list[Dataset]
) -> tuple[np.ndarray, np.ndarray]:
    """Slice index of each frame, and the RAS+ affine of the stack that they make."""
    axes, pixel_mm = planes[0][1], planes[0][2]
    if max(np.abs(found[1] - axes).max() for found in planes) > 0.01:
        raise MaskError("The frames of the DICOM masks have several orientations.", code="dicom_geometry")
    normal = np.cross(axes[:3], axes[3:])
    places = np.stack([found[0] for found in planes])
    heights = places @ normal
    apart = np.diff(np.unique(np.round(heights, 3)))
    thickness = number(look_up(source, "SpacingBetweenSlices")) or number(look_up(source, "SliceThickness")) or 1.0
    step = float(apart.min()) if len(apart) else thickness
    index = np.rint((heights - heights.min()) / step).astype(np.intp)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = axes[:3] * pixel_mm[1], axes[3:] * pixel_mm[0], normal * step
    top, bottom = int(heights.argmax()), int(heights.argmin())
    if index[top] > 0:
        affine[:3, 2] = (places[top] - places[bottom]) / index[top]
    affine[:3, 3] = places[bottom]
    return index, LPS_TO_RAS @ affine


def _contours(
    dataset: Dataset, scan: Scan, organs: OrganDictionary, unknown: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Closed planar contours, filled on the scan's slices (even-odd, so that a contour within another is a hole)."""
    rois = dataset.get("StructureSetROISequence") or []
    names = {whole(roi.get("ROINumber")) or 0: _organ([roi.get("ROIName")], [], None, organs) for roi in rois}
    known = _known(names, organs, unknown)
    outlines = dataset.get("ROIContourSequence") or []
    drawn = {whole(outline.get("ReferencedROINumber")): outline.get("ContourSequence") or [] for outline in outlines}
    width, height, slices = scan.hu.shape
    labels = np.zeros(scan.hu.shape, np.uint8)
    inverse = np.linalg.inv(LPS_TO_RAS @ scan.affine)
    for key, organ in known:
        inside = np.zeros(scan.hu.shape, bool)
        for contour in drawn.get(key, []):
            points = np.asarray(contour.get("ContourData") or [], np.float64).reshape(-1, 3)
            index = points @ inverse[:3, :3].T + inverse[:3, 3]
            if len(index) < 3:
                continue
            if np.ptp(index[:, 2]) > 0.5:
                raise MaskError("The contours do not lie in the scan's slices.", code="dicom_geometry")
            slice_ = round(float(index[:, 2].mean()))
            if 0 <= slice_ < slices:
                inside[:, :, slice_] ^= _filled(index[:, :2], (width, height))
        labels[inside] = organ.label or 0
    return labels, scan.affine


def _filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Voxels ``[x, y]`` whose centres lie inside a polygon, by counting the edges that a line along x crosses."""
    result = np.zeros(shape, bool)
    start, end = points, np.roll(points, -1, axis=0)
    for y in range(max(0, int(points[:, 1].min())), min(shape[1], int(points[:, 1].max()) + 2)):
        crossing = (start[:, 1] <= y) != (end[:, 1] <= y)
        a, b = start[crossing], end[crossing]
        places = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        result[:, y] = np.searchsorted(np.sort(places), np.arange(shape[0]), side="right") % 2 == 1
    return result
