"""Radiographs with drawn findings: VinDr-CXR, Object-CXR, SIIM-ACR pneumothorax and TBX11K."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.column_map import pixel_box
from ctglip.cohorts.disk import Disk
from ctglip.errors import CohortError
from ctglip.files import read_json
from ctglip.types import box_around

_SIDE = 1024
_ENDINGS = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


class VinDrSettings(CohortSettings):
    """What can be chosen of VinDr-CXR.

    Attributes:
        readers: a finding is there where any of a radiograph's readers drew it, or more than half of them.
    """

    readers: Literal["any", "majority"] = "any"


class VinDrCxr(CohortReader):
    """Reads VinDr-CXR."""

    name = "vindr_cxr"
    Settings = VinDrSettings

    def read(self, disk: Disk, settings: VinDrSettings) -> CohortTables:
        """VinDr-CXR in our form: every box of every reader is kept, labels are joined over readers."""
        tables = CohortTables()
        lost: Counter[str] = Counter()
        for part in ("train", "test"):
            table = disk.optional(f"annotations/annotations_{part}.csv", columns=("image_id", "class_name", "x_min"))
            if table is None:
                tables.facts.append(f"There is no annotations_{part}.csv.")
                continue
            readers: defaultdict[str, set[str]] = defaultdict(set)
            readers_of: defaultdict[str, dict[str, set[str]]] = defaultdict(dict)
            for row in table.iter_rows(named=True):
                name, theirs = str(row["image_id"]), str(row["class_name"])
                reader = row.get("rad_id") or row.get("rad_ID") or "consensus"
                readers[name].add(reader)
                known = self.data.findings.get(theirs)
                lost[theirs] += known is None
                if known:
                    readers_of[name].setdefault(known, set()).add(reader)
                if (box := _edges(row, ("x_min", "y_min", "x_max", "y_max"))) is not None:
                    tables.localization.append(Localization(name, theirs, known, box))
            for name, looked in readers.items():
                least = 1 if settings.readers == "any" else len(looked) // 2 + 1
                tables.rows.append(_cxr_row(disk, name, part, f"{part}/{name}.dicom"))
                tables.labels[name] = {
                    label: int(len(readers_of[name].get(label, ())) >= least)
                    for label in sorted({label for label in self.data.findings.values() if label})
                }
        if not tables.rows:
            raise disk.nothing("annotations/annotations_train.csv")
        tables.lost |= {n: self.data.lost.get(n, "no label of ours") for n, count in lost.items() if count}
        tables.facts.append("No table names the patient: each radiograph counts as a patient of its own.")
        return tables


class ObjectCxr(CohortReader):
    """Reads Object-CXR."""

    name = "object_cxr"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """Object-CXR in our form: foreign objects as boxes (around ellipses and polygons too)."""
        del settings
        tables = CohortTables()
        for part, split in (("train", "train"), ("dev", "val"), ("test", "test")):
            table = disk.optional(f"{part}.csv", columns=("annotation",))
            if table is None:
                tables.facts.append(f"There is no {part}.csv.")
                continue
            key = next((name for name in ("image_name", "image_path") if name in table.columns), None)
            if key is None:
                raise CohortError(
                    f"{disk.root}/{part}.csv has neither image_name nor image_path; it has {', '.join(table.columns)}.",
                    code="missing_column",
                )
            for row in table.iter_rows(named=True):
                file = PurePosixPath(str(row[key])).name
                name = f"{part}_{PurePosixPath(file).stem}"
                path = min((p for p in disk.paths(file) if part in PurePosixPath(p).parts), default=f"{part}/{file}")
                tables.rows.append(_cells(name, name, path, split))
                boxes = [box for shape in (row["annotation"] or "").split(";") if (box := _shape(shape)) is not None]
                tables.labels[name] = {"foreign_body": int(bool(boxes))}
                tables.localization += [Localization(name, "foreign object", "foreign_body", box) for box in boxes]
        if not tables.rows:
            raise disk.nothing("train.csv")
        tables.facts.append("Ellipses and polygons became the boxes around them.")
        return tables


class SiimPneumothorax(CohortReader):
    """Reads the SIIM-ACR pneumothorax set."""

    name = "siim_pneumothorax"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """The set in our form: rows of one radiograph are one study; its outlines become one mask and a box each."""
        del settings
        tables = CohortTables()
        table = disk.table("train-rle.csv", "stage_2_train.csv", columns=("ImageId", "EncodedPixels"))
        runs: dict[str, list[str]] = {}
        for name, text in table.select("ImageId", "EncodedPixels").iter_rows():
            if name:
                runs.setdefault(name, []).extend([text] if text and text != "-1" else [])
        for name, texts in runs.items():
            path = min(disk.paths(f"{name}.dcm"), default=f"dicom-images-train/{name}.dcm")
            tables.rows.append(_cells(name, name, path, None))
            tables.labels[name] = {"pneumothorax": int(bool(texts))}
            mask = f"lesions/{name}.png"
            try:
                drawn = [decode_runs(text) for text in texts]
            except ValueError as error:
                tables.exclude(name, "bad_run_lengths", f"Its outline was not taken: {error}.")
                continue
            for one in drawn:
                box = box_around(one)
                tables.localization.append(Localization(name, "pneumothorax", "pneumothorax", box, mask=mask))
            if drawn:
                tables.pictures[mask] = functools.partial(_drawn, tuple(texts))
        tables.facts.append(
            "Outlines are of 1024 x 1024 pixels; splits by row that others published cross radiographs."
        )
        return tables


def decode_runs(text: str) -> np.ndarray:
    """A mask from run lengths, ``[row, column]`` of 0 and 255.

    Args:
        text: pairs of (pixels since the last run's end, length), column by column.

    Raises:
        ValueError: not pairs of numbers, nothing drawn, or beyond the picture.
    """
    numbers = [int(part) for part in text.split()]
    if not numbers or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers, expected pairs")
    flat = np.zeros(_SIDE * _SIDE, np.uint8)
    position = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += gap
        if gap < 0 or length < 1 or position + length > flat.size:
            raise ValueError(f"a run of {length} from {position} leaves {_SIDE} x {_SIDE} pixels")
        flat[position : position + length] = 255
        position += length
    return flat.reshape(_SIDE, _SIDE).T


def _drawn(texts: tuple[str, ...]) -> np.ndarray:
    return np.maximum.reduce([decode_runs(text) for text in texts])


class Tbx11kSettings(CohortSettings):
    """What can be chosen of TBX11K.

    Attributes:
        valid_as: the split of the official validation; the labels of the official test were never published.
    """

    valid_as: Literal["val", "test"] = "test"


class Tbx11k(CohortReader):
    """Reads TBX11K."""

    name = "tbx11k"
    Settings = Tbx11kSettings

    def read(self, disk: Disk, settings: Tbx11kSettings) -> CohortTables:
        """TBX11K in our form: tuberculosis by the folder, boxes from the JSON of its boxes where it is there."""
        tables = CohortTables()
        splits = {
            line: settings.valid_as if split == "val" else split
            for split in ("train", "val", "test")
            for line in disk.lines(f"lists/TBX11K_{split}.txt", f"lists/all_{split}.txt") or ()
        }
        boxes = self._boxes(disk, tables)
        kinds: Counter[str] = Counter()
        for path, match in disk.named(r"(.+)\.png"):
            folder = re.search(r"(?:^|/)imgs/(?:extra/)?(.+)/[^/]+$", path)
            if folder is None:
                continue
            kind = folder[1].split("/")[0]
            kinds[kind] += 1
            inner = path[path.index("imgs/") + len("imgs/") :]
            name = re.sub(r"[^\w.-]", "_", f"{folder[1]}_{match[1]}") if "extra/" in path else match[1]
            tables.rows.append(_cells(name, name, path, splits.get(inner)))
            tables.labels[name] = {"tuberculosis": {"tb": 1, "health": 0, "sick": 0}.get(kind)}
            tables.localization += [Localization(name, *found) for found in boxes.get(PurePosixPath(inner).name, ())]
        if not tables.rows:
            raise disk.nothing("imgs/tb/tb0001.png")
        tables.facts.append("Radiographs by folder: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        tables.facts.append("Those of test/ and extra/ have no label; each radiograph counts as a patient of its own.")
        if not splits:
            tables.facts.append("There is no list of a split (lists/TBX11K_train.txt).")
        return tables

    def _boxes(
        self, disk: Disk, tables: CohortTables
    ) -> dict[str, list[tuple[str, str | None, tuple[int, int, int, int]]]]:
        """Boxes by file name, from JSON in the form of COCO."""
        found: defaultdict[str, list[Any]] = defaultdict(list)
        read_by: set[tuple[Any, ...]] = set()
        for path, _ in disk.named(r"(?:TBX11K|all)_\w+\.json"):
            tree: Any = read_json(disk.root / path)
            try:
                files = {one["id"]: PurePosixPath(one["file_name"]).name for one in tree["images"]}
                names = {one["id"]: one["name"] for one in tree["categories"]}
                for one in tree.get("annotations", ()):
                    x, y, width, height = map(float, one["bbox"])
                    box = pixel_box("", x, y, x + width, y + height)
                    theirs = names[one["category_id"]]
                    key = (files[one["image_id"]], theirs, x, y, width, height)
                    if box is not None and key not in read_by:
                        read_by.add(key)
                        edges = (box.row0, box.row1, box.column0, box.column1)
                        found[key[0]].append((theirs, self.data.findings.get(theirs, "tuberculosis"), edges))
            except (KeyError, TypeError, ValueError) as error:
                tables.facts.append(f"{path} has not the form of COCO ({type(error).__name__}: {error}).")
        if not found:
            tables.facts.append("No JSON of boxes was found (annotations/json/TBX11K_train.json).")
        return found


def _cells(name: str, patient: str, path: str, split: str | None) -> dict[str, str | None]:
    return {"study_id": name, "patient_id": patient, "image": path, "modality": "cxr", "split": split}


def _cxr_row(disk: Disk, name: str, split: str, otherwise: str) -> dict[str, str | None]:
    path = next((path for ending in _ENDINGS for path in disk.paths(name + ending)), otherwise)
    return _cells(name, name, path, split)


def _edges(row: dict[str, Any], names: tuple[str, str, str, str]) -> tuple[int, int, int, int] | None:
    try:
        left, top, right, bottom = (float(row.get(name) or "nan") for name in names)
    except ValueError:
        return None
    box = pixel_box("", left, top, right, bottom)
    return None if box is None else (box.row0, box.row1, box.column0, box.column1)


def _shape(text: str) -> tuple[int, int, int, int] | None:
    """The box around a shape: 0 a box, 1 an ellipse in its box, 2 a polygon."""
    numbers = [float(part) for part in text.split()[1:]] if re.fullmatch(r"[012](?: -?[\d.]+)+", text.strip()) else []
    if len(numbers) < 4 or len(numbers) % 2:
        return None
    box = pixel_box("", min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
    return None if box is None else (box.row0, box.row1, box.column0, box.column1)
