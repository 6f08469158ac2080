"""AMOS-MM: abdominal CT with reports of chest, abdomen and pelvis apart."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.files import read_json

_FOLDERS = (("Tr", "train"), ("train", "train"), ("Va", "val"), ("val", "val"), ("Ts", "test"), ("test", "test"))
_PARTS = ("chest", "abdomen", "pelvis")


class AmosMm(CohortReader):
    """Reads AMOS-MM."""

    name = "amos_mm"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """AMOS-MM in our form; a report's parts stand in one text, each with its name."""
        del settings
        tables = CohortTables()
        images: dict[str, str] = {}
        masks: dict[str, str] = {}
        for path, match in disk.named(r"(amos_\d{4})\.nii\.gz"):
            (masks if re.search(r"label|mask|seg", str(PurePosixPath(path).parent)) else images)[match[1]] = path
        if not images:
            raise disk.nothing("imagesTr/amos_0001.nii.gz")
        reports, splits = _reports(disk, tables)
        for name in sorted({*images, *reports}):
            path = images.get(name, f"{name}.nii.gz")
            tables.rows.append({
                "study_id": name,
                "patient_id": name,
                "image": path,
                "masks": masks.get(name),
                "numbering": "amos" if name in masks else None,
                "findings": reports.get(name),
                "modality": "ct",
                "split": splits.get(name) or _split(path),
            })  # fmt: skip
        tables.facts.append("No table names the patient: each scan counts as a patient of its own.")
        return tables


def _split(path: str) -> str | None:
    folder = PurePosixPath(path).parent.name
    return next((split for ending, split in _FOLDERS if folder.endswith(ending)), None)


def _reports(disk: Disk, tables: CohortTables) -> tuple[dict[str, str], dict[str, str]]:
    """Texts and splits of every JSON that has them, at whatever depth: the key is the file, in any case."""
    texts: dict[str, str] = {}
    splits: dict[str, str] = {}
    for path, _ in disk.named(r".*\.json"):
        _collect(read_json(disk.root / path), None, texts, splits)
    if not texts:
        tables.facts.append("No JSON has findings by file (amos_0001.nii.gz): images alone.")
    return texts, splits


def _collect(tree: Any, split: str | None, texts: dict[str, str], splits: dict[str, str]) -> None:
    if isinstance(tree, list):
        for entry in tree:
            _collect(entry, split, texts, splits)
    if not isinstance(tree, dict):
        return
    named = tree.get("image") or tree.get("file") or tree.get("id")
    if isinstance(named, str) and isinstance(tree.get("findings") or tree.get("labels"), dict):
        tree = {named: tree}
    for key, entry in tree.items():
        match = re.search(r"amos_\d{4}", str(key).lower())
        known = {"training": "train", "train": "train", "validation": "val", "val": "val", "test": "test"}
        if match is None:
            _collect(entry, known.get(str(key).lower(), split), texts, splits)
            continue
        found = entry.get("findings") if isinstance(entry, dict) else None
        found = found or (entry.get("labels", {}).get("report") if isinstance(entry, dict) else None)
        found = found.get("findings", found) if isinstance(found, dict) else found
        text = found if isinstance(found, str) else _joined(found if isinstance(found, dict) else {})
        if text:
            texts[match[0]] = text
        if split:
            splits[match[0]] = split


def _joined(parts: dict[str, Any]) -> str:
    """The parts in the order of the body, each after its name; parts without a text are left out."""
    lower = {str(key).lower(): str(value).strip() for key, value in parts.items() if value}
    order = (*_PARTS, *(key for key in lower if key not in _PARTS))
    return "\n".join(f"{part.capitalize()}: {lower[part]}" for part in order if lower.get(part))
