"""INSPECT: CT pulmonary angiograms; tables of impressions, labels and splits are joined by the impression's id."""

from __future__ import annotations

from pathlib import PurePosixPath

import polars as pl

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import labels_of
from ctglip.errors import CohortError

_IMAGE, _REPORT, _PATIENT = "image_id", "impression_id", "PatientID"
_SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
_ENDING = r"(?:_\d+)?\.(?:csv|tsv)"


class Inspect(CohortReader):
    """Reads INSPECT."""

    name = "inspect_pe"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """INSPECT in our form: studies by their image, impressions alone."""
        del settings
        tables = CohortTables()
        metadata = _table(disk, r"(?:Final_)?metadata", (_IMAGE, _REPORT), "Final_metadata.csv")
        texts = _by_report(disk, r"Final_impressions?", ("impressions",), tables)
        splits = _by_report(disk, r"Final_splits?", ("split",), tables)
        older = _optional(disk, r"cohort_0\.\d\.\d_master_file_anon", (_PATIENT,))
        patients = _patients(older)
        if not patients:
            tables.facts.append("No table names the patient: each study counts as a patient of its own.")
        for row in metadata.iter_rows(named=True):
            if not row[_IMAGE]:
                continue
            name = str(row[_IMAGE]).removesuffix(".gz").removesuffix(".nii")
            report = row[_REPORT] or ""
            patient = row.get(_PATIENT) or row.get("person_id") or patients.get(name) or patients.get(report)
            tables.rows.append({
                "study_id": name,
                "patient_id": patient or name,
                "image": _image(disk, name),
                "impression": texts.get(report),
                "modality": "ct",
                "split": _SPLITS.get((splits.get(report) or "").lower()),
            })  # fmt: skip
        by_report = {row[_REPORT]: str(row[_IMAGE]) for row in metadata.iter_rows(named=True) if row[_REPORT]}
        labels = _optional(disk, r"(?:Final_labels?|labels)", (_REPORT,))
        if labels is None:
            tables.facts.append("There is no table of labels by impression_id (Final_labels).")
        else:
            found = labels_of(labels, _REPORT, self.data, tables, other=(_IMAGE, _PATIENT, "split", "person_id"))
            tables.labels = {
                by_report[name].removesuffix(".gz").removesuffix(".nii"): values
                for name, values in found.items()
                if name in by_report
            }
        return tables


def _image(disk: Disk, name: str) -> str:
    paths = [path for ending in (".nii.gz", ".nii") for path in disk.paths(name + ending)]
    return min(paths, key=len, default=f"CTPA/{name}.nii.gz")


def _optional(disk: Disk, stem: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """A table whose name begins with the stem and that has the columns; None where no name does.

    Raises:
        CohortError: ``missing_column``: none of those of the name has them.
    """
    other: CohortError | None = None
    for path, _ in disk.named(f"(?i:{stem})(?:{_ENDING}|.*{_ENDING})"):
        try:
            return disk.table(path, columns=columns, maybe=(_IMAGE, _REPORT, _PATIENT))
        except CohortError as error:
            if error.code != "missing_column":
                raise
            other = other or error
    if other is not None:
        raise other
    return None


def _table(disk: Disk, stem: str, columns: tuple[str, ...], name: str) -> pl.DataFrame:
    found = _optional(disk, stem, columns)
    return disk.table(name, columns=columns) if found is None else found


def _by_report(disk: Disk, stem: str, columns: tuple[str, ...], tables: CohortTables) -> dict[str, str | None]:
    """One column of a table by the impression's id; under its own name, or the only other one."""
    table = _optional(disk, stem, (_REPORT,))
    if table is None:
        tables.facts.append(f"There is no table {stem.replace('?', '')} with a column {_REPORT}.")
        return {}
    others = [name for name in table.columns if name not in (_REPORT, _IMAGE)]
    name = next((n for n in others if n.lower() in {*columns, *(c.rstrip("s") for c in columns)}), None)
    name = name or (others[0] if len(others) == 1 else None)
    if name is None:
        tables.facts.append(
            f"The table {stem.replace('?', '')} has no column {columns[0]}; it has {', '.join(others)}."
        )
        return {}
    return dict(zip(table[_REPORT].to_list(), table[name].to_list(), strict=True))


def _patients(table: pl.DataFrame | None) -> dict[str, str]:
    if table is None:
        return {}
    found: dict[str, str] = {}
    rows: list[CohortCells] = table.to_dicts()
    for row in rows:
        for key in (_REPORT, _IMAGE):
            if row.get(key) and row[_PATIENT]:
                found[PurePosixPath(str(row[key])).name.removesuffix(".gz").removesuffix(".nii")] = str(row[_PATIENT])
    return found
