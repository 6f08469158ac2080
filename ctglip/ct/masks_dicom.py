"""Organ masks as DICOM stores them: segmentation objects (bits, fractions or a label map) and contours (RTSTRUCT).

Structures are found by their code or label; the label of an unknown one is never shown, since people write what they
like into it. Each frame lies where it says; slices without a frame are background.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ctglip.ct.dicom_tags import frame_sources, integer, look_up, number, plane
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.masks_codes import SegmentCodes, organ_of
from ctglip.ct.masks_contours import draw_contours
from ctglip.dicom_pixels import pixels_of
from ctglip.errors import MaskError
from ctglip.files import is_dicom, quiet_pydicom
from ctglip.limits import check_voxels
from ctglip.types import QualityCheck, Scan
from ctglip.vocabulary.mask_names import CodedConcept
from ctglip.vocabulary.organs import Organ, OrganDictionary

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
    path: Path, scan: Scan, organs: OrganDictionary, unknown: list[str], checks: list[QualityCheck]
) -> tuple[np.ndarray, np.ndarray]:
    """Dictionary labels and their affine from a DICOM segmentation or contour file.

    Args:
        path: the file.
        scan: frames and contours are laid on its slices.
        organs: names and codes to label numbers.
        unknown: receives a word for each structure that is ignored.
        checks: receives what was noticed.

    Raises:
        MaskError: ``no_known_organ``, ``side_contradicts``, ``mask_elsewhere``, ``dicom_damaged``, ``dicom_geometry``,
            ``dicom_pixels``.
    """
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(path)
    except Exception as problem:  # noqa: BLE001  its words may quote the header
        raise MaskError(f"The DICOM masks cannot be read ({type(problem).__name__}).", code="dicom_damaged") from None
    try:
        found = _structures(dataset, organs, checks)
        known = _known(found, organs, unknown)
        if dataset.get("Modality") == "RTSTRUCT":
            return draw_contours(dataset, known, scan, checks), scan.affine
        return _segmentation(dataset, known, scan, checks)
    except MaskError:
        raise
    except Exception as problem:  # noqa: BLE001  an object that breaks its own standard
        raise MaskError(
            f"The DICOM masks contradict themselves ({type(problem).__name__}).", code="dicom_damaged"
        ) from None


def _structures(dataset: Dataset, organs: OrganDictionary, checks: list[QualityCheck]) -> dict[int, Organ | None]:
    """Number and organ of each segment or contoured structure."""
    if dataset.get("Modality") != "RTSTRUCT":
        return {
            (key := integer(s.get("SegmentNumber")) or 0): organ_of(
                f"segment {key}",
                [s.get("SegmentLabel"), s.get("SegmentDescription")],
                _segment_codes(s),
                organs,
                checks,
                _meanings(s),
            )
            for s in dataset.get("SegmentSequence") or []
        }
    coded = {
        integer(observation.get("ReferencedROINumber")): _codes(observation.get("RTROIIdentificationCodeSequence"))
        for observation in dataset.get("RTROIObservationsSequence") or []
    }
    found: dict[int, Organ | None] = {}
    for roi in dataset.get("StructureSetROISequence") or []:
        key = integer(roi.get("ROINumber")) or 0
        codes = SegmentCodes(types=coded.get(key, ()))
        found[key] = organ_of(f"structure {key}", [roi.get("ROIName")], codes, organs, checks)
    return found


def _codes(items: Any) -> tuple[CodedConcept, ...]:
    """Scheme and value of each item of a code sequence."""
    return tuple((str(i.get("CodingSchemeDesignator", "")), str(i.get("CodeValue", ""))) for i in items or [])


def _segment_codes(segment: Dataset) -> SegmentCodes:
    types = list(segment.get("SegmentedPropertyTypeCodeSequence") or [])
    regions = list(segment.get("AnatomicRegionSequence") or [])
    modifiers = [m for t in types for m in (t.get("SegmentedPropertyTypeModifierCodeSequence") or [])]
    modifiers += list(segment.get("SegmentedPropertyTypeModifierCodeSequence") or [])
    modifiers += [m for r in regions for m in (r.get("AnatomicRegionModifierSequence") or [])]
    return SegmentCodes(
        _codes(segment.get("SegmentedPropertyCategoryCodeSequence")), _codes(types), _codes(regions), _codes(modifiers)
    )


def _meanings(segment: Dataset) -> list[str]:
    """What the types say in words, with their side in front: for codes that are not known."""
    types = list(segment.get("SegmentedPropertyTypeCodeSequence") or [])
    modifiers = [m for t in types for m in (t.get("SegmentedPropertyTypeModifierCodeSequence") or [])]
    words = [str(modifier.get("CodeMeaning", "")) for modifier in modifiers]
    side = next((word for word in words if word.lower() in ("left", "right")), "")
    return [f"{side} {code.get('CodeMeaning', '')}".strip() for code in types]


def _known(found: dict[int, Organ | None], organs: OrganDictionary, unknown: list[str]) -> list[tuple[int, Organ]]:
    """Numbers and organs, wholes before their parts."""
    unknown += [f"segment {key}" for key, organ in found.items() if organ is None]
    known = [(key, organ) for key, organ in found.items() if organ is not None]
    if not known:
        raise MaskError(
            f"None of the {len(found)} structures of the DICOM masks is an organ of the dictionary.",
            code="no_known_organ",
            fix="Give the segments names (TotalSegmentator's, TG-263's) or SNOMED codes of organs.",
        )
    return sorted(known, key=lambda pair: -len(organs.parts_of(pair[1].name)))


def _segmentation(
    dataset: Dataset, known: list[tuple[int, Organ]], scan: Scan, checks: list[QualityCheck]
) -> tuple[np.ndarray, np.ndarray]:
    sources = frame_sources(dataset)
    planes = [found for source in sources if (found := plane(source)) is not None]
    frames = _frames(dataset)
    if len(planes) != len(frames):
        raise MaskError("The frames of the DICOM masks say no position.", code="dicom_geometry")
    stack = _resampled(planes, sources[0], scan, (frames.shape[1], frames.shape[2]))
    filled = [k for k in range(len(frames)) if frames[k].any()]
    outside = np.intersect1d(stack.outside, filled)
    if filled and len(outside) > len(filled) / 2:
        raise MaskError(
            f"{len(outside)} of the {len(filled)} frames of the DICOM masks lie outside of the scan.",
            code="mask_elsewhere",
            fix="Give the masks that were drawn on this scan.",
        )
    if len(outside):
        message = f"{len(outside)} of {len(filled)} frames of the DICOM masks lie outside of the scan."
        checks.append(QualityCheck("frames_outside", "warning", message, len(outside)))
    labels = np.zeros((frames.shape[2], frames.shape[1], len(stack.frames)), np.uint8, order="F")
    kind = str(dataset.get("SegmentationType", "BINARY"))
    fraction = float(dataset.get("MaximumFractionalValue") or 1) / 2 if kind == "FRACTIONAL" else 0.5
    owners = [integer(look_up(source, "ReferencedSegmentNumber")) for source in sources]
    for key, organ in known:
        for k, near in enumerate(stack.frames):
            inside = [f for f in near if kind == "LABELMAP" or owners[f] == key]
            if not inside:
                continue
            frame = frames[inside[0]].T
            labels[:, :, k][frame == key if kind == "LABELMAP" else frame > fraction] = organ.label or 0
    return labels, stack.affine


def _frames(dataset: Dataset) -> np.ndarray:
    """``[frames, rows, columns]``."""
    try:
        with quiet_pydicom():
            pixels = pixels_of(dataset)
    except Exception as problem:  # noqa: BLE001  decoders raise anything
        raise MaskError(
            f"The pixels of the DICOM masks cannot be decoded ({type(problem).__name__}).", code="dicom_pixels"
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels


@dataclass(frozen=True)
class _Stack:
    """Slices and the frames that lie on each, nearest first; their affine (RAS+); frames outside of the scan."""

    frames: list[list[int]]
    affine: np.ndarray
    outside: tuple[int, ...] = ()


def _resampled(
    planes: list[tuple[np.ndarray, np.ndarray, tuple[float, float]]],
    source: list[Dataset],
    scan: Scan,
    size: tuple[int, int],
) -> _Stack:
    """Where the frames lie: on the scan's slices where these are parallel, else on a stack of their own."""
    axes, pixel_mm = planes[0][1], planes[0][2]
    if max(np.abs(found[1] - axes).max() for found in planes) > 0.01:
        raise MaskError("The frames of the DICOM masks have several orientations.", code="dicom_geometry")
    if max(np.abs(np.subtract(found[2], pixel_mm)).max() for found in planes) > 0.01 * min(pixel_mm):
        raise MaskError("The frames of the DICOM masks have several pixel sizes.", code="dicom_geometry")
    normal = np.cross(axes[:3], axes[3:])
    positions = np.stack([found[0] for found in planes])
    heights = positions @ normal
    plain = np.eye(4)
    plain[:3, 0], plain[:3, 1] = axes[:3] * pixel_mm[1], axes[3:] * pixel_mm[0]
    within = positions - heights[:, None] * normal
    if np.abs(within - within[0]).max() > 0.5 * min(pixel_mm):
        return _regular_stack(positions, heights, plain, normal, size)
    slices = LPS_TO_RAS @ scan.affine
    cosine = normal @ (slices[:3, :3] / np.linalg.norm(slices[:3, :3], axis=0))
    axis = int(np.abs(cosine).argmax())
    if abs(cosine[axis]) < 0.9999:
        return _regular_stack(positions, heights, plain, normal, size)
    step = slices[:3, axis]
    plane_heights = (slices[:3, 3] + np.arange(scan.hu.shape[axis])[:, None] * step) @ normal
    between = float(np.linalg.norm(step))
    reach = _reach(heights, source, between)
    apart = np.abs(heights - plane_heights[:, None])
    frames = [sorted(np.flatnonzero(row <= reach), key=row.__getitem__) for row in apart]
    plain[:3, 2] = normal * (step @ normal)
    plain[:3, 3] = within[0] + plane_heights[0] * normal
    low, high = plane_heights.min() - between / 2, plane_heights.max() + between / 2
    outside = np.flatnonzero((heights < low - 1e-3) | (heights > high + 1e-3))
    return _Stack([[int(f) for f in row] for row in frames], LPS_TO_RAS @ plain, tuple(outside.tolist()))


