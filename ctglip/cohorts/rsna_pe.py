"""RSNA pulmonary embolism detection: DICOM series with labels of exams and of images."""

from __future__ import annotations

import polars as pl

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk

_STUDY, _SERIES = "StudyInstanceUID", "SeriesInstanceUID"
_PRESENT, _NEGATIVE, _OPEN = "pe_present_on_image", "negative_exam_for_pe", "indeterminate"


class RsnaPe(CohortReader):
    """Reads the RSNA pulmonary embolism set."""

    name = "rsna_pe"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """The set in our form: a row a series, no split (the public test has no labels)."""
        del settings
        tables = CohortTables()
        table = disk.table("train.csv", columns=(_STUDY, _SERIES, _PRESENT, _NEGATIVE, _OPEN))
        folders = {path.rsplit("/", 1)[-1]: path for path in sorted(disk.series)}
        if not folders:
            raise disk.nothing("train/STUDY/SERIES/IMAGE.dcm")
        exams = (
            table.select(_STUDY, _SERIES, pl.col(_PRESENT, _NEGATIVE, _OPEN).cast(pl.Float32, strict=False))
            .group_by(_STUDY, _SERIES, maintain_order=True)
            .agg(pl.col(_PRESENT).max(), pl.col(_NEGATIVE).max(), pl.col(_OPEN).max(), pl.len().alias("images"))
        )
        short = 0
        for exam in exams.iter_rows(named=True):
            study, series = exam[_STUDY], exam[_SERIES]
            path = folders.get(series, f"train/{study}/{series}")
            there = disk.series.get(path, 0)
            if 0 < there < exam["images"]:
                short += 1
                tables.exclude(series, "series_incomplete", f"{path} has {there} of {exam['images']} images.")
                continue
            tables.rows.append({"study_id": series, "patient_id": study, "image": path, "modality": "ct"})
            present = 1 if exam[_PRESENT] else 0 if exam[_NEGATIVE] else None
            tables.labels[series] = {"pulmonary_embolism": None if exam[_OPEN] else present}
        used = {_STUDY, _SERIES, "SOPInstanceUID", _PRESENT, _NEGATIVE, _OPEN}
        for column in table.columns:
            if column not in used:
                tables.lost[column] = self.data.lost.get(column, "a column that is not known here")
        known = set(exams[_SERIES].to_list())
        unlabelled = sum(path.rsplit("/", 1)[-1] not in known for path in disk.series)
        tables.facts.append(
            f"Exams without a decision (indeterminate) have no label; {unlabelled} series are in no row (the public "
            f"test) and were left alone; {short} series lack images."
        )
        tables.facts.append("No table names the patient: each study counts as a patient of its own.")
        return tables
