"""The data set of TotalSegmentator, version 1 (104 classes) and 2 (117): scans with a folder of masks."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk

_ID = "image_id"
_LOOKED_INTO = 50
_ONLY = {"1": "heart_atrium_left.nii.gz", "2": "atrial_appendage_left.nii.gz"}
"""A file that only one version has: the chambers of the heart are version 1's."""


class TotalSegmentatorSettings(CohortSettings):
    """What can be chosen of TotalSegmentator's data set.

    Attributes:
        known_broken: scans whose HU were corrupt in an early archive are excluded, or kept (after a new download).
    """

    known_broken: bool = False


class TotalSegmentatorData(CohortReader):
    """Reads TotalSegmentator's data set."""

    name = "totalsegmentator"
    Settings = TotalSegmentatorSettings
    leaves = "segmentations"

    def read(self, disk: Disk, settings: TotalSegmentatorSettings) -> CohortTables:
        """The set in our form: scans with their folder of masks and the official split."""
        tables = CohortTables()
        scans = {
            path.split("/")[-2]: path for path in disk.paths("ct.nii.gz") if re.search(r"s\d{4}/ct\.nii\.gz$", path)
        }
        if not scans:
            raise disk.nothing("s0000/ct.nii.gz")
        tables.facts.append(_version(disk))
        details = disk.rows_by(_ID, "meta.csv")
        if not details:
            tables.facts.append("There is no meta.csv: no official split.")
        masks = {PurePosixPath(path).parent.name: path for path in disk.leaves}
        for name in sorted({*scans, *details}):
            if name in self.data.excluded and not settings.known_broken:
                tables.exclude(name, "known_broken", self.data.excluded[name])
                continue
            row = details.get(name, {})
            where = masks.get(name)
            if name in self.data.without_masks and where:
                tables.exclude(f"{name}/segmentations", "masks_misplaced", self.data.without_masks[name])
                where = None
            age = re.match(r"\d+", row.get("age") or "")
            split = (row.get("split") or "").lower()
            tables.rows.append({
                "study_id": name,
                "patient_id": name,
                "image": scans.get(name, f"{name}/ct.nii.gz"),
                "masks": where,
                "modality": "ct",
                "split": split if split in ("train", "val", "test") else None,
                "age": age[0] if age else None,
                "sex": (row.get("gender") or "").upper()[:1] or None,
                "scanner": row.get("manufacturer"),
            })  # fmt: skip
        return tables


def _version(disk: Disk) -> str:
    """By the masks of a few studies."""
    few = sorted(disk.leaves)[:: max(1, len(disk.leaves) // _LOOKED_INTO)]
    found = {version for folder in few for version, name in _ONLY.items() if (disk.root / folder / name).is_file()}
    if len(found) > 1:
        return "Masks of both versions are mixed: their names differ from study to study."
    return f"Masks are those of version {found.pop()}." if found else "Which version the masks are is not clear."
