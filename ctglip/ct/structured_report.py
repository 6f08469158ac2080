"""A drafted report as a DICOM structured report beside the images that it is about (highdicom).

The document is a basic diagnostic imaging report (DICOM PS3.16, TID 2000 in outline): findings and impression as text
items, the writing program as the observer, and the disclaimer first. It holds the patient's identity as the images do.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctglip.errors import ScanError
from ctglip.files import atomic_path
from ctglip.resources import require

EXTRA = "dicom"
_DCM, _LOINC = "DCM", "LN"
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Elements that a document must have and that de-identified images may lack."""


def write_structured_report(
    path: Path, files: Sequence[Path], disclaimer: str, findings: Sequence[str], impression: Sequence[str]
) -> Path:
    """Write a structured report about the images of one DICOM series, in UTF-8.

    Args:
        path: file to write.
        files: of the series.
        disclaimer: what the document is not.
        findings, impression: a text item each.

    Raises:
        ScanError: code ``no_dicom``: the images are no DICOM files, to which a structured report must refer.
        MissingExtraError: without ``ctglip[dicom]``.
    """
    images = _images(files)
    sr, coding = require("highdicom.sr", EXTRA), require("highdicom.sr.coding", EXTRA)

    def code(value: str, scheme: str, meaning: str) -> Any:
        return coding.CodedConcept(value, scheme, meaning)

    contains = sr.RelationshipTypeValues.CONTAINS

    def section(name: Any, item: Any, texts: Sequence[str]) -> Any:
        made = sr.ContainerContentItem(name=name, relationship_type=contains)
        made.ContentSequence = sr.ContentSequence(
            [sr.TextContentItem(name=item, value=text, relationship_type=contains) for text in texts]
        )
        return made

    root = sr.ContainerContentItem(name=code("11528-7", _LOINC, "Radiology Report"), template_id="2000")
    root.ContentSequence = sr.ContentSequence(
        [
            *sr.ObserverContext(
                observer_type=code("121007", _DCM, "Device"),
                observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                    uid=require("highdicom", EXTRA).UID(), name="ctglip", model_name=f"ctglip {version('ctglip')}"
                ),
            ),
            sr.TextContentItem(name=code("121106", _DCM, "Comment"), value=disclaimer, relationship_type=contains),
            section(code("121070", _DCM, "Findings"), code("121071", _DCM, "Finding"), findings),
            section(code("121072", _DCM, "Impressions"), code("121073", _DCM, "Impression"), impression),
        ]
    )
    document = sr.EnhancedSR(
        evidence=images,
        content=root,
        series_instance_uid=require("highdicom", EXTRA).UID(),
        series_number=9001,
        sop_instance_uid=require("highdicom", EXTRA).UID(),
        instance_number=1,
        manufacturer="ctglip",
        is_complete=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
    )
    document.SeriesDescription = "Draft for research, not verified"
    with atomic_path(path) as temporary:
        document.save_as(temporary)
    return path


def _images(files: Sequence[Path]) -> list[Any]:
    """The headers of images."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found = []
    for path in files:
        try:
            header = dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if "SOPInstanceUID" in header and "StudyInstanceUID" in header:
            found.append(header)
    if not found:
        raise ScanError(
            "The scan holds no DICOM images, and a structured report refers to those it is about.",
            code="no_dicom",
            fix="Give the DICOM series itself, or leave out --sr.",
        )
    for one in found:
        for name in _MAY_BE_EMPTY:
            if name not in one:
                setattr(one, name, "")
    return found
