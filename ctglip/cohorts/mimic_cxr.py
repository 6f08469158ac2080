"""MIMIC-CXR-JPG with the boxes of Chest ImaGenome and the phrases of MS-CXR, joined by the radiograph's id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.column_map import ColumnMapReader, pixel_box
from ctglip.cohorts.disk import Disk
from ctglip.errors import CohortError

_MS_CXR = r"(?i:ms[_-]?cxr).*\.csv"
_ID = "dicom_id"
_COLUMNS = (_ID, "category_name", "label_text", "x", "y", "w", "h")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "valid": "val", "test": "test"}


class MimicCxr(CohortReader):
    """Reads MIMIC-CXR-JPG with what was laid on it."""

    name = "mimic_cxr"

    def expects(self, settings: CohortSettings) -> tuple[tuple[str, ...], ...]:
        """The tables of MIMIC-CXR-JPG."""
        return ColumnMapReader("cohorts/mimic_cxr_jpg").expects(settings)

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """MIMIC-CXR-JPG as its column map has it; ``regions`` names the scene graph of each radiograph that has one."""
        tables = ColumnMapReader("cohorts/mimic_cxr_jpg").read(disk, settings)
        graphs = 0
        for row in tables.rows:
            found = disk.paths(f"{row['study_id']}_SceneGraph.json")
            if found and found[0] not in disk.empty:
                row["regions"] = found[0]
                graphs += 1
        packed = [path for path in disk.archives if "scene_graph" in path]
        if packed and not graphs:
            tables.facts.append(f"{packed[0]} is still packed: no radiograph has boxes of regions.")
        else:
            tables.facts.append(f"{graphs} of {len(tables.rows)} radiographs have a scene graph of Chest ImaGenome.")
        if not any(disk.named(_MS_CXR)):
            tables.facts.append("There is no MS_CXR*.csv: no phrases with boxes.")
        known = {row["study_id"] for row in tables.rows}
        tables.localization = [one for one in phrases(disk, self.data.findings) if one.study_id in known]
        return tables


class MsCxrSettings(CohortSettings):
    """What can be chosen of MS-CXR.

    Attributes:
        mimic: the folder of MIMIC-CXR-JPG, where it is not the data set's own.
    """

    mimic: Path | None = None


class MsCxr(CohortReader):
    """Reads MS-CXR alone: its radiographs, their phrases as text, and the boxes of the phrases."""

    name = "ms_cxr"
    Settings = MsCxrSettings

    def expects(self, settings: MsCxrSettings) -> tuple[tuple[str, ...], ...]:
        """MIMIC-CXR's split, unless it is looked for in the folder of MIMIC-CXR, where it is read defensively."""
        return () if settings.mimic is not None else self.data.expects

    def read(self, disk: Disk, settings: MsCxrSettings) -> CohortTables:
        """MS-CXR in our form. MIMIC-CXR's own split counts where its table is there: its patients must not cross."""
        tables = CohortTables()
        rows = list(_rows(disk))
        if not rows:
            raise CohortError(
                f"{disk.root} has no table MS_CXR*.csv with the columns {', '.join(_COLUMNS)}.",
                code="no_table",
                fix="Give the folder of MS-CXR.",
            )
        where = disk if settings.mimic is None else Disk(settings.mimic, dicom_files=True)
        official = where.rows_by(_ID, "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-split.csv")
        texts: dict[str, dict[str, None]] = {}
        differing = 0
        for row in rows:
            name = str(row[_ID])
            first = name not in texts
            texts.setdefault(name, {})[(row["label_text"] or "").strip().rstrip(".")] = None
            if first:
                theirs = _SPLITS.get(row.get("split") or "")
                split = _SPLITS.get(official.get(name, {}).get("split") or "") or theirs
                differing += theirs is not None and split != theirs
                path = str(row.get("path") or f"files/{name}.jpg")
                tables.rows.append({
                    "study_id": name,
                    "patient_id": _patient(path, official.get(name, {})) or name,
                    "image": _image(where, path, settings.mimic),
                    "modality": "cxr",
                    "split": split,
                })  # fmt: skip
        for row in tables.rows:
            row["findings"] = ". ".join(filter(None, texts[str(row["study_id"])])) + "."
        tables.localization = list(phrases(disk, self.data.findings))
        if official:
            tables.facts.append(f"MIMIC-CXR's split counts; MS-CXR's own differs for {differing} radiographs.")
        else:
            tables.facts.append("MIMIC-CXR's split table is not there: MS-CXR's own split counts, where it has one.")
        return tables


def _rows(disk: Disk) -> Iterator[CohortCells]:
    for path, _ in disk.named(_MS_CXR):
        yield from disk.table(path, columns=_COLUMNS).iter_rows(named=True)


def phrases(disk: Disk, names: dict[str, str | None]) -> Iterator[Localization]:
    """The boxes of MS-CXR, each with its phrase."""
    for row in _rows(disk):
        try:
            x, y, width, height = (float(row[edge] or "nan") for edge in ("x", "y", "w", "h"))
        except ValueError:
            continue
        box = pixel_box("", x, y, x + width, y + height)
        if box is not None and row[_ID]:
            edges = (box.row0, box.row1, box.column0, box.column1)
            yield Localization(str(row[_ID]), row["label_text"] or "", names.get(row["category_name"] or ""), edges)


def _patient(path: str, official: CohortCells) -> str | None:
    parts = [part for part in PurePosixPath(path).parts if part[:1] == "p" and part[1:].isdigit() and len(part) > 3]
    return parts[0] if parts else (f"p{official['subject_id']}" if official.get("subject_id") else None)


def _image(disk: Disk, path: str, other: Path | None) -> str:
    """The radiograph by its path, as JPEG or DICOM; absolute where it lies in another folder."""
    stem = PurePosixPath(path).stem
    found = next((p for ending in (".jpg", ".dcm", ".png") for p in disk.paths(stem + ending)), path)
    return found if other is None else str(other.resolve() / found)
