"""Outlines of LIDC-IDRI's four readers: from the XML's pixels to RAS millimetres, nodule by nodule.

A reader's ``roi`` is one contour in one slice: pixels (column, row) just outside of the nodule, or, with ``inclusion``
FALSE, around a hole in it. No one says which marks of several readers are one nodule: here those whose boxes meet.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.errors import InvalidDicomError

from ctglip.ct.dicom_headers import read_dicom
from ctglip.errors import CohortError
from ctglip.files import quiet_pydicom

_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


@dataclass(frozen=True)
class SlicePlane:
    """Where the pixels of a series' axial slices lie: LPS mm of the first one, mm from column to column and row to
    row."""

    x: float
    y: float
    column_mm: float
    row_mm: float


@dataclass(frozen=True)
class NoduleMark:
    """One nodule of 3 mm or more as one reader outlined it.

    Attributes:
        contours: columns, rows and the slice's z in mm ``[points, 3]``, and whether it encloses nodule or a hole.
    """

    reader: int
    contours: tuple[tuple[np.ndarray, bool], ...]

    @property
    def box(self) -> np.ndarray:
        """Lowest and highest column, row, z ``[2, 3]``."""
        points = np.concatenate([points for points, _ in self.contours])
        return np.stack([points.min(0), points.max(0)])


def parse_xml(path: Path) -> ET.Element:
    """An XML file of annotations.

    Raises:
        CohortError: ``bad_xml``: it declares entities, or is none.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise CohortError("It declares entities.", code="bad_xml")
    try:
        return ET.fromstring(text)  # noqa: S314  (without entities)
    except ET.ParseError as error:
        raise CohortError(f"It cannot be read: {error}.", code="bad_xml") from error


def sessions_of(tree: ET.Element) -> list[ET.Element]:
    """The readers' sessions; none in the XML of a radiograph."""
    return [one for one in tree.iter() if _tag(one) == "readingSession"]


def has_nodule(session: ET.Element) -> bool:
    """Whether a reader marked a nodule of 3 mm or more: those alone have characteristics."""
    return any(_tag(one) == "characteristics" and len(one) for one in session.iter())


def marks_of(tree: ET.Element) -> list[NoduleMark]:
    """The outlined nodules of all readers."""
    return [
        NoduleMark(number, contours)
        for number, session in enumerate(sessions_of(tree))
        for nodule in session
        if _tag(nodule) == "unblindedReadNodule" and has_nodule(nodule)
        if (contours := tuple(_contours(nodule)))
    ]


def _contours(nodule: ET.Element) -> Iterator[tuple[np.ndarray, bool]]:
    for roi in nodule:
        if _tag(roi) != "roi":
            continue
        texts = {_tag(one): (one.text or "").strip() for one in roi}
        points: list[tuple[float, ...]] = []
        try:
            height = float(texts.get("imageZposition", ""))
            for edge in roi:
                if _tag(edge) == "edgeMap":
                    place = {_tag(one): float(one.text or "") for one in edge}
                    points.append((place["xCoord"], place["yCoord"], height))
        except (ValueError, KeyError):
            continue
        if points:
            yield np.array(points), texts.get("inclusion", "TRUE").upper() != "FALSE"


def nodules_of(marks: list[NoduleMark], slice_mm: float = 3.0) -> list[list[NoduleMark]]:
    """Marks that are one nodule: those whose boxes meet, directly or by way of others.

    Args:
        slice_mm: boxes this near to each other along z still meet.
    """
    groups: list[list[NoduleMark]] = []
    for mark in marks:
        meeting = [group for group in groups if any(_meet(mark.box, other.box, slice_mm) for other in group)]
        groups = [group for group in groups if not any(group is one for one in meeting)]
        groups.append([*(one for group in meeting for one in group), mark])
    return sorted(groups, key=lambda group: tuple(np.mean([mark.box.mean(0) for mark in group], axis=0)[::-1]))


def _meet(first: np.ndarray, second: np.ndarray, slice_mm: float) -> bool:
    gap = np.maximum(first[0], second[0]) - np.minimum(first[1], second[1])
    return bool((gap <= (0, 0, slice_mm)).all())


def outline_of(marks: list[NoduleMark], plane: SlicePlane, agreement: float) -> dict[str, Any]:
    """A nodule as plain data: each reader's contours in RAS mm, and how many readers must agree on a voxel."""
    readers = sorted({mark.reader for mark in marks})
    contours = [[contour for mark in marks if mark.reader == reader for contour in mark.contours] for reader in readers]
    return {
        "readers": [
            [{"points": _ras(points, plane).round(3).tolist(), "inclusion": kept} for points, kept in one]
            for one in contours
        ],
        "least": max(1, int(np.ceil(agreement * len(readers) - 1e-9))),
    }


def _ras(points: np.ndarray, plane: SlicePlane) -> np.ndarray:
    x = plane.x + points[:, 0] * plane.column_mm
    y = plane.y + points[:, 1] * plane.row_mm
    return np.stack([-x, -y, points[:, 2]], axis=1)


def plane_of(series: Path) -> SlicePlane | None:
    """The plane of a series' slices, from the header of a file; None where it cannot be told or is not axial."""
    for path in sorted(series.iterdir()):
        if path.suffix.lower() == ".xml":
            continue
        try:
            with quiet_pydicom():
                header = read_dicom(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            x, y, _ = (float(value) for value in header.ImagePositionPatient)
            row_mm, column_mm = (float(value) for value in header.PixelSpacing)
            axes = [float(value) for value in header.ImageOrientationPatient]
        except (InvalidDicomError, OSError, AttributeError, TypeError, ValueError):
            return None
        return SlicePlane(x, y, column_mm, row_mm) if np.allclose(axes, _AXIAL, atol=0.01) else None
    return None


def outlines_in(path: Path, series: Path, least_readers: int, agreement: float) -> list[dict[str, Any]]:
    """The nodules of a scan that enough readers marked, as plain data; none where the slices' plane is not known.

    Args:
        path: the XML.
        series: the folder of the DICOM files.
    """
    plane = plane_of(series)
    if plane is None:
        return []
    found = nodules_of(marks_of(parse_xml(path)))
    return [
        outline_of(marks, plane, agreement) for marks in found if len({one.reader for one in marks}) >= least_readers
    ]


def _tag(element: ET.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]
