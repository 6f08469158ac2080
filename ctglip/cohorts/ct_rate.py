"""CT-RATE: chest CT with reports, two versions of the volumes, several reconstructions a study.

Version 1 (``train``, ``valid``) has blank headers and stored numbers: slope, intercept, spacing, origin and axes come
from the metadata table, and the cohort's rows carry them. Version 2 (``train_fixed``, ``valid_fixed``) holds HU with
right headers: the table's slope and intercept must not be applied to it, so its rows carry none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ctglip.cohorts.base import CohortCells, CohortReader, CohortTables
from ctglip.cohorts.ct_rate_metadata import GEOMETRY, header_cells, one_each
from ctglip.cohorts.ct_rate_volumes import VOLUME, CtRateSettings, CtRateVolume, find_volumes
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import StudyLabels, labels_of

_NOT_GIVEN = ("", "not given", "not given.")
METADATA = ("metadata/train_metadata.csv", "metadata/validation_metadata.csv", "metadata/valid_metadata.csv")


class CtRate(CohortReader):
    """Reads CT-RATE."""

    name = "ct_rate"
    Settings = CtRateSettings

    def read(self, disk: Disk, settings: CtRateSettings) -> CohortTables:
        """CT-RATE in our form; see the module's text."""
        tables = CohortTables()
        volumes, version = find_volumes(disk, settings, tables)
        metadata = volume_metadata(disk)
        if not metadata:
            tables.facts.append("There is no metadata table: reconstructions are chosen by their numbers.")
        volumes = self._without_excluded(volumes, disk, tables)
        headers = _headers(volumes, metadata, tables) if version == 1 else {}
        volumes = [volume for volume in volumes if version == 2 or volume.name in headers]
        if settings.reconstructions == "one":
            volumes = one_each(volumes, metadata, settings, tables)
        reports = _by_name(disk, "VolumeName", ("Findings_EN",), "radiology_text_reports/train_reports.csv",
                           "radiology_text_reports/validation_reports.csv",
                           "radiology_text_reports/valid_reports.csv")  # fmt: skip
        if not reports:
            tables.facts.append("There is no table of reports (radiology_text_reports/): images alone.")
        masks = _masks(disk) if version == 2 else {}
        for volume in volumes:
            row = _row(volume, settings, metadata.get(volume.name, {}), reports, masks)
            tables.rows.append(row | headers.get(volume.name, {}))
        _note_missing(tables, bool(reports), bool(masks), version)
        tables.labels = self._labels(disk, settings, tables)
        if settings.repeated_findings == "exclude":
            _drop_repeated(tables)
        return tables

    def _without_excluded(self, volumes: list[CtRateVolume], disk: Disk, tables: CohortTables) -> list[CtRateVolume]:
        """Without the volumes that are no chests or known to be broken."""
        lists = [disk.lines(*names, may_be_empty=True) for names in (
            ("metadata/no_chest_train.txt",), ("metadata/no_chest_valid.txt", "metadata/no_chest_validation.txt")
        )]  # fmt: skip
        if None in lists:
            tables.facts.append("A no-chest list (metadata/no_chest_*.txt) is missing: heads may be among the scans.")
        no_chest = {PurePosixPath(line).name.split(".")[0] for lines in lists for line in lines or ()}
        remaining = []
        for volume in volumes:
            if volume.name in no_chest:
                tables.exclude(volume.name, "no_chest", "It stands in a no-chest list.")
            elif volume.name in self.data.excluded:
                tables.exclude(volume.name, "known_broken", self.data.excluded[volume.name])
            else:
                remaining.append(volume)
        return remaining

    def _labels(self, disk: Disk, settings: CtRateSettings, tables: CohortTables) -> StudyLabels:
        found: StudyLabels = {}
        names = ("train_predicted_labels.csv", "valid_predicted_labels.csv", "validation_predicted_labels.csv")
        for name in names:
            table = disk.optional(f"multi_abnormality_labels/{name}", columns=("VolumeName",))
            if table is not None:
                found |= labels_of(table, "VolumeName", self.data, tables)
        if not found:
            tables.facts.append("There is no table of labels (multi_abnormality_labels/).")
            return {}
        by_study: StudyLabels = {}
        for volume, labels in found.items():
            stem = volume.split(".")[0]
            name = stem if settings.reconstructions == "all" else stem.rsplit("_", 1)[0]
            before = by_study.setdefault(name, dict(labels))
            for label, value in labels.items():
                if value is not None:
                    before[label] = max(value, before.get(label) or 0)
        return {str(row["study_id"]): by_study.get(str(row["study_id"]), {}) for row in tables.rows}


