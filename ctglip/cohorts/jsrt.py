"""JSRT: 247 radiographs as headerless files, 154 of them with one nodule; and SCR's outlines of lungs, heart and
clavicles."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.disk import Disk
from ctglip.cxr.picture import grey, read_picture
from ctglip.errors import CohortError

_EDGE_MM = 0.175
_STRUCTURES = {"right_lung": 1, "left_lung": 2, "heart": 3, "right_clavicle": 4, "left_clavicle": 5}
"""SCR's folders and their number in the numbering ``jsrt_scr``; what overlaps is the later one's."""
NUMBERING = "jsrt_scr"
_IMAGE = re.compile(r"(JPC(?:LN|NN)\d{3})\.IMG", re.IGNORECASE)


class Jsrt(CohortReader):
    """Reads JSRT."""

    name = "jsrt"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """JSRT in our form: names with LN have a nodule, with NN none; where it lies from the clinical table."""
        del settings
        tables = CohortTables()
        details = _details(disk, tables)
        outlines = _outlines(disk, tables)
        for path, match in disk.named(r"(?i:jpc(?:ln|nn)\d{3}\.(?:img|png|dcm))"):
            name = match[0].split(".")[0].upper()
            fields = details.get(name, {})
            tables.rows.append({
                "study_id": name, "patient_id": name, "image": path, "modality": "cxr", "view": "pa",
                "age": fields.get("age"), "sex": fields.get("sex"),
            })  # fmt: skip
            if name in outlines:
                mask = f"masks/{name}.png"
                tables.rows[-1] |= {"masks": mask, "numbering": NUMBERING}
                tables.pictures[mask] = functools.partial(draw_structures, outlines[name])
            nodule = "LN" in name
            tables.labels[name] = {"lung_nodule": int(nodule)}
            if nodule and (box := _box(fields)) is not None:
                tables.localization.append(Localization(name, "nodule", "lung_nodule", box))
        if not tables.rows:
            raise disk.nothing("JPCLN001.IMG")
        tables.facts.append("Each radiograph counts as a patient of its own.")
        return tables


def _outlines(disk: Disk, tables: CohortTables) -> dict[str, dict[int, Path]]:
    """SCR's masks by radiograph: number of the structure -> file. Those whose lungs lie on each other's side, as in a
    mirrored copy, are left out."""
    found: dict[str, dict[int, Path]] = {}
    for path, match in disk.named(r"(?i:(jpc(?:ln|nn)\d{3})\.(?:gif|png|bmp))"):
        folder = path.split("/")[-2].lower().replace(" ", "_") if "/" in path else ""
        if folder in _STRUCTURES:
            found.setdefault(match[1].upper(), {}).setdefault(_STRUCTURES[folder], disk.root / path)
    for name in sorted(found):
        fault = _fault_of(found[name])
        if fault:
            del found[name]
            tables.exclude(f"{name} (SCR)", "bad_outlines", fault)
    if found:
        some = sum(len(files) < len(_STRUCTURES) for files in found.values())
        tables.facts.append(
            f"{len(found)} radiographs have SCR's outlines, {some} of them not of all five structures. The patient's "
            "right is on the picture's left; a clavicle covers the lung behind it."
        )
    else:
        tables.facts.append("There are no outlines of SCR (fold1/masks/left lung/JPCLN001.gif).")
    return found


def _fault_of(files: dict[int, Path]) -> str | None:
    """What is wrong with a radiograph's outlines."""
    masks: dict[int, np.ndarray] = {}
    for number, path in files.items():
        try:
            masks[number] = _inside(path)
        except CohortError as error:
            return error.message
    shapes = {one.shape for one in masks.values()}
    if len(shapes) > 1 or any(rows != columns for rows, columns in shapes):
        sizes = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        return f"Pictures of {sizes} pixels are no JSRT radiograph's."
    centres = {number: np.argwhere(one)[:, 1].mean() for number, one in masks.items() if one.any()}
    if 1 in centres and 2 in centres and centres[1] >= centres[2]:
        return "The right lung lies on the right of the picture: it is mirrored, or the folders are exchanged."
    return None if len(centres) == len(masks) else "An outline is empty."


def _inside(path: Path) -> np.ndarray:
    """The bright side of a picture, bool ``[row, column]``."""
    pixels, _ = grey(read_picture(path, CohortError, path.name))
    return pixels > pixels.max(initial=0) / 2


def draw_structures(files: dict[int, Path]) -> np.ndarray:
    """One picture of the structures' numbers, uint8 ``[row, column]``."""
    masks = {number: _inside(path) for number, path in sorted(files.items())}
    picture = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for number, inside in masks.items():
        picture[inside] = number
    return picture


def _details(disk: Disk, tables: CohortTables) -> dict[str, CohortCells]:
    """Age, sex, size and place by radiograph, from lines that begin with its name."""
    found: dict[str, CohortCells] = {}
    odd = 0
    for file in ("CLNDAT_EN.txt", "CNNDAT_EN.TXT", "CNNDAT_EN.txt"):
        for line in disk.lines(file) or ():
            fields = [field.strip() for field in re.split(r"\t+", line) if field.strip()]
            match = _IMAGE.match(line)
            if match is None:
                continue
            sex = next((field for field in fields if field.lower() in ("male", "female")), None)
            at = fields.index(sex) if sex else -1
            cells: CohortCells = {"sex": sex[0].upper() if sex else None}
            if at >= 1 and fields[at - 1].isdigit():
                cells["age"] = fields[at - 1]
            if at >= 2 and re.fullmatch(r"\d+(?:\.\d+)?", fields[at - 2]):
                cells["size"] = fields[at - 2]
            if at >= 0 and all(field.isdigit() for field in fields[at + 1 : at + 3]) and len(fields) > at + 2:
                cells |= {"x": fields[at + 1], "y": fields[at + 2]}
            odd += sex is None
            found[match[1].upper()] = cells
    if odd:
        tables.facts.append(f"{odd} lines of the clinical tables could not be understood.")
    if not found:
        tables.facts.append("There is no clinical table (CLNDAT_EN.txt): no age, sex or place of the nodule.")
    return found


def _box(fields: CohortCells) -> tuple[int, int, int, int] | None:
    """A box as wide as the nodule around its centre, in pixels of 0.175 mm."""
    x, y, size = (fields.get(name) for name in ("x", "y", "size"))
    if x is None or y is None or size is None:
        return None
    half = max(1, round(float(size) / _EDGE_MM / 2))
    return int(y) - half, int(y) + half, int(x) - half, int(x) + half
