"""A tree of mixed DICOM files, sorted by patient, study and series: one short header a file. What is kept here of
headers (ids, names, dates) is private: it serves to group, to hash and to mask, and is never shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ctglip.cohorts.private_ids import Masker
from ctglip.ct.dicom_headers import is_ct, read_dicom
from ctglip.ct.dicom_tags import integer
from ctglip.files import files_below, quiet_pydicom

_NAMES = ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
          "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord")  # fmt: skip
_DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_VALUES = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "StudyID", "OtherPatientIDs")
_TAGS = [
    *_NAMES, *_DATES, *_VALUES, "SOPClassUID", "Modality", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel",
    "NumberOfFrames", "ImageType",
]  # fmt: skip
_KINDS = {
    "SR": "report or dose report", "PR": "presentation state", "KO": "key object note", "CR": "radiograph",
    "DX": "radiograph", "RF": "fluoroscopy", "XA": "angiogram", "MR": "MR", "PT": "PET", "NM": "scintigram",
    "US": "ultrasound", "MG": "mammogram", "SEG": "segmentation", "RTSTRUCT": "contours", "RTDOSE": "dose map",
    "RTPLAN": "treatment plan", "OT": "other image", "DOC": "document", "REG": "registration", "SC": "screen",
}  # fmt: skip
SECONDARY = "secondary capture"
_ELEMENT = 8
"""Bytes of a tag and its length, at least."""
_SECONDARY_CLASS = "1.2.840.10008.5.1.4.1.1.7"


@dataclass
class TreeSeries:
    """The files of one series.

    Attributes:
        images: CT images that are whole.
        others: how many other objects by what they are.
        truncated: CT images with fewer bytes than their header says.
    """

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    truncated: list[Path] = field(default_factory=list)


@dataclass
class TreeStudy:
    """One study of one patient; every value of it is private.

    Attributes:
        patient, uid: what names them in the headers.
        known: names, dates and other values, to be masked in texts.
    """

    patient: str
    uid: str
    accessions: set[str] = field(default_factory=set)
    series: dict[str, TreeSeries] = field(default_factory=dict)
    known: dict[str, set[str]] = field(default_factory=lambda: {"values": set(), "names": set(), "dates": set()})

    def masker(self) -> Masker:
        """What takes the study's values out of a text."""
        return Masker(**self.known)


@dataclass
class Tree:
    """What was found below a folder.

    Attributes:
        studies: by patient and study.
        unusable: files that belong to no study -> reason: ``not_dicom``, ``damaged``.
        without_patient: studies whose headers name no patient.
        without_uid: those whose headers name no study: the accession number, the series or the folder stands for it.
        files: how many there are.
    """

    studies: dict[tuple[str, str], TreeStudy] = field(default_factory=dict)
    unusable: dict[Path, str] = field(default_factory=dict)
    without_patient: int = 0
    without_uid: set[tuple[str, str]] = field(default_factory=set)
    files: int = 0


def read_tree(root: Path) -> Tree:
    """Sort every file below a folder; names and suffixes of files do not count."""
    tree = Tree()
    with quiet_pydicom():
        for path in files_below(root):
            if path.name.upper() == "DICOMDIR" or path.name.startswith("."):
                continue
            tree.files += 1
            try:
                with path.open("rb") as stream:
                    header = read_dicom(path, stream, stop_before_pixels=True, specific_tags=_TAGS)
                    pixels_at = stream.tell()
                known = "SOPClassUID" in header or "Modality" in header
                if known:
                    _sort(tree, path, path.parent.relative_to(root).as_posix(), header, pixels_at)
                else:
                    tree.unusable[path] = "damaged"
            except InvalidDicomError:
                tree.unusable[path] = "not_dicom"
            except Exception:  # noqa: BLE001  pydicom raises what it meets in a damaged header
                tree.unusable[path] = "damaged"
    tree.without_patient = sum(not study.patient for study in tree.studies.values())
    return tree


def _sort(tree: Tree, path: Path, folder: str, header: Dataset, pixels_at: int) -> None:
    """Put a file where it belongs."""
    patient, accession = _text(header, "PatientID"), _text(header, "AccessionNumber")
    uid = _text(header, "StudyInstanceUID") or accession or _text(header, "SeriesInstanceUID") or folder
    if not _text(header, "StudyInstanceUID"):
        tree.without_uid.add((patient, uid))
    kind = _kind(header)
    whole = kind is not None or not _is_truncated(path, header, pixels_at)
    study = tree.studies.setdefault((patient, uid), TreeStudy(patient, uid))
    if accession:
        study.accessions.add(accession)
    for group, names in (("values", _VALUES), ("names", _NAMES), ("dates", _DATES)):
        study.known[group].update(filter(None, (_text(header, name) for name in names)))
    series = study.series.setdefault(_text(header, "SeriesInstanceUID"), TreeSeries())
    if kind is not None:
        series.others[kind] += 1
    else:
        (series.images if whole else series.truncated).append(path)


def _text(header: Dataset, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()


def _kind(header: Dataset) -> str | None:
    """What an object is in words of ours; None for a CT image."""
    if _text(header, "SOPClassUID").startswith(_SECONDARY_CLASS) and is_ct(header):
        return SECONDARY
    return None if is_ct(header) else _KINDS.get(_text(header, "Modality"), "object of another kind")


def _is_truncated(path: Path, header: Dataset, pixels_at: int) -> bool:
    """Whether a file without compression has fewer bytes after its header than its pixels need."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is not None and (syntax.is_compressed or syntax.is_deflated):
        return False
    sides = [integer(header.get(name)) or 1 for name in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    count = sides[0] * sides[1] * sides[2] * sides[3] * (integer(header.get("BitsAllocated")) or 16)
    return path.stat().st_size < pixels_at + _ELEMENT + count // 8