def _reach(heights: np.ndarray, source: list[Dataset], between: float) -> float:
    """How far from a frame the middle of a slice may lie to take it, mm: half a frame where frames lie edge to edge or
    are thicker than slices, else half a slice."""
    gaps = _gaps(heights)
    usual = float(np.median(gaps)) if len(gaps) else between
    thickness = number(look_up(source, "SpacingBetweenSlices")) or number(look_up(source, "SliceThickness")) or usual
    reach = thickness if thickness >= between or thickness >= 0.9 * usual else between
    return reach / 2 + 0.02 * min(thickness, between)


def _gaps(heights: np.ndarray) -> np.ndarray:
    """Distances of neighbouring planes, mm; what differs by rounding or a jitter is one plane."""
    gaps = np.diff(np.sort(heights))
    return gaps[gaps > 0.1]


def _regular_stack(
    positions: np.ndarray, heights: np.ndarray, plain: np.ndarray, normal: np.ndarray, size: tuple[int, int]
) -> _Stack:
    """A regular stack of the frames' own, for slices that are not the scan's (oblique or sheared)."""
    gaps = _gaps(heights)
    step = float(gaps.min()) if len(gaps) else 1.0
    check_voxels((*size, int(np.ptp(heights) / step) + 1), "The stack of the DICOM masks' frames", MaskError)
    index = np.rint((heights - heights.min()) / step).astype(np.intp)
    top, bottom = int(heights.argmax()), int(heights.argmin())
    plain[:3, 2] = (positions[top] - positions[bottom]) / index[top] if index[top] > 0 else normal * step
    plain[:3, 3] = positions[bottom]
    stated = positions[bottom] + index[:, None] * plain[:3, 2]
    if np.abs(stated - positions).max() > 0.6 * step:
        raise MaskError("The frames of the DICOM masks lie at irregular places.", code="dicom_geometry")
    return _Stack([np.flatnonzero(index == k).tolist() for k in range(int(index.max()) + 1)], LPS_TO_RAS @ plain)
