"""NLST: low-dose CT of three yearly rounds, several reconstructions of an exam, as the archive hands it out.

One header of each series is read: the patient, the year (the archive dates rounds 1999, 2000 and 2001), the kernel and
the thickness.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.errors import InvalidDicomError

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.kernels import is_soft
from ctglip.ct.dicom_headers import read_dicom
from ctglip.files import quiet_pydicom

_TAGS = ["PatientID", "StudyDate", "Modality", "ImageType", "ConvolutionKernel", "SliceThickness", "SeriesDescription"]
_ROUND: Mapping[str, int] = {"1999": 0, "2000": 1, "2001": 2}
_LEAST_SLICES = 20
Rule = Literal["thinnest_slices", "soft_kernel", "most_slices"]


class NlstSettings(CohortSettings):
    """What can be chosen of NLST.

    Attributes:
        reconstructions: ``one`` an exam, or ``all``: each is a study.
        choose: which one: by the first rule that tells them apart.
    """

    reconstructions: Literal["one", "all"] = "one"
    choose: tuple[Rule, ...] = ("soft_kernel", "thinnest_slices", "most_slices")


@dataclass(frozen=True)
class _NlstSeries:
    """One series as its first header has it."""

    path: str
    patient: str
    round: int
    slices: int
    thickness_mm: float
    soft: bool


class Nlst(CohortReader):
    """Reads NLST."""

    name = "nlst"
    Settings = NlstSettings

    def read(self, disk: Disk, settings: NlstSettings) -> CohortTables:
        """NLST in our form: a row an exam (patient and round)."""
        tables = CohortTables()
        if not disk.series:
            raise disk.nothing("NLST/100002/STUDY/SERIES/1-001.dcm")
        exams: defaultdict[tuple[str, int], list[_NlstSeries]] = defaultdict(list)
        for path, count in sorted(disk.series.items()):
            if count < _LEAST_SLICES:
                tables.exclude(path, "too_few_images", f"{count} images: a scout, or a half download.")
            elif (series := _series(disk.root, path, count, tables)) is not None:
                exams[series.patient, series.round].append(series)
        for (patient, number), found in sorted(exams.items()):
            ordered = sorted(found, key=lambda one: (*(_rank(one, rule) for rule in settings.choose), one.path))
            chosen = ordered if settings.reconstructions == "all" else ordered[:1]
            for position, one in enumerate(chosen, start=1):
                study_id = f"{patient}_T{number}" + (f"_{position}" if settings.reconstructions == "all" else "")
                tables.rows.append({"study_id": study_id, "patient_id": patient, "image": one.path, "modality": "ct"})
            for other in ordered[len(chosen) :]:
                tables.exclude(
                    other.path, "other_reconstruction", f"Another was chosen by {', '.join(settings.choose)}."
                )
        tables.facts.append("Rounds are T0, T1, T2 by the year of the study; the trial's tables were not taken.")
        return tables


def _series(root: Path, path: str, count: int, tables: CohortTables) -> _NlstSeries | None:
    first = min((root / path).iterdir())
    try:
        with quiet_pydicom():
            header = read_dicom(first, stop_before_pixels=True, specific_tags=_TAGS)
    except (InvalidDicomError, OSError) as error:
        tables.exclude(path, "unreadable", f"Its first file cannot be read: {type(error).__name__}.")
        return None
    kind = [str(part) for part in header.get("ImageType", [])]
    year = str(header.get("StudyDate", ""))[:4]
    if header.get("Modality") != "CT" or "LOCALIZER" in kind:
        tables.exclude(path, "not_a_ct_volume", f"It is {header.get('Modality')} {'/'.join(kind)}.")
        return None
    if year not in _ROUND:
        tables.exclude(path, "unknown_round", "Its year is none of 1999, 2000 and 2001.")
        return None
    kernel = str(header.get("ConvolutionKernel", ""))
    described = str(header.get("SeriesDescription", ""))
    soft = any(is_soft(word) for word in ([kernel] if kernel else described.split(",")))
    try:
        thickness = float(header.get("SliceThickness") or math.inf)
    except (TypeError, ValueError):
        thickness = math.inf
    return _NlstSeries(path, str(header.get("PatientID", "")) or "unknown", _ROUND[year], count, thickness, soft)


def _rank(one: _NlstSeries, rule: str) -> float:
    return {"thinnest_slices": one.thickness_mm, "soft_kernel": float(not one.soft), "most_slices": -one.slices}[rule]
