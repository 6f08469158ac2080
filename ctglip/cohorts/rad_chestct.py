"""Rad-ChestCT: chest CT as NumPy archives, 84 abnormalities by 52 locations, no reports.

The archives hold HU (cut to -1000..1000) on a grid of 0.8 mm, slices first, and nothing else. How the published
preprocessing makes them says that the first slice is the highest, rows run to the back and columns to the left.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import polars as pl

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import StudyLabels

_ID, _PATIENT, _SET = "NoteAcc_DEID", "MRN_DEID", "Set_Assigned"
_SPLITS = {"train": "train", "trn": "train", "valid": "val", "val": "val", "test": "test", "tst": "test"}
_PREFIX = {"trn": "train", "val": "val", "tst": "test"}
_EDGE_MM = 0.8


class RadChestCtSettings(CohortSettings):
    """What can be chosen of Rad-ChestCT.

    Attributes:
        first_slice: which end of the body the first slice shows; the published preprocessing begins at the head.
        by_organ: labels ``organ:name`` beside those of whole studies, for locations that are organs of ours.
    """

    first_slice: Literal["head", "feet"] = "head"
    by_organ: bool = False


class RadChestCt(CohortReader):
    """Reads Rad-ChestCT."""

    name = "rad_chestct"
    Settings = RadChestCtSettings

    def read(self, disk: Disk, settings: RadChestCtSettings) -> CohortTables:
        """Rad-ChestCT in our form."""
        tables = CohortTables()
        images = {match[1]: path for path, match in disk.named(r"((?:trn|val|tst)\d{5})\.npz")}
        if not images:
            raise disk.nothing("trn01234.npz")
        people = disk.rows_by(_ID, "Summary_3630.csv", columns=(_PATIENT, _SET))
        if not people:
            tables.facts.append("There is no Summary_3630.csv: each scan counts as a patient of its own.")
        depth = -_EDGE_MM if settings.first_slice == "head" else _EDGE_MM
        affine = f"0 0 {-_EDGE_MM} 0 0 {-_EDGE_MM} 0 0 {depth} 0 0 0"
        for name in sorted({*images, *people}):
            person = people.get(name, {})
            tables.rows.append({
                "study_id": name,
                "patient_id": person.get(_PATIENT) or name,
                "image": images.get(name, f"{name}.npz"),
                "affine": affine,
                "modality": "ct",
                "split": _SPLITS.get((person.get(_SET) or "").lower()) or _PREFIX.get(name[:3]),
            })  # fmt: skip
        tables.facts.append(
            f"HU as stored, on 0.8 mm; slices from the {settings.first_slice} on: the files do not say it, the "
            "published preprocessing does. Where the scanner stood is not known: the origin is the first voxel."
        )
        for part in ("train", "valid", "test"):
            table = disk.optional(f"img{part}_Abnormality_and_Location_Labels.csv", columns=(_ID,))
            if table is None:
                tables.facts.append(f"There is no img{part}_Abnormality_and_Location_Labels.csv.")
            else:
                tables.labels |= self._labels(table, tables, settings.by_organ)
        return tables

    def _labels(self, table: pl.DataFrame, tables: CohortTables, by_organ: bool) -> StudyLabels:
        """The highest over locations, by abnormality; by organ too on wish."""
        ours = {column: label for label in self.data.labels for column in self.data.columns_of(label)}
        groups: dict[str, list[str]] = {}
        lost: Counter[str] = Counter()
        for column in table.columns:
            theirs, star, where = column.partition("*")
            if not star:
                continue
            label = ours.get(theirs)
            if label is None:
                lost[theirs] += 1
                continue
            groups.setdefault(label, []).append(column)
            organ = self.data.organs.get(where)
            if by_organ and organ:
                groups.setdefault(f"{organ}:{label}", []).append(column)
            elif by_organ:
                tables.lost[f"*{where}"] = "a location that is no organ of ours"
        tables.lost |= {name: self.data.lost.get(name, "no abnormality of ours") for name in lost}
        highest = [
            pl.max_horizontal(pl.col(c).cast(pl.Float32, strict=False) for c in columns).cast(pl.Int8).alias(label)
            for label, columns in groups.items()
        ]
        rows = table.select(pl.col(_ID), *highest).to_dicts()
        return {str(row.pop(_ID)): row for row in rows if row[_ID]}
