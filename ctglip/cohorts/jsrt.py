"""JSRT: 247 radiographs as headerless files, 154 of them with one nodule."""

from __future__ import annotations

import re

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.disk import Disk

_EDGE_MM = 0.175
_IMAGE = re.compile(r"(JPC(?:LN|NN)\d{3})\.IMG", re.IGNORECASE)


class Jsrt(CohortReader):
    """Reads JSRT."""

    name = "jsrt"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """JSRT in our form: names with LN have a nodule, with NN none; where it lies from the clinical table."""
        del settings
        tables = CohortTables()
        details = _details(disk, tables)
        for path, match in disk.named(r"(?i:jpc(?:ln|nn)\d{3}\.(?:img|png|dcm))"):
            name = match[0].split(".")[0].upper()
            fields = details.get(name, {})
            tables.rows.append({
                "study_id": name, "patient_id": name, "image": path, "modality": "cxr", "view": "pa",
                "age": fields.get("age"), "sex": fields.get("sex"),
            })  # fmt: skip
            nodule = "LN" in name
            tables.labels[name] = {"lung_nodule": int(nodule)}
            if nodule and (box := _box(fields)) is not None:
                tables.localization.append(Localization(name, "nodule", "lung_nodule", box))
        if not tables.rows:
            raise disk.nothing("JPCLN001.IMG")
        tables.facts.append("Each radiograph counts as a patient of its own. SCR's outlines are not taken.")
        return tables


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
