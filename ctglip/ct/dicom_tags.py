"""Reading DICOM headers without letting them speak: values as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "ReferencedSegmentNumber": "SegmentIdentificationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "StackID": "FrameContentSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "VolumeBasedCalculationTechnique": "CTImageFrameTypeSequence",
}
"""Where a multi-frame object keeps what a plain slice has at its top."""


def frame_sources(header: Dataset) -> list[list[Dataset]]:
    """For each frame of a multi-frame object the places where its values may stand, nearest first; else the file."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return [[frame, shared, header] for frame in frames] or [[header]]


def look_up(sources: Sequence[Dataset], name: str) -> Any:
    """A value of the frame, else of all frames, else of the file; None where nobody says."""
    for source in sources:
        if (value := source.get(name)) is not None:
            return value
        group = source.get(_GROUPS[name]) if name in _GROUPS else None
        if group and (value := group[0].get(name)) is not None:
            return value
    return None


def numbers(value: Any, count: int) -> np.ndarray | None:
    """``count`` finite numbers, or None."""
    try:
        found = np.asarray([float(v) for v in value], np.float64)
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def number(value: Any) -> float | None:
    """One finite number, or None."""
    found = numbers([value], 1)
    return None if found is None else float(found[0])


def integer(value: Any) -> int | None:
    """One whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def plane(sources: Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray, tuple[float, float]] | None:
    """First pixel's place ``[3]``, row and column directions ``[6]``, pixel spacing; None unless all make sense."""
    position = numbers(look_up(sources, "ImagePositionPatient"), 3)
    axes = numbers(look_up(sources, "ImageOrientationPatient"), 6)
    pixel = numbers(look_up(sources, "PixelSpacing"), 2)
    if position is None or axes is None or pixel is None or pixel.min() <= 0:
        return None
    lengths = np.linalg.norm(axes.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(axes[:3] @ axes[3:]) > 0.01:
        return None
    return position, axes, (float(pixel[0]), float(pixel[1]))


def syntax_name(uid: Any) -> str:
    """A public transfer syntax's name; never a UID."""
    name = UID(str(uid or "")).name
    return name if name[:1].isalpha() else "an unknown transfer syntax"
