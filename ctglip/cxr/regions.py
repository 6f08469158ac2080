"""Boxes of anatomical regions on a radiograph: their names, the files they come in, and boxes from masks.

``regions.yaml`` names the regions (those of Chest ImaGenome, in snake case) and the organs whose findings belong to
each.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.errors import MaskError
from ctglip.files import read_json, read_yaml
from ctglip.gate import reads
from ctglip.types import Region, box_around

COLUMNS = ("region", "row0", "row1", "column0", "column1")


class RegionEntry(Settings):
    """One region of ``regions.yaml``.

    Attributes:
        display: how a sentence names it.
        names: other names in the tables that boxes come in.
        organs: organ dictionary names: findings there belong to this region.
        side: the patient's side, None for midline regions.
        level: words of a report that choose this region within its organs ("apical", "lower lobe").
        findings: abnormalities that choose it likewise.
        inside: regions that it is part of.
    """

    display: str
    names: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()
    side: str | None = None
    level: tuple[str, ...] = Field(default=())
    findings: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()


@functools.cache
def region_entries() -> Mapping[str, RegionEntry]:
    """The regions of ``regions.yaml``, in its order."""
    path = Path(__file__).with_name("regions.yaml")
    return {
        name: validate(RegionEntry, fields, f"{path.name}: {name}")
        for name, fields in read_yaml(path)["regions"].items()
    }


@functools.cache
def _by_name() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, entry in region_entries().items():
        for other in (name, entry.display, *entry.names):
            found.setdefault(_plain(other), name)
    return found


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())


def region_name(text: str) -> str:
    """The region of that name, display name or alias; a name that is not known stays, in snake case."""
    return _by_name().get(_plain(text), _plain(text).replace(" ", "_"))


@reads(MaskError, "bad_regions", f"Give a CSV with the columns {', '.join(COLUMNS)}, or a Chest ImaGenome scene graph.")
def read_regions(path: Path) -> tuple[Region, ...]:
    """Boxes of one radiograph, in its own pixels.

    Args:
        path: CSV with the columns ``region, row0, row1, column0, column1`` (half-open), or the scene graph of
            Chest ImaGenome (JSON; its ``objects`` have ``bbox_name`` and ``original_x1 ... original_y2``).

    Raises:
        MaskError: ``no_regions`` or ``bad_regions``.
    """
    if not path.is_file():
        raise MaskError("There is no file of regions at the path given.", code="no_regions", fix="Check the path.")
    try:
        boxes = _scene_graph(read_json(path)) if path.suffix.lower() == ".json" else _csv(path)
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise MaskError(
            f"The regions cannot be read ({type(error).__name__}).",
            code="bad_regions",
            fix=f"Give a CSV with the columns {', '.join(COLUMNS)}, or a Chest ImaGenome scene graph.",
        ) from error
    return tuple(boxes)


def _csv(path: Path) -> list[Region]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    return [_box(row["region"], *(float(row[edge]) for edge in COLUMNS[1:])) for row in rows]


def _scene_graph(tree: dict[str, Any]) -> list[Region]:
    found = []
    for item in tree["objects"]:
        x1, y1, x2, y2 = (item.get(f"original_{edge}") for edge in ("x1", "y1", "x2", "y2"))
        if x1 is None or (x1 == x2 and y1 == y2):
            continue
        found.append(_box(item["bbox_name"], float(y1), float(y2), float(x1), float(x2)))
    return found


def _box(name: str, row0: float, row1: float, column0: float, column1: float) -> Region:
    edges = (row0, row1, column0, column1)
    if not all(map(math.isfinite, edges)) or row1 <= row0 or column1 <= column0:
        raise ValueError(f"box {edges}")
    return Region(region_name(name), math.floor(row0), math.ceil(row1), math.floor(column0), math.ceil(column1))


def regions_of_masks(labels: np.ndarray, names: Mapping[int, str]) -> tuple[Region, ...]:
    """A box around each organ of a label map ``[row, column]``, named as the region that it is."""
    found = []
    for number in np.unique(labels).tolist():
        if number == 0 or number not in names:
            continue
        name, box = region_of_organ(names[number]), box_around(labels == number)
        if name is not None and box is not None:
            found.append(Region(name, *box))
    return tuple(found)


@functools.cache
def region_of_organ(organ: str) -> str | None:
    """The region that an organ fills as a whole: the first one whose first organ it is; no part of another region that
    words of a report choose."""
    for name, entry in region_entries().items():
        if entry.organs[:1] == (organ,) and not (entry.level and entry.inside):
            return name
    return None
