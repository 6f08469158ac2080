"""Merlin: abdominal CT with one text a study, 30 labels, and the official split."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, OrganSentence
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import labels_of
from ctglip.cohorts.organ_names import organ_of
from ctglip.files import read_json

_ID = "study id"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_IMPRESSION = re.compile(r"\bIMPRESSIONS?\s*:", re.IGNORECASE)
_PATIENT = ("patient id", "patient", "subject id", "mrn", "anon mrn")


class Merlin(CohortReader):
    """Reads Merlin."""

    name = "merlin"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """Merlin in our form: one scan a study, findings and impression taken apart."""
        del settings
        tables = CohortTables()
        images = _volumes(disk)
        if not images:
            raise disk.nothing("merlin_data/AC0000aaa.nii.gz")
        reports = disk.table("reports_final.xlsx", "reports_final.csv", columns=(_ID, "Findings", "Split"))
        details = disk.rows_by(_ID, "metadata.csv")
        patient = next((c for c in reports.columns if c.lower().replace("_", " ") in _PATIENT), None)
        if patient is None:
            tables.facts.append("No column names the patient: each study counts as a patient of its own.")
        masks = _masks(disk)
        named: set[str] = set()
        for row in reports.iter_rows(named=True):
            name = row[_ID]
            if name is None or name in named:
                tables.exclude(str(name), "repeated_row", "reports_final has its id twice, or no id.")
                continue
            named.add(name)
            tables.rows.append(_row(row, images, details.get(name, {}), masks, patient, tables))
        for name in sorted(images.keys() - named):
            tables.exclude(name, "no_report", f"{images[name]} has no row in reports_final.")
        labels = disk.optional("zero_shot_findings_disease_cls.csv", columns=(_ID,))
        if labels is None:
            tables.facts.append("There is no table of labels (zero_shot_findings_disease_cls.csv).")
        else:
            tables.labels = labels_of(labels, _ID, self.data, tables)
        if disk.find("five_years_disease_task.csv"):
            tables.lost |= self.data.lost
        tables.organ_text = _organ_text(disk, tables)
        return tables


def _volumes(disk: Disk) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, match in disk.named(r"(AC[0-9A-Za-z]+)\.nii(?:\.gz)?"):
        if not re.search(r"mask|seg|label", str(PurePosixPath(path).parent), re.IGNORECASE):
            found.setdefault(match[1], path)
    return found


def _masks(disk: Disk) -> dict[str, str]:
    return {
        match[1]: path
        for path, match in disk.named(r"(AC[0-9A-Za-z]+)\.nii(?:\.gz)?")
        if re.search(r"mask|seg|label", str(PurePosixPath(path).parent), re.IGNORECASE)
    }


def _row(
    row: CohortCells,
    images: dict[str, str],
    details: CohortCells,
    masks: dict[str, str],
    patient: str | None,
    tables: CohortTables,
) -> CohortCells:
    name = str(row[_ID])
    findings, impression = _sections(row["Findings"])
    split = _SPLITS.get((row["Split"] or "").lower())
    if split is None and row["Split"]:
        tables.facts.append(f"{name} has the split {row['Split']!r}, expected train, val or test.")
    age = re.match(r"\d+", details.get("Age") or "")
    return {
        "study_id": name,
        "patient_id": (row.get(patient) if patient else None) or name,
        "image": images.get(name, f"merlin_data/{name}.nii.gz"),
        "masks": masks.get(name),
        "numbering": "totalsegmentator_v1" if name in masks else None,
        "findings": findings,
        "impression": impression,
        "modality": "ct",
        "split": split,
        "age": age[0] if age else None,
        "sex": (details.get("Gender") or "").upper()[:1] or None,
    }


def _sections(text: str | None) -> tuple[str | None, str | None]:
    """Findings and impression of a text that holds both."""
    if text is None:
        return None, None
    first, *rest = _IMPRESSION.split(text)
    return first.strip() or None, " ".join(part.strip() for part in rest) or None


def _organ_text(disk: Disk, tables: CohortTables) -> list[OrganSentence]:
    """Sentences by organ that a language model made of the reports: ``{study: {organ: text}}``."""
    found: list[OrganSentence] = []
    for path, _ in disk.named(r"merlin_report_organ_.*\.json"):
        try:
            tree: Any = read_json(disk.root / path)
            for study_id, entry in tree.items():
                for theirs, text in entry.items():
                    if theirs == "report" or not isinstance(text, str) or not text.strip():
                        continue
                    status = "normal" if text.strip().lower() in ("normal", "normal.") else None
                    found.append(
                        OrganSentence(study_id, organ_of(theirs), text.strip(), theirs, PurePosixPath(path).stem,
                                      status=status)
                    )  # fmt: skip
        except AttributeError as error:
            tables.facts.append(f"{path} is not {{study: {{organ: text}}}} and was left alone ({error}).")
    return found
