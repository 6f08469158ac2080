"""A finished study into the store, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ctglip.cohort import CohortRow
from ctglip.store.study import SourceGrid, StudyRecord, write_study
from ctglip.types import Finding, Report, Standardized


def write(
    store: Path,
    row: CohortRow,
    standardized: Standardized,
    source: SourceGrid,
    report: Report | None,
    findings: tuple[Finding, ...],
    checksum: str,
    recipe_hash: str,
    image_checksum: str = "",
) -> Path:
    """Write one study with its table rows inside; returns its folder."""
    record = StudyRecord(
        study_id=row.study_id,
        patient_id=row.patient_id,
        standardized=standardized,
        source_checksum=checksum,
        recipe_hash=recipe_hash,
        report=report,
        findings=findings,
        row=row.model_dump(include={"modality", "view", "age", "sex", "scanner"}),
        source=source,
        image_checksum=image_checksum,
    )
    return write_study(store, record)
