"""AbdomenAtlas: CT with organ masks (1.0 Mini, 1.1), and 3.0 Mini (RadGPT) with lesion masks, figures and reports.

3.0's reports are made from masks by a program; they say what was measured. All of them pool many public sets.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

import polars as pl

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.disk import Disk

_ID = "BDMAP ID"
_CASE = r"BDMAP_\d{8}"
_POOLED = (
    "Cases are pooled from many public sets, and some of these pool each other: two cases may be one scan, and no "
    "table names the patients. Preprocessing lists equal images."
)


class AbdomenAtlas(CohortReader):
    """Reads AbdomenAtlas 1.0 Mini and 1.1."""

    name = "abdomen_atlas"
    leaves = "segmentations"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """AbdomenAtlas in our form: one scan a case, with its masks."""
        del settings
        tables = CohortTables(facts=[_POOLED])
        scans, masks = cases(disk)
        if not scans:
            raise disk.nothing("BDMAP_00000001/ct.nii.gz")
        for case, path in scans.items():
            tables.rows.append(case_row(case, path, masks.get(case)))
        for case in sorted(masks.keys() - scans.keys()):
            tables.exclude(case, "no_image", f"{masks[case]} is there and no ct.nii.gz.")
        if without := sum(not row["masks"] for row in tables.rows):
            tables.facts.append(f"{without} cases have neither combined_labels.nii.gz nor segmentations/.")
        return tables


class RadGptSettings(CohortSettings):
    """What can be chosen of AbdomenAtlas 3.0.

    Attributes:
        report: which of the reports is taken; where a case has none, the next in this order: narrative, structured.
        split: by which of the official lists; ``none`` leaves the column empty.
    """

    report: Literal["narrative", "structured", "fusion narrative", "fusion structured"] = "narrative"
    split: Literal["IID", "OOD", "none"] = "IID"


class RadGpt(CohortReader):
    """Reads AbdomenAtlas 3.0 Mini."""

    name = "abdomen_atlas_3"
    Settings = RadGptSettings

    def expects(self, settings: RadGptSettings) -> tuple[tuple[str, ...], ...]:
        """The official lists that are asked for."""
        kinds = () if settings.split == "none" else (settings.split,)
        return tuple((f"TrainTestIDS/{kind}_{part}.csv",) for kind in kinds for part in ("train", "test"))

    def read(self, disk: Disk, settings: RadGptSettings) -> CohortTables:
        """AbdomenAtlas 3.0 in our form: reports, lesion counts as labels, lesion masks as localization."""
        tables = CohortTables(facts=[_POOLED, "Reports are made from masks by a program."])
        scans, masks = cases(disk)
        if not scans:
            raise disk.nothing("image_only/BDMAP_00000001/ct.nii.gz")
        table = disk.table("AbdomenAtlas3.0MiniWithMeta.csv", "AbdomenAtlas3.0Mini.csv", columns=(_ID,))
        lesions = {m[1]: c for c in table.columns if (m := re.fullmatch(r"number of (.+) lesion instances", c))}
        splits = _splits(disk, settings.split, tables)
        for details in table.iter_rows(named=True):
            case = details[_ID]
            if case is None:
                continue
            row = case_row(case, scans.pop(case, f"image_only/{case}/ct.nii.gz"), masks.get(case))
            age = re.match(r"\d+", details.get("age") or "")
            tables.rows.append(row | {
                "report": _report(details, settings.report),
                "split": splits.get(case),
                "age": age[0] if age else None,
                "sex": (details.get("sex") or "").upper()[:1] or None,
                "scanner": details.get("scanner"),
            })  # fmt: skip
            tables.labels[case] = self._labels(details, lesions)
        for case, path in scans.items():
            tables.exclude(case, "no_row", f"{path} has no row in the table.")
        tables.lost |= {column: "an organ without a lesion label" for organ, column in lesions.items()
                        if not self.data.organs.get(organ)}  # fmt: skip
        tables.localization = self._drawn(disk)
        return tables

    def _labels(self, details: CohortCells, lesions: dict[str, str]) -> dict[str, int | None]:
        labels: dict[str, int | None] = {}
        for theirs, column in lesions.items():
            organ = self.data.organs.get(theirs)
            if organ:
                count = details[column]
                known = count is not None and re.fullmatch(r"\d+(?:\.\d+)?", count)
                labels[f"{organ}:lesion"] = int(float(count) > 0) if count and known else None
        return labels

    def _drawn(self, disk: Disk) -> list[Localization]:
        """Lesions are drawn beside the organs."""
        return [
            Localization(case[0], match[1], "lesion", mask=path, organ=self.data.organs.get(match[1].split("_")[0]))
            for path, match in disk.named(r"([a-z]+_(?:lesion|tumor))s?\.nii\.gz")
            if (case := re.search(_CASE, path))
        ]


def cases(disk: Disk) -> tuple[dict[str, str], dict[str, str]]:
    """Scans and masks by case: ``ct.nii.gz``, and ``combined_labels.nii.gz`` or else the folder ``segmentations``."""
    scans: dict[str, str] = {}
    masks: dict[str, str] = {}
    for path in (*disk.paths("ct.nii.gz"), *disk.paths("combined_labels.nii.gz")):
        case = re.search(_CASE, path)
        if case:
            (scans if path.endswith("/ct.nii.gz") or path == "ct.nii.gz" else masks).setdefault(case[0], path)
    folders = [str(PurePosixPath(path).parent) for path, _ in disk.named(r"(?:liver|aorta|spleen)\.nii\.gz")]
    for folder in (*disk.leaves, *folders):
        case = re.search(_CASE, folder)
        if case and folder.endswith("segmentations"):
            masks.setdefault(case[0], folder)
    return dict(sorted(scans.items())), masks


def case_row(case: str, path: str, masks: str | None) -> CohortCells:
    """The cells that a case has in every release."""
    return {
        "study_id": case,
        "patient_id": case,
        "image": path,
        "masks": masks,
        "numbering": "abdomenatlas" if masks and masks.endswith(".nii.gz") else None,
        "modality": "ct",
    }


def _report(details: CohortCells, style: str) -> str | None:
    order = dict.fromkeys((style, "narrative", "structured"))
    return next((text for kind in order if (text := details.get(f"{kind} report"))), None)


def _splits(disk: Disk, kind: str, tables: CohortTables) -> dict[str, str]:
    found: dict[str, str] = {}
    if kind == "none":
        return found
    for part in ("train", "test"):
        table: pl.DataFrame | None = disk.optional(f"TrainTestIDS/{kind}_{part}.csv", bare=True)
        if table is None:
            tables.facts.append(f"There is no TrainTestIDS/{kind}_{part}.csv: no official split.")
            continue
        for cell in table[:, 0].to_list() if not set(table.columns) & {_ID} else table[_ID].to_list():
            if cell:
                found[cell] = part
        if re.fullmatch(_CASE, table.columns[0]):
            found[table.columns[0]] = part  # a list without a heading
    return found