def volume_metadata(disk: Disk) -> dict[str, CohortCells]:
    """CT-RATE's metadata by the stem of the volume's name; empty where no table is there."""
    return _by_name(disk, "VolumeName", (), *METADATA)


def _by_name(disk: Disk, key: str, columns: tuple[str, ...], *names: str) -> dict[str, CohortCells]:
    """The rows of several tables by the stem of the volume's name; the last table wins."""
    found: dict[str, CohortCells] = {}
    for name in names:
        table = disk.optional(name, columns=(key, *columns))
        if table is not None:
            found |= {str(row[key]).split(".")[0]: row for row in table.iter_rows(named=True) if row[key]}
    return found


def _headers(
    volumes: list[CtRateVolume], metadata: Mapping[str, CohortCells], tables: CohortTables
) -> dict[str, CohortCells]:
    """Scaling and geometry of the volumes of version 1 that the metadata table says all of."""
    found: dict[str, CohortCells] = {}
    for volume in volumes:
        row = metadata.get(volume.name)
        missing = [name for name in GEOMETRY if row is not None and not row.get(name)]
        if row is None or missing:
            detail = "It has no row" if row is None else f"Its row has no {', '.join(missing)}"
            tables.exclude(volume.name, "no_metadata", f"{detail} in the metadata table, so its HU are not known.")
            continue
        try:
            found[volume.name] = header_cells(row)
        except ValueError as error:
            tables.exclude(volume.name, "bad_metadata", f"Its row in the metadata table cannot be used: {error}.")
    return found


def _masks(disk: Disk) -> dict[str, str]:
    """TotalSegmentator's multilabel files of version 2, by the stem of the volume's name."""
    found: dict[str, str] = {}
    for path, _ in disk.named(VOLUME):
        if "ts_total/" in path and ("_fixed/" in path or "_fix/" in path):
            found.setdefault(PurePosixPath(path).name.split(".")[0], path)
    return found


def _text(row: Mapping[str, str | None], name: str) -> str | None:
    text = row.get(name)
    return None if text is None or text.strip().lower() in _NOT_GIVEN else text.strip()


def _row(
    volume: CtRateVolume,
    settings: CtRateSettings,
    metadata: Mapping[str, Any],
    reports: Mapping[str, CohortCells],
    masks: Mapping[str, str],
) -> CohortCells:
    report = reports.get(volume.name) or reports.get(f"{volume.study}_1") or {}
    age = re.fullmatch(r"0*(\d+)Y", metadata.get("PatientAge") or "")
    return {
        "study_id": volume.name if settings.reconstructions == "all" else volume.study,
        "patient_id": volume.patient,
        "image": volume.path,
        "masks": masks.get(volume.name),
        "numbering": "totalsegmentator_v2" if volume.name in masks else None,
        "findings": _text(report, "Findings_EN"),
        "impression": _text(report, "Impressions_EN"),
        "modality": "ct",
        "split": "train" if volume.split == "train" else settings.valid_as,
        "age": age[1] if age else None,
        "sex": metadata.get("PatientSex") if metadata.get("PatientSex") in ("M", "F") else None,
        "scanner": " ".join(filter(None, (metadata.get("Manufacturer"), metadata.get("ManufacturerModelName"))))
        or None,
    }


def _note_missing(tables: CohortTables, reports: bool, masks: bool, version: int) -> None:
    empty = sum(not (row["findings"] or row["impression"]) for row in tables.rows)
    if reports and empty:
        tables.facts.append(f"{empty} studies have neither findings nor an impression.")
    if version == 1:
        tables.facts.append("The masks in ts_seg/ fit version 2 alone and were not taken.")
    elif not masks:
        tables.facts.append("There are no masks (ts_seg/ts_total/).")
    elif without := sum(not row["masks"] for row in tables.rows):
        tables.facts.append(f"{without} studies have no mask file in ts_seg/ts_total/.")


def _drop_repeated(tables: CohortTables) -> None:
    """Without studies whose findings repeat those of an earlier study of the same split."""
    first_with: dict[tuple[str, str], str] = {}
    remaining = []
    for row in tables.rows:
        key = str(row["split"]), row["findings"] or ""
        first = first_with.setdefault(key, str(row["study_id"])) if row["findings"] else str(row["study_id"])
        if first == row["study_id"]:
            remaining.append(row)
        else:
            tables.exclude(str(row["study_id"]), "repeated_findings", f"Its findings are those of {first}.")
    tables.rows = remaining
